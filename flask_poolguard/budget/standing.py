"""What a budget has left, as any process of this user sees it."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable
from dataclasses import dataclass

from .shared_file import BudgetFile, file_name


@dataclass(frozen=True, slots=True)
class PlaceHolder:
    """A process that takes part in a budget.

    :ivar app: "" if it is not known.
    :ivar places: how many it has.
    :ivar wishes: whether it waits for one.
    """

    pid: int
    app: str
    places: int
    wishes: bool

    def __str__(self) -> str:
        return f"{self.places} by worker {self.pid} ({self.app or 'unknown'})"


@dataclass(frozen=True, slots=True)
class Standing:
    """A budget on this host.

    :ivar limit: how many connections its processes may have together.
    :ivar holders: those with the most places first.
    """

    limit: int
    holders: tuple[PlaceHolder, ...]

    @property
    def taken(self) -> int:
        """How many places are taken; a worker's first is, open or not."""
        return sum(each.places for each in self.holders)

    @property
    def wishing(self) -> int:
        """How many processes wait for a place."""
        return sum(each.wishes for each in self.holders)

    def __str__(self) -> str:
        named = ", ".join(str(each) for each in self.holders if each.places)
        text = f"{self.taken} of {self.limit} places of this host are taken"
        return f"{text}: {named}" if named else text


def standing_in(file: BudgetFile, limit: int) -> Standing:
    """Return how a budget stands, by its file."""
    places, rows = file.holders(limit), file.rows()
    found = [
        PlaceHolder(
            pid=pid,
            app=rows[pid].app if pid in rows else "",
            places=places.get(pid, 0),
            wishes=pid in rows and rows[pid].asked_at > 0,
        )
        for pid in {*places, *rows}
    ]
    return Standing(limit, tuple(sorted(found, key=lambda each: -each.places)))


def find_standing(
    state_dir: str | None, parts: Iterable[t.Any], limit: int
) -> Standing | None:
    """Return how a budget stands on this host; None if no process has used it, or its
    file cannot be trusted.

    :param state_dir: ``POOLGUARD_STATE_DIR``.
    :param parts: see :func:`.budget.find_budget`.
    :param limit: ``POOLGUARD_BUDGET``.
    """
    file = BudgetFile.find(state_dir, file_name(parts))
    return None if file is None else standing_in(file, limit)
