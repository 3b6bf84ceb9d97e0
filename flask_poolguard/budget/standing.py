"""What a budget has left, as any process of this user sees it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .shared_file import BudgetFile, Row


@dataclass(frozen=True, slots=True)
class PlaceHolder:
    """A process that has places of a budget.

    :ivar pid: 0 for those of other containers, all of them.
    :ivar app: "" if it is not known.
    """

    pid: int
    app: str
    places: int

    def __str__(self) -> str:
        if not self.pid:
            return f"{self.places} by workers in other containers"
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
        """How many places are taken; a worker's first is, in use or not."""
        return sum(each.places for each in self.holders)

    def __str__(self) -> str:
        text = f"{self.taken} of {self.limit} places of this host are taken"
        return f"{text}: {', '.join(map(str, self.holders))}" if self.holders else text


def standing_in(
    file: BudgetFile, limit: int, own: tuple[int, str] | None = None
) -> Standing:
    """Return how a budget stands, by its file.

    :param own: how many places this process has, and its app.
    """
    rows: dict[int, Row] = dict(file.rows().values())
    found = [
        PlaceHolder(pid, rows[pid].app if pid and pid in rows else "", places)
        for pid, places in file.holders(limit).items()
    ]
    if own is not None and own[0]:
        found.append(PlaceHolder(os.getpid(), own[1], own[0]))
    return Standing(limit, tuple(sorted(found, key=lambda each: -each.places)))
