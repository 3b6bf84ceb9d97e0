"""How each worker used a bind's pool, for the other rules."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...engines import Guarded
from ...state.status import PoolStatus, Usage, Worker
from ...tracking.sizing import most_usable, peak_of, smallest, without_deadlock
from ..estimate import Asked, Estimate, estimate
from ..evidence import Evidence
from ..phrases import busiest, named_workers, requests
from ..recent import NOW_SECONDS, recent


@dataclass(frozen=True, slots=True)
class Use:
    """One worker's pool of a bind.

    :ivar age_seconds: since the worker began to count.
    """

    pid: int
    age_seconds: float
    pool: PoolStatus

    @property
    def usage(self) -> Usage:
        """What the pool was asked for."""
        return self.pool.usage

    @property
    def limit(self) -> int | None:
        """The most connections it can have; None without a limit, or unknown."""
        return self.pool.limit

    @property
    def asked(self) -> int:
        """How often a connection was asked for, whether there was one or not."""
        return sum(self.usage.demand.values())

    @property
    def peak(self) -> int:
        """The most connections that were out or wanted at once.

        Above ``usage.EXACT`` it is the upper bound of a bucket.
        """
        return max(peak_of(self.usage.demand), self.pool.peak_checked_out or 0)

    @property
    def could_use(self) -> int:
        """The most that its threads could use at once; 0 if none was seen.

        Code outside a request can hold several connections, so what was really out or
        wanted counts if it is more.
        """
        return most_usable(self.usage.most_threads, self.usage.nesting, self.peak)

    @property
    def deadlock_free_from(self) -> int:
        """How many connections it takes so that the threads cannot block each other.

        With all threads one short of what they need there must be one more; as
        HikariCP's "About Pool Sizing" has it: threads × (connections - 1) + 1.
        """
        return without_deadlock(self.usage.most_threads, self.usage.nesting)

    @property
    def of_worker(self) -> Asked:
        """What it was asked for, and in which time."""
        return Asked(self.usage, self.age_seconds)

    @property
    def is_mature(self) -> bool:
        """Tell whether it has seen enough to be called too big."""
        return self.of_worker.is_mature

    def share_needs(self, share: float) -> int:
        """Return the number of connections that all but this share of checkouts, at
        most, could do with.
        """
        return smallest(self.usage.demand, share)


def estimate_of(uses: Iterable[Use]) -> Estimate:
    """Return what a bind's pools need, as ``flask pool advise`` works it out."""
    return estimate(use.of_worker for use in uses)


def uses_of(evidence: Evidence, guarded: Guarded) -> list[Use]:
    """Return what each worker did with a bind's pool."""
    now = time.time()
    return [
        Use(worker.pid, now - worker.process.started_at, pool)
        for worker, pool in pools_of(evidence.workers, guarded.bind)
    ]


def pools_of(
    workers: Iterable[Worker], bind: str
) -> Iterator[tuple[Worker, PoolStatus]]:
    """Yield the pools of a bind, each with its worker."""
    for worker in workers:
        for pool in worker.pools:
            if pool.bind == bind:
                yield worker, pool


def who_waits(evidence: Evidence, binds: Iterable[str]) -> str:
    """Return how many requests wait for a connection of these binds, and where most of
    the connections are; "" if none waits.
    """
    pools = [pool for bind in binds for _, pool in pools_of(evidence.workers, bind)]
    unserved = sum(pool.unserved or 0 for pool in pools)
    if not unserved:
        return ""
    where = busiest(each for pool in pools for each in pool.holders)
    return f", {requests(unserved)}{f'; {where}' if where else ''}"


def fails_now(evidence: Evidence, binds: Iterable[str]) -> bool:
    """Tell whether requests wait for a connection of these binds, or failed within the
    last minute because the server gave none.
    """
    pools = [pool for bind in binds for _, pool in pools_of(evidence.workers, bind)]
    lately = recent(pools, "unavailable", NOW_SECONDS)
    return bool(lately.failed) or any(pool.unserved for pool in pools)


def in_worker(use: Use, all_such: Sequence[Use]) -> str:
    """Say where it was seen, and in which other workers as well."""
    others = {each.pid for each in all_such} - {use.pid}
    likewise = f", and likewise {named_workers(others)}" if others else ""
    return f"worker {use.pid}{likewise}"
