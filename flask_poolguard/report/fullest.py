"""What has the fewest connections left for those who want one: a pool, or a budget."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..budget import Standing, find_standing_in
from ..state.status import PoolStatus, Worker
from ..tracking.sizing import most_usable, peak_of
from .phrases import Bind, key_of


@dataclass(frozen=True, slots=True)
class Fullness:
    """How much of a pool or budget is used.

    :ivar name: of the pool or budget.
    :ivar out: connections that are in use.
    :ivar can_wait: whether it has fewer connections than its threads can hold.
        Otherwise all may be out and no thread waits, as in a sync worker with one of
        each.
    """

    name: str
    out: int
    limit: int
    can_wait: bool

    @property
    def percent(self) -> float:
        """How much of it is used, rounded."""
        return round(100 * self.out / self.limit, 1)

    def __str__(self) -> str:
        return f"{self.name} is {self.percent:g}% used ({self.out} of {self.limit})"


@dataclass(frozen=True, slots=True)
class BudgetInUse:
    """A budget, and the pools that have it.

    :ivar limit: of connections that its processes may have together.
    :ivar pools: those of the workers that are known, each with its worker.
    """

    standing: Standing
    limit: int
    pools: list[tuple[Worker, PoolStatus]] = field(default_factory=list)

    @property
    def fullness(self) -> Fullness:
        """How much of it is used by these pools; what is idle others may have."""
        pools = [pool for _, pool in self.pools]
        usable = [_most_usable(pool, pool.usage.most_threads) for pool in pools]
        return Fullness(
            key_of(Bind(pools[0].bind, None), "budget"),
            sum(pool.checked_out or 0 for pool in pools),
            self.limit,
            None in usable or sum(each or 0 for each in usable) > self.limit,
        )


def budgets_of(workers: Sequence[Worker]) -> dict[str, BudgetInUse]:
    """Return the budgets that workers have part in, by the names of their files.

    Only looks at the files: no place is taken, and none is waited for.
    """
    found: dict[str, BudgetInUse] = {}
    for worker in workers:
        for pool in worker.pools:
            name = pool.budget_file
            if name and name not in found:
                standing = _standing(worker, name)
                if standing is not None and standing.limit:
                    found[name] = BudgetInUse(standing, standing.limit)
            if name in found:
                found[name].pools.append((worker, pool))
    return found


def by_bind(budgets: Mapping[str, BudgetInUse]) -> dict[str, Standing]:
    """Return how the budgets stand that binds have."""
    return {
        pool.bind: each.standing for each in budgets.values() for _, pool in each.pools
    }


def fullest(
    workers: Iterable[Worker], budgets: Mapping[str, BudgetInUse]
) -> Fullness | None:
    """Return what is the worst for those who want a connection; None if no pool's
    figures are known.
    """
    found = [*_of_pools(workers), *(each.fullness for each in budgets.values())]
    return max(found, key=lambda each: (each.can_wait, each.percent), default=None)


def _of_pools(workers: Iterable[Worker]) -> Iterator[Fullness]:
    for worker in workers:
        for pool in worker.pools:
            if pool.limit and pool.checked_out is not None:
                most = _most_usable(pool, pool.usage.threads)
                yield Fullness(
                    f"pool {pool.bind} of worker {worker.pid}",
                    pool.checked_out,
                    pool.limit,
                    most is None or most > pool.limit,
                )


def _most_usable(pool: PoolStatus, threads: int) -> int | None:
    """Return how many connections so many threads can hold; None for 0, as before a
    worker's first second is over: that is not known.
    """
    usage = pool.usage
    if threads == 0:
        return None
    return most_usable(threads, usage.nesting, peak_of(usage.demand))


def _standing(worker: Worker, name: str) -> Standing | None:
    """Find a budget in the folder of the worker's state file, or in those of all."""
    for folder in (os.path.dirname(worker.path), None):
        standing = find_standing_in(folder, name)
        if standing is not None and standing.holders:
            return standing
    return None
