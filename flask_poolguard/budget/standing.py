"""What a budget has left, as any process of this user sees it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from .allowance import MOST
from .auto_limit import NOT_ASKED
from .layout import Row
from .shared_file import BudgetFile


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

    :ivar limit: how many connections its processes may have together; None if the
        server is to tell, and does not.
    :ivar holders: those with the most places first.
    :ivar told: how the server's limits made the number, or why they made none; "" for
        one that was set.
    """

    limit: int | None
    holders: tuple[PlaceHolder, ...]
    told: str = ""

    @property
    def taken(self) -> int:
        """How many places are taken; a worker's first is, in use or not."""
        return sum(each.places for each in self.holders)

    def __str__(self) -> str:
        if self.limit is None:
            return f"auto, and none is kept: {self.told}"
        text = f"{self.taken} of {self.limit} places of this host are taken"
        if self.holders:
            text = f"{text}: {', '.join(map(str, self.holders))}"
        return f"{text} (auto: {self.told})" if self.told else text

    @property
    def is_used_up(self) -> bool:
        """Whether no place is left."""
        return self.limit is not None and self.taken >= self.limit


def standing_by_server(
    file: BudgetFile, own: tuple[int, str] | None = None
) -> Standing:
    """Return how a budget stands whose number the server allows.

    :param own: how many places this process has, and its app.
    """
    allowed = file.allowed()
    limits = (row.limit for _, row in file.rows().values())
    # Of a bind that shares it, a smaller one may be set.
    number = min(allowed.number, max(limits, default=MOST))
    standing = standing_in(file, MOST if number < 1 else number, own)
    if number < 1:
        return replace(standing, limit=None, told=allowed.told or NOT_ASKED)
    return replace(standing, told=allowed.told)


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
