"""How many connections a pool needed: figures for choosing its size."""

from __future__ import annotations

import bisect
import typing as t

from ..pool import find_blockers
from ..state.status import Usage
from .durations import DurationCounter

# Upper bounds of the buckets of concurrent use: single numbers as far as sizes are
# chosen one by one, then eight to the doubling. What is above the last counts there.
EXACT: t.Final = 64
BUCKETS: t.Final[tuple[int, ...]] = (
    *range(1, EXACT + 1),
    *(round(EXACT * 2 ** (step / 8)) for step in range(1, 33)),
)


def bucket_of(connections: int) -> int:
    """Return the index of the bucket that counts so many connections in use."""
    if connections <= EXACT:
        return max(connections - 1, 0)
    return min(bisect.bisect_left(BUCKETS, connections), len(BUCKETS) - 1)


class UsageCounter:
    """Counts what one pool was asked for since the worker began.

    Changed by any thread without a lock, so that of a great many checkouts one may be
    missing in ``demand``; the waits are changed under the tracker's lock.

    The names are those of :class:`flask_poolguard.state.status.Usage`.

    :ivar demand: how often that many connections were out or wanted, by bucket.
    :ivar waited: seconds in all, as ``longest_wait`` at most, without connecting.
    :ivar is_shown: the state file shows all that was counted, but for ``threads`` and
        the ``use`` of ``durations``.
    """

    __slots__ = (
        "__weakref__",
        "blockers",
        "demand",
        "durations",
        "inherited",
        "is_shown",
        "longest_wait",
        "nesting",
        "outdated",
        "renewed",
        "threads",
        "threads_shown",
        "waited",
        "waits",
    )

    def __init__(self) -> None:
        self.demand = [0] * len(BUCKETS)
        self.durations = DurationCounter()
        self.nesting = self.threads = self.threads_shown = self.inherited = 0
        self.waits = 0
        self.waited = self.longest_wait = 0.0
        self.blockers = self.renewed = self.outdated = 0
        self.is_shown = False

    def took(self, out: int) -> None:
        """Count a checkout.

        :param out: how many connections are out or waited for now, with this one.
        """
        self.demand[out - 1 if 0 < out <= EXACT else bucket_of(out)] += 1
        self.is_shown = False

    def wanted(self, number: int) -> None:
        """Count a checkout for which a connection is tested or opened.

        It is shown once it is done: until then the next checkout is the first one.

        :param number: how many connections are out or wanted, with this one.
        """
        self.durations.slow += 1
        self.demand[bucket_of(number)] += 1

    def nested(self, connections: int) -> None:
        """Note that one request, command or task has or wants so many at once."""
        self.nesting = max(self.nesting, connections)
        self.is_shown = False

    def has_news(self) -> bool:
        """Tell whether the state file does not show all that was counted."""
        return (
            not self.is_shown
            or self.threads != self.threads_shown
            or self.durations.uses != self.durations.uses_shown
        )

    def note_shown(self) -> None:
        """Note that the state file is about to show all."""
        self.is_shown = True
        self.threads_shown = self.threads
        self.durations.uses_shown = self.durations.uses

    def saw_threads(self, alive: int) -> None:
        """Note how many threads live now that could use the pool."""
        # Not ``is_shown``: the checkout for which a mark is made looks at that.
        if alive > self.threads:
            self.threads = alive

    def saw_outdated(self, connections: int) -> None:
        """Note how many connections are older than the last renewal now."""
        if connections != self.outdated:
            self.outdated = connections
            self.is_shown = False

    def look_for_blockers(self, connection: t.Any) -> None:
        """Note what of this driver's connection blocks all greenlets of a worker."""
        found = self.blockers | find_blockers(connection)
        if found != self.blockers:
            self.blockers = found
            self.is_shown = False

    def began_waiting(self, wanted: int) -> None:
        """Count a checkout that has to wait.

        :param wanted: how many connections are out or waited for, with this one.
        """
        self.waits += 1
        self.durations.slow += 1
        self.demand[wanted - 1 if 0 < wanted <= EXACT else bucket_of(wanted)] += 1

    def waited_for(self, seconds: float, in_all: float) -> None:
        """Note how long a thread waited, served or not.

        :param in_all: with what the same checkout had waited before.
        """
        self.waited += seconds
        self.longest_wait = max(self.longest_wait, in_all)
        self.is_shown = False

    def status(self) -> Usage:
        """Return what was counted so far."""
        demand = zip(BUCKETS, self.demand, strict=True)
        return Usage(
            nesting=self.nesting,
            threads=self.threads,
            inherited=self.inherited,
            waits=self.waits,
            waited_seconds=round(self.waited, 3),
            longest_wait_seconds=round(self.longest_wait, 3),
            demand={bound: count for bound, count in demand if count},
            blockers=self.blockers,
            renewed=self.renewed,
            outdated=self.outdated,
        )
