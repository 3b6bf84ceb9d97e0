"""Whether server, user and database have room for what the workers may open."""

from __future__ import annotations

import typing as t
from collections import Counter
from collections.abc import Iterator

from ..evidence import Evidence
from ..host_budget import per_host, proposal
from ..model import Finding
from ..phrases import change_sizes, key_of
from ..phrases import workers as workers_of
from .pool_use import fails_now, who_waits
from .quota_use import QuotaUse, describe_pools, number_of_workers, quota_uses

# As many users are named at most.
_MAX_USERS: t.Final = 3


def find_overbooking(evidence: Evidence) -> Iterator[Finding]:
    """Yield what allows fewer connections than the workers may open.

    Behind a pooler the server's limits do not bound the workers' connections.
    """
    for use in quota_uses(evidence):
        is_unlimited = any(limit is None for _, limit in use.pools)
        total = sum(count * (limit or 0) for (_, limit), count in use.pools.items())
        room = use.quota.limit - (use.others or 0)
        if use.is_proxied:
            continue
        if use.budget is not None and (is_unlimited or total > use.budget):
            if use.budget > room:
                yield _budget_too_large(use)
        elif is_unlimited or total > room:
            yield _overbooked(evidence, use)


def find_full(evidence: Evidence) -> Iterator[Finding]:
    """Yield what has hardly any connection left, unless no more are needed."""
    for use in quota_uses(evidence):
        if not use.quota.is_nearly_full:
            continue
        if not use.is_enough:
            yield _running_out(evidence, use)
        elif use.quota.others(use.ours):
            yield _shared(use)


def _running_out(evidence: Evidence, use: QuotaUse) -> Finding:
    binds = use.quota.binds
    return Finding(
        "critical" if fails_now(evidence, binds) else "warning",
        "full",
        f"{_in_use(use)}{_users(use)}",
        f"End the sessions that are not needed, {_how_to_lower(use)}, or raise"
        f" {use.quota.remedy}.",
        "Once the last one is taken, every new connection is refused, and the requests"
        " that need one fail.",
        f"server full: {use.name} has {use.quota.used} of {use.quota.limit} in use"
        f"{_ours_in_short(use)}{who_waits(evidence, binds)}",
    )


def _how_to_lower(use: QuotaUse) -> str:
    if use.budget is not None:
        return f"lower {key_of(use.guarded, 'budget')}"
    keys = (key_of(use.guarded, name) for name in ("pool_size", "max_overflow"))
    return change_sizes(use.guarded, "lower", " and ".join(keys))


def _ours_in_short(use: QuotaUse) -> str:
    return "" if use.ours is None else f", {use.ours} by these workers"


def _shared(use: QuotaUse) -> Finding:
    return Finding(
        "warning",
        "full",
        f"{_in_use(use)}, which may open {use.to_open or 'no'} more{_users(use)}",
        f"End the sessions that are not needed, or raise {use.quota.remedy}.",
        "There is room for that, until others take it: then a connection that has to"
        " be replaced or opened is refused, and the requests that need it fail.",
    )


def _in_use(use: QuotaUse) -> str:
    if use.ours is None:
        ours = "how many of them this app's workers have is unknown"
    else:
        ours = f"{use.ours} of them by this app's workers on this host"
    return (
        f"{use.name[0].upper()}{use.name[1:]} has {use.quota.used} of"
        f" {use.quota.terms} connections in use, {ours}"
    )


def _overbooked(evidence: Evidence, use: QuotaUse) -> Finding:
    others = f", of which others use {use.others} now" if use.others else ""
    seen = (
        f"{describe_pools(evidence, use.pools, use.reach)}; {use.name} allows"
        f" {use.quota.terms}{others}"
    )
    fix = _how_to_fit(evidence, use)
    if use.is_out_of_reach:
        return Finding(
            "info",
            "budget",
            seen,
            "Nothing has to be done while no thread uses more than that: checkouts"
            f" within others and background threads do. To be sure: {fix}",
            "With more threads, or more connections per thread, the server would refuse"
            " connections, to this app and to everybody else.",
        )
    is_short = use.quota.is_nearly_full and not use.is_enough
    return Finding(
        "critical" if is_short and fails_now(evidence, use.quota.binds) else "warning",
        "budget",
        seen,
        fix,
        "When the workers need them all, the server refuses connections, to this app"
        " and to everybody else: requests wait for one of their own worker's, or fail.",
    )


def _budget_too_large(use: QuotaUse) -> Finding:
    others = f", of which others use {use.others} now" if use.others else ""
    hosts = f" on {use.hosts} hosts" if use.hosts > 1 else ""
    return Finding(
        "warning",
        "budget",
        f"{key_of(use.guarded, 'budget')} lets the workers have {use.budget}"
        f" connections together{hosts}; {use.name} allows {use.quota.terms}{others}",
        _how_to_lower_budget(use),
        "When the workers need them all, the server refuses connections, to this app"
        " and to all other clients.",
    )


def _how_to_lower_budget(use: QuotaUse) -> str:
    """Return the remedy where the budgets allow more than the server does."""
    of_host = per_host(use.quota, use.others or 0, use.hosts)
    number = max(of_host // max(len(use.budgets or ()), 1), 1)
    return (
        f"Lower {key_of(use.guarded, 'budget')} to {number}, which leaves a tenth free,"
        f" or raise {use.quota.remedy}."
    )


def _how_to_fit(evidence: Evidence, use: QuotaUse) -> str:
    quota, others = use.quota, use.others or 0
    if use.budget is not None:
        return _how_to_lower_budget(use)
    workers = max(number_of_workers(evidence), 1)
    share = quota.per_worker(others, workers)
    if share < 1:
        return (
            f"Start {workers_of(quota.per_worker(others, 1))} at most, free connections"
            f" that others use, or raise {quota.remedy}: with a tenth left free there"
            " is not one for each worker."
        )
    on_host = workers // use.hosts
    line = proposal(quota, others, use.hosts, on_host, evidence.engines)
    budget = (
        ""
        if line is None
        else f"Set {line} for all workers of a host together, or lower"
    )
    if line is not None and use.guarded.tracker.facts.is_auto:
        return (
            f"Set {line} for all workers of a host together, at which automatic sizes"
            f" end, start fewer workers, or raise {quota.remedy}."
        )
    return (
        f"{budget or 'Lower'} {key_of(use.guarded, 'pool_size')} or"
        f" {key_of(use.guarded, 'max_overflow')} so that a worker's pools have {share}"
        f" at most, which leaves a tenth free{' too' if budget else ''}, start fewer"
        f" workers, or raise {quota.remedy}."
    )


def _users(use: QuotaUse) -> str:
    """Return who has the most; nothing where the server does not show all, or
    the quota is one user's.
    """
    shown, used = use.quota.sessions, use.quota.used
    if not shown or used is None or len(shown) < used:
        return ""
    users = Counter(each.user or "unknown" for each in shown)
    most = ", ".join(f"{user} {count}" for user, count in users.most_common(_MAX_USERS))
    return f" (by user, most first: {most})"
