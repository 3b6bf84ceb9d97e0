"""What a pool counts that only grows, and the sum of that over workers."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, fields, is_dataclass, replace

from .histogram import Durations
from .status import Closed, PoolStatus

# What is above cannot be read again (``plain.load``).
_MOST: t.Final = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTotals:
    """What pools of one bind have counted since their workers began; None is unknown.

    The names are those of :class:`.status.PoolStatus`, and ``waits`` that of
    :class:`.status.Usage`.
    """

    bind: str
    checkouts: int | None = None
    connects: int | None = None
    waits: int | None = None
    timeouts: int | None = None
    deadlocks: int | None = None
    unavailable: int | None = None
    refused_writes: int | None = None
    leaks: int | None = None
    closed: Closed | None = None
    durations: Durations = field(default_factory=Durations)

    def plus(self, other: PoolTotals) -> PoolTotals:
        """Return the sum of two, under the name of this one."""
        return t.cast(PoolTotals, _sum(self, replace(other, bind=self.bind)))


def totals_of(pool: PoolStatus) -> PoolTotals:
    """Return what a pool of one worker has counted."""
    return PoolTotals(
        bind=pool.bind,
        checkouts=pool.checkouts,
        connects=pool.connects,
        waits=None if pool.waiting is None else pool.usage.waits,
        timeouts=pool.timeouts,
        deadlocks=None if pool.timeouts is None else pool.deadlocks,
        unavailable=pool.unavailable,
        refused_writes=pool.refused_writes,
        leaks=pool.leaks,
        closed=pool.closed,
        durations=pool.durations,
    )


def _sum(one: t.Any, other: t.Any) -> t.Any:
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, str):
        return one
    if isinstance(one, Durations):
        return one.plus(other)
    if is_dataclass(one):
        changes = {
            each.name: _sum(getattr(one, each.name), getattr(other, each.name))
            for each in fields(one)
        }
        return replace(t.cast(t.Any, one), **changes)
    return min(one + other, _MOST)
