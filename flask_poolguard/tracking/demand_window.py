"""What a pool was asked for lately, as differences of sums since the worker began."""

from __future__ import annotations

import typing as t
from collections import deque

from .sizing import SHARE, Demand, checkouts_needed

# Seconds between two snapshots of the demand, and how many are kept: one hour.
_SLICE: t.Final = 60.0
_SLICES: t.Final = 60


class Part(t.NamedTuple):
    """What was asked for within some seconds."""

    demand: Demand
    seconds: float


class DemandWindow:
    """What was asked for lately, as the difference of sums since the beginning."""

    def __init__(self, now: float) -> None:
        self._sums: deque[tuple[float, Demand]] = deque([(now, {})], maxlen=_SLICES)

    def until(self, now: float, demand: Demand, seconds: float) -> Part:
        """Return what was asked for within so many seconds, or within as many more as
        it takes to judge, up to an hour.
        """
        if now - self._sums[-1][0] >= _SLICE:
            self._sums.append((now, demand))
        part = Part({}, 0.0)
        for then, before in reversed(self._sums):
            part = Part(less(demand, before), now - then)
            is_enough = sum(part.demand.values()) >= checkouts_needed(SHARE)
            if part.seconds >= seconds and is_enough:
                break
        return part


def less(demand: Demand, before: Demand) -> Demand:
    """Return what was asked for since an earlier sum."""
    # Counted without a lock: of a great many one may be missing.
    return {
        bound: count - before.get(bound, 0)
        for bound, count in demand.items()
        if count > before.get(bound, 0)
    }
