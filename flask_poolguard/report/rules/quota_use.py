"""How many connections of each quota the workers have, and may open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ...databases.quotas import Quota, quotas_of
from ...engines import Guarded
from ...state.status import Worker
from ...tracking.sizing import most_usable, peak_of
from ..evidence import AnsweringServer, Evidence
from ..host_budget import limits_of
from ..phrases import workers
from ..session_counts import count_ours
from .quota_pools import Counts, configured_pools, counting, limits_of_pools

# Pools by bind and limit, which is None for no limit.
Pools = Counter[tuple[str, int | None]]


@dataclass(frozen=True, slots=True)
class Reach:
    """What the threads that answer requests can use of a quota at once.

    More can be used outside of these, in background threads, and by checkouts within
    others that have not been seen yet.

    :ivar threads: of all workers that count.
    :ivar connections: one per thread and bind, or more where more were used at once.
    """

    threads: int
    connections: int
    binds: int

    @property
    def terms(self) -> str:
        """The same in words."""
        their = (
            "their 1 thread" if self.threads == 1 else f"their {self.threads} threads"
        )
        if self.connections > self.threads * self.binds:
            per = "by what they have used so far"
        else:
            per = "one per thread" + (" and bind" if self.binds > 1 else "")
        return f"{their} can use {self.connections} at once, {per}"


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """A quota of a server, and this app's workers there; None is unknown.

    :ivar name: of what has the limit, for a sentence.
    :ivar guarded: one of the binds that lead there.
    :ivar is_proxied: whether a pooler stands before the server.
    :ivar ours: connections in the pools of the live workers.
    :ivar others: connections that others have, if all goes by the plan.
    :ivar pools: those of the workers, or those planned, on all hosts.
    :ivar to_open: how many more the pools on this host may open; None also without a
        limit, or where no worker is known to lead there.
    :ivar reach: what the threads can use at once.
    :ivar budgets: limits of the budgets that its binds have; None if a bind has none.
    :ivar hosts: on which the app runs, each with budgets of its own.
    """

    quota: Quota
    name: str
    guarded: Guarded
    is_proxied: bool
    ours: int | None
    others: int | None
    pools: Pools
    to_open: int | None
    reach: Reach | None
    budgets: Mapping[str, int] | None = None
    hosts: int = 1

    @property
    def budget(self) -> int | None:
        """Return what the budgets allow on all hosts; None if a bind has none."""
        if self.budgets is None:
            return None
        return sum(self.budgets.values()) * self.hosts

    @property
    def is_out_of_reach(self) -> bool:
        """Tell whether the workers' threads cannot use as many as there are."""
        room = self.quota.limit - (self.others or 0)
        return self.reach is not None and self.reach.connections <= room

    @property
    def is_enough(self) -> bool:
        """Tell whether what is free is known to suffice for the workers on this
        host.
        """
        wanted, free = self.to_open, self.quota.free
        return wanted is not None and free is not None and wanted <= free


def quota_uses(evidence: Evidence) -> Iterator[QuotaUse]:
    """Yield all that limits what this app's workers may open."""
    plan = evidence.plan
    for server in evidence.answering_servers():
        views = {each.bind: evidence.view(each) for each in server.binds}
        for quota in quotas_of(views):
            counts = counting(server, quota)
            ours = _ours(evidence, server, counts)
            budgets = _budgets(evidence, quota)
            yield QuotaUse(
                quota=quota,
                name=f"{quota.name} {'at ' if quota.owner else ''}{server.name}",
                guarded=next(each for each in server.binds if each.bind in quota.binds),
                is_proxied=server.view.is_proxied,
                ours=ours,
                others=quota.others(ours, plan.hosts, is_planned=not plan.is_none),
                pools=_pools(evidence, counts),
                to_open=_to_open(evidence, counts, ours, budgets),
                reach=_reach(evidence, counts),
                budgets=budgets,
                hosts=plan.hosts,
            )


def _budgets(evidence: Evidence, quota: Quota) -> dict[str, int] | None:
    if not quota.binds or not all(bind in evidence.budgets for bind in quota.binds):
        return None
    return limits_of(evidence.engines, evidence.budgets, quota.binds)


def number_of_workers(evidence: Evidence) -> int:
    """Return how many workers there are, or are planned, on all hosts."""
    plan = evidence.plan
    of_one_host = len(evidence.workers) if plan.workers is None else plan.workers
    return of_one_host * plan.hosts


def describe_plan(evidence: Evidence, binds: Collection[str]) -> str:
    """Return how many connections of binds the workers, or those planned, may open."""
    return describe_pools(evidence, _pools(evidence, lambda name, _: name in binds))


def describe_pools(evidence: Evidence, pools: Pools, reach: Reach | None = None) -> str:
    """Return how many connections pools may have, and of what that is the sum."""
    total = sum(count * (limit or 0) for (_, limit), count in pools.items())
    is_unlimited = any(limit is None for _, limit in pools)
    terms = " + ".join(
        f"{count} × {'unlimited' if limit is None else limit} ({bind})"
        for (bind, limit), count in pools.items()
    )
    number = "any number of" if is_unlimited else total
    return (
        f"{workers(number_of_workers(evidence))} may open {number} connections"
        f"{f' ({reach.terms})' if reach else ''}{f': {terms}' if terms else ''}"
    )


def _ours(evidence: Evidence, server: AnsweringServer, counts: Counts) -> int | None:
    """Count the workers' sessions.

    A parent's are others', because its pool is not among those that are to fit in.
    """
    pools = [
        pool
        for worker in evidence.workers
        for pool in worker.pools
        if counts(pool.bind, pool.url)
    ]
    views = (evidence.view(each) for each in server.binds)
    known = [view for view in views if view is not None]
    return count_ours(evidence.our_ids(pools), known)


def _to_open(
    evidence: Evidence,
    counts: Counts,
    ours: int | None,
    budgets: Mapping[str, int] | None,
) -> int | None:
    limits = [
        limit
        for worker in evidence.workers
        for bind, url, limit in limits_of_pools(worker, evidence)
        if counts(bind, url)
    ]
    if not limits or ours is None:
        return None
    may_have = sum(limit or 0 for limit in limits) if all(limits) else None
    if budgets is not None:
        together = sum(budgets.values())
        may_have = together if may_have is None else min(may_have, together)
    return None if may_have is None else max(may_have - ours, 0)


def _pools(evidence: Evidence, counts: Counts) -> Pools:
    """Return the pools that count; those of which the limit is unknown are left out."""
    plan = evidence.plan
    pools: Pools = Counter()
    if plan.workers is None:
        for worker in evidence.workers:
            for bind, url, limit in limits_of_pools(worker, evidence):
                if counts(bind, url) and limit != 0:
                    pools[bind, limit] += plan.hosts
        return pools
    for bind, url, limit in configured_pools(evidence):
        if counts(bind, url):
            pools[bind, limit] += number_of_workers(evidence)
    return pools


def _reach(evidence: Evidence, counts: Counts) -> Reach | None:
    """Return what threads can use at once, of all workers or of those planned.

    Those planned are taken to have the threads of those that run, if these agree.
    """
    plan, found = evidence.plan, []
    for worker in evidence.workers:
        own = list(_used_at_once(worker, evidence, counts))
        if own and worker.process.threads is None:
            return None
        if own:
            found.append((worker.process.threads or 0, own))
    if not found:
        return None
    times = plan.hosts
    if plan.workers is not None:
        if len({threads for threads, _ in found}) > 1:
            return None
        found = [max(found, key=lambda each: sum(each[1]))]
        times = number_of_workers(evidence)
    return Reach(
        threads=times * sum(threads for threads, _ in found),
        connections=times * sum(sum(own) for _, own in found),
        binds=max(len(own) for _, own in found),
    )


def _used_at_once(worker: Worker, evidence: Evidence, counts: Counts) -> Iterator[int]:
    """Yield how many connections a worker's threads can use of each pool."""
    threads = worker.process.threads or 0
    usages = {pool.bind: pool for pool in worker.pools}
    for bind, url, limit in limits_of_pools(worker, evidence):
        if counts(bind, url) and limit != 0:
            pool = usages.get(bind)
            most = threads
            if pool is not None:
                peak = max(peak_of(pool.usage.demand), pool.peak_checked_out or 0)
                most = most_usable(threads, pool.usage.nesting, peak)
            yield most if limit is None else min(most, limit)
