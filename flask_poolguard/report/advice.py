"""Recommended sizes, from what the live workers were asked for."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from ..databases import ServerView
from ..engines import Guarded
from ..state.status import PoolStatus, Worker
from ..tracking import sizing
from ..urls import public_url
from . import servers
from .advice_budgets import add_kept, budget_instead
from .advice_model import Advice, AdviceOptions, BindAdvice, Observed
from .config_lines import lines_to_write
from .effective_settings import describe_auto, find_differences
from .estimate import Asked, Estimate, estimate
from .model import SCHEMA_VERSION, Report
from .servers import group_by_server
from .worker_shares import (
    Share,
    budgets_in,
    shares_of,
    shares_with_budget,
    sizes_for_worker,
)

_Pools = Sequence[tuple[Worker, PoolStatus]]


def make_advice(
    report: Report,
    engines: Sequence[Guarded],
    config: Mapping[str, t.Any],
    options: AdviceOptions,
) -> Advice:
    """Choose sizes for an app's binds.

    Asks the servers that answered for the report once more: for the limits of their
    users and databases, and whose their sessions are.

    :param engines: of this process, for its settings.
    :param config: ``app.config``.
    """
    pools = {each.bind: _pools_of(report, each) for each in engines}
    workers = max(options.workers or len(report.workers), 1) * options.hosts
    seen = {bind: _look(report, each) for bind, each in pools.items()}
    refusals = {each.bind: _refusal(report, each, seen[each.bind]) for each in engines}
    views = _ask_again(report, engines)
    advice: dict[str, BindAdvice] = {}
    proposals: list[str] = []
    for group in group_by_server(engines):
        advised = [each for each in group if refusals[each.bind] is None]
        kept = {
            each.bind: _may_open(pools[each.bind])
            for each in group
            if each not in advised
        }
        estimates = {
            each.bind: _estimate(report, pools[each.bind], options) for each in advised
        }
        of_group = {each.bind: views[each.bind] for each in group}
        among = (report, group, of_group, kept, workers, options)
        shares: list[Share] = []
        unknown = None
        if group[0].tracker.database.has_server:
            shares, unknown = shares_of(*among)
        budgets = budgets_in(report, of_group)
        free = [each for each in advised if each.bind not in budgets]
        bound = [each for each in advised if each.bind in budgets]
        for some, their, why in (
            (free, shares, unknown),
            (bound, shares_with_budget(*among) if bound else [], None),
        ):
            for each in _advise_on_server(
                some, pools, seen, estimates, their, why, options.share
            ):
                advice[each.bind] = each
        add_kept(advice, bound, budgets, workers // options.hosts)
        proposals += budget_instead(advice, free, shares)
    binds = tuple(
        advice.get(each.bind)
        or BindAdvice(
            **_present(each),
            seen=seen[each.bind],
            refusal=refusals[each.bind],
            is_auto=each.tracker.facts.is_auto,
        )
        for each in sorted(
            engines, key=lambda each: (each.bind != "default", each.bind)
        )
    )
    changes = {
        each.bind: {
            name: value
            for name, value in (
                ("pool_size", each.pool_size),
                ("max_overflow", each.max_overflow),
            )
            if value is not None
        }
        for each in binds
    }
    return Advice(
        schema_version=SCHEMA_VERSION,
        taken_at=report.taken_at,
        app=report.app,
        host=report.host,
        live_workers=len(report.workers),
        workers=workers,
        share=options.share,
        checkouts_needed=options.checkouts,
        binds=binds,
        differences=find_differences(report.workers, engines),
        lines=lines_to_write(engines, changes, config),
        budget_lines=tuple(proposals),
    )


def _pools_of(report: Report, guarded: Guarded) -> _Pools:
    return [
        (worker, pool)
        for worker in report.workers
        for pool in worker.pools
        if pool.bind == guarded.bind
    ]


def _look(report: Report, pools: _Pools) -> Observed:
    usages = [pool.usage for _, pool in pools]
    demand = sizing.add_up(usage.demand for usage in usages)
    peaks = [pool.peak_checked_out for _, pool in pools]
    timeouts = [pool.timeouts for _, pool in pools if pool.timeouts is not None]
    return Observed(
        workers=len(pools),
        checkouts=sum(demand.values()),
        hours=round(sum(_hours(report, worker) for worker, _ in pools), 6),
        peak=max((each for each in peaks if each is not None), default=None),
        nesting=max((usage.nesting for usage in usages), default=0),
        threads=max((usage.most_threads for usage in usages), default=0),
        connects=sum(pool.connects for _, pool in pools),
        waits=sum(usage.waits for usage in usages),
        timeouts=sum(timeouts) if timeouts else None,
        longest_wait_seconds=max(
            (usage.longest_wait_seconds for usage in usages), default=0.0
        ),
        demand=demand,
    )


def _hours(report: Report, worker: Worker) -> float:
    now, then = map(datetime.fromisoformat, (report.taken_at, worker.started_at))
    return max((now - then).total_seconds(), 1.0) / 3600


def _refusal(report: Report, guarded: Guarded, seen: Observed) -> str | None:
    """Return why nothing is said about a bind's sizes."""
    pool_class = guarded.tracker.facts.pool_class
    if guarded.tracker.facts.is_auto:
        return describe_auto(guarded, report.workers)
    if pool_class != "GuardedPool":
        if guarded.tracker.facts.size is None:
            return f"its pool is a {pool_class}, which has no size to choose"
        return (
            f"its pool is a {pool_class}, which does not tell who had to wait, so that"
            " it is not known how many connections were wanted at a time"
        )
    if not seen.workers:
        return "no live worker has used it"
    return None if seen.checkouts else "no checkouts so far"


def _estimate(report: Report, pools: _Pools, options: AdviceOptions) -> Estimate:
    return estimate(
        (Asked(pool.usage, _hours(report, worker) * 3600) for worker, pool in pools),
        options.share,
        options.checkouts,
    )


def _ask_again(
    report: Report, engines: Sequence[Guarded]
) -> dict[str, ServerView | None]:
    """Ask the servers; those that did not tell the report their size are not asked.

    What a server said to the report stays: the workers' sessions were counted then.
    """
    told = {each.bind: each for each in report.servers if each.max_connections}
    asked = [each for each in engines if each.bind in told]
    answers = servers.finish(servers.begin(asked), asked)
    views: dict[str, ServerView | None] = {each.bind: None for each in engines}
    for bind, answer in answers.items():
        if answer.view is not None:
            views[bind] = replace(
                answer.view,
                max_connections=told[bind].max_connections,
                connections=told[bind].connections,
                reserved=told[bind].reserved,
            )
    return views


def _may_open(pools: _Pools) -> int:
    """Return the connections that a worker's pool may have, or could use."""
    return max(
        (
            sizing.most_usable(
                pool.usage.most_threads,
                pool.usage.nesting,
                sizing.peak_of(pool.usage.demand),
            )
            if pool.limit is None
            else pool.limit
            for _, pool in pools
        ),
        default=0,
    )


def _advise_on_server(
    advised: Sequence[Guarded],
    pools: Mapping[str, _Pools],
    seen: Mapping[str, Observed],
    estimates: Mapping[str, Estimate],
    shares: Sequence[Share],
    unknown: str | None,
    share: float,
) -> t.Iterator[BindAdvice]:
    needs = {each.bind: _need(each, estimates[each.bind]) for each in advised}
    found = sizes_for_worker(needs, shares if unknown is None else None)
    for guarded in advised:
        bind = guarded.bind
        saw, need, sizes, sure = seen[bind], needs[bind], found[bind], estimates[bind]
        of_bind = (each for each in shares if bind in each.binds)
        room = min(of_bind, key=lambda each: each.left, default=None)
        beyond = sizing.exceeding(saw.demand, sizes.pool_size)
        busiest_size, pid = max(
            (sizing.smallest(pool.usage.demand, share), worker.pid)
            for worker, pool in pools[bind]
        )
        yield BindAdvice(
            **_present(guarded),
            seen=saw,
            pool_size=sizes.pool_size,
            max_overflow=_keep_unlimited(guarded, sure, sizes.max_overflow),
            low=sure.low,
            high=sure.high,
            is_sure=sure.is_sure,
            may_lower=sure.may_lower,
            beyond=beyond,
            beyond_per_hour=round(beyond / saw.hours * saw.workers, 2),
            fewest=need.fewest,
            most=need.most,
            room=None if room is None else room.left,
            room_of=None if room is None else room.name,
            room_remedy=None if room is None else room.remedy,
            room_unknown=unknown,
            has_limit=bool(shares) or unknown is not None,
            is_short=sizes.is_short,
            kept=0 if room is None else room.kept,
            busiest_worker=pid,
            busiest_size=busiest_size,
        )


def _need(guarded: Guarded, found: Estimate) -> sizing.Need:
    """Return what to ask of the server; after few checkouts, at least what the pool may
    have now.
    """
    facts = guarded.tracker.facts
    size, most = found.pool_size(facts.size), found.need.most
    if not found.may_lower:
        most = max(most, size, (facts.size or 0) + max(facts.max_overflow or 0, 0))
    return sizing.Need(size, most, found.need.fewest)


def _keep_unlimited(
    guarded: Guarded, found: Estimate, advised: int | None
) -> int | None:
    """Return the overflow to set: no limit is taken away by a few checkouts."""
    present = guarded.tracker.facts.max_overflow
    return present if not found.may_lower and present == -1 else advised


def _present(guarded: Guarded) -> dict[str, t.Any]:
    facts = guarded.tracker.facts
    return {
        "bind": guarded.bind,
        "url": public_url(guarded.engine.url),
        "pool_class": facts.pool_class,
        "present_size": facts.size,
        "present_overflow": facts.max_overflow,
    }
