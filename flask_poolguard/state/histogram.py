"""Durations counted in buckets of fixed bounds, at a fixed price."""

from __future__ import annotations

import bisect
import typing as t
from dataclasses import dataclass

# Upper bounds in seconds, those included; what is above the last has a bucket of its
# own. Up to 10 s those that OpenTelemetry's conventions give for the duration of a
# database client's operations, then the pool's own time limits (30 s for
# ``pool_timeout``, 60 s for POOLGUARD_HELD_WARNING):
# https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
BOUNDS: t.Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
BUCKETS: t.Final = len(BOUNDS) + 1
SHORTEST: t.Final = BOUNDS[0]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations fell between which bounds; the sum of all in seconds.

    :ivar counts: of each bucket alone, the one above the last bound included; empty
        before the first duration.
    :raises ValueError: there are more or fewer buckets.
    """

    counts: tuple[int, ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if len(self.counts) not in (0, BUCKETS):
            raise ValueError(self.counts)

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.counts)

    def plus(self, other: Histogram) -> Histogram:
        """Return the sum of two."""
        if not (self.counts and other.counts):
            return self if self.counts else other
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram(
            tuple(one + two for one, two in pairs),
            round(self.seconds + other.seconds, 6),
        )

    def cumulative(self) -> list[int]:
        """Return of each bound, and of infinity, how many durations are not longer."""
        counts, so_far = [], 0
        for count in self.counts or (0,) * BUCKETS:
            so_far += count
            counts.append(so_far)
        return counts


@dataclass(frozen=True, slots=True)
class Durations:
    """How long what one pool does took; None is unknown.

    :ivar create: connects that gave a connection.
    :ivar wait: checkouts, from asking to getting a connection; those without one do
        not count.
    :ivar use: connections that came back, since they were taken.
    """

    create: Histogram | None = None
    wait: Histogram | None = None
    use: Histogram | None = None

    def plus(self, other: Durations) -> Durations:
        """Return the sum of two; what only one of them knows is that one's."""
        return Durations(
            _sum(self.create, other.create),
            _sum(self.wait, other.wait),
            _sum(self.use, other.use),
        )


def _sum(one: Histogram | None, other: Histogram | None) -> Histogram | None:
    if one is None or other is None:
        return other if one is None else one
    return one.plus(other)


class HistogramCounter:
    """Counts durations; of a great many in several threads one may be missing.

    :ivar counts: by bucket.
    :ivar seconds: the sum of all.
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def so_far(self, shortest: int = 0) -> Histogram:
        """Return what was counted.

        :param shortest: how many took less than the first bound besides, next to no
            time.
        """
        first, *others = self.counts
        counts = (first + shortest, *others)
        return Histogram(counts if any(counts) else (), round(self.seconds, 6))
