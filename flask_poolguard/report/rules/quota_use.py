"""How many connections of each quota the workers have, and may open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from sqlalchemy.engine import URL, make_url

from ...databases.quotas import Quota, quotas_of
from ...engines import Guarded
from ...state.status import Worker
from ...urls import server_key
from ..evidence import AnsweringServer, Evidence
from ..phrases import workers
from ..session_counts import count_ours
from ..sizing import most_usable, peak_of

# Pools by bind and limit, which is None for no limit.
Pools = Counter[tuple[str, int | None]]

# Tells by bind and URL whether a pool's connections count.
_Counts = Callable[[str, str], bool]


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
    :ivar budget: what the budgets of all its binds allow on all hosts; None if one has
        none.
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
    budget: int | None = None

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
            counts = _counts(server, quota)
            ours = _ours(evidence, server, counts)
            yield QuotaUse(
                quota=quota,
                name=f"{quota.name} {'at ' if quota.owner else ''}{server.name}",
                guarded=next(each for each in server.binds if each.bind in quota.binds),
                is_proxied=server.view.is_proxied,
                ours=ours,
                others=quota.others(ours, plan.hosts, is_planned=not plan.is_none),
                pools=_pools(evidence, counts),
                to_open=_to_open(evidence, counts, ours),
                reach=_reach(evidence, counts),
                budget=_budget(evidence, quota),
            )


def _budget(evidence: Evidence, quota: Quota) -> int | None:
    """Return what binds may have together by their budgets; equal ones are shared."""
    budgets = [evidence.budgets.get(bind) for bind in quota.binds]
    if not budgets or None in budgets:
        return None
    of_one_host = sum(each.limit or 0 for each in set(filter(None, budgets)))
    return of_one_host * evidence.plan.hosts


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


def _counts(server: AnsweringServer, quota: Quota) -> _Counts:
    """Return what tells whether a pool takes of a quota, also one of a bind that this
    process does not have.
    """

    def counts(bind: str, url: str) -> bool:
        if server.key is None:
            return bind in quota.binds
        if server_key(url) != server.key:
            return False
        if quota.scope == "server":
            return True
        owner = _user_in(url) if quota.scope == "user" else _database_in(url)
        return bind in quota.binds if owner is None else owner == quota.owner

    return counts


def _ours(evidence: Evidence, server: AnsweringServer, counts: _Counts) -> int | None:
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


def _to_open(evidence: Evidence, counts: _Counts, ours: int | None) -> int | None:
    limits = [
        limit
        for worker in evidence.workers
        for bind, url, limit in _limits_of(worker, evidence)
        if counts(bind, url)
    ]
    if not limits or not all(limits) or ours is None:
        return None
    return max(sum(limit or 0 for limit in limits) - ours, 0)


def _pools(evidence: Evidence, counts: _Counts) -> Pools:
    """Return the pools that count; those of which the limit is unknown are left out."""
    plan = evidence.plan
    pools: Pools = Counter()
    if plan.workers is None:
        for worker in evidence.workers:
            for bind, url, limit in _limits_of(worker, evidence):
                if counts(bind, url) and limit != 0:
                    pools[bind, limit] += plan.hosts
        return pools
    for bind, url, limit in _configured(evidence):
        if counts(bind, url):
            pools[bind, limit] += number_of_workers(evidence)
    return pools


def _reach(evidence: Evidence, counts: _Counts) -> Reach | None:
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


def _used_at_once(worker: Worker, evidence: Evidence, counts: _Counts) -> Iterator[int]:
    """Yield how many connections a worker's threads can use of each pool."""
    threads = worker.process.threads or 0
    usages = {pool.bind: pool for pool in worker.pools}
    for bind, url, limit in _limits_of(worker, evidence):
        if counts(bind, url) and limit != 0:
            pool = usages.get(bind)
            most = threads
            if pool is not None:
                peak = max(peak_of(pool.usage.demand), pool.peak_checked_out or 0)
                most = most_usable(threads, pool.usage.nesting, peak)
            yield most if limit is None else min(most, limit)


def _limits_of(
    worker: Worker, evidence: Evidence
) -> Iterator[tuple[str, str, int | None]]:
    """Yield bind, URL and limit of a worker's pools: None for no limit, 0 for one that
    is not known.

    A worker of which no pool is known yet will have those of this process.
    """
    if not worker.pools:
        yield from _configured(evidence)
    for pool in worker.pools:
        limit = None if pool.is_unlimited else pool.limit or 0
        yield pool.bind, pool.url, limit


def _configured(evidence: Evidence) -> Iterator[tuple[str, str, int | None]]:
    """Yield bind, URL and limit of the pools as this process would set them up."""
    for each in evidence.engines:
        facts = each.tracker.facts
        if facts.size is not None and facts.max_overflow is not None:
            is_unlimited = facts.size == 0 or facts.max_overflow < 0
            limit = None if is_unlimited else facts.size + facts.max_overflow
            yield each.bind, facts.url, limit


def _user_in(url: str) -> str | None:
    """Return the user of a URL, which libpq also takes from among the options."""
    parsed = make_url(url)
    return parsed.username or _option(parsed, "user")


def _database_in(url: str) -> str | None:
    parsed = make_url(url)
    return parsed.database or _option(parsed, "dbname") or _user_in(url)


def _option(url: URL, name: str) -> str | None:
    value = url.query.get(name)
    return value if isinstance(value, str) else None
