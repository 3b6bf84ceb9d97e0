"""Fills the metrics with what is known of an app on this host."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..report.evidence import Evidence
from ..report.fullest import budgets_of, by_bind
from ..report.rules import OF_WORKERS, findings_of
from ..state.histogram import Histogram
from ..state.status import PoolStatus
from ..state.totals import PoolTotals, totals_of
from .families import BY_NAME, FAMILIES, Filled
from .host import Host, State, look, state_of

if t.TYPE_CHECKING:
    from flask import Flask

    from ..report import Finding, Report

# A label's value is cut off there: names of binds come from the app.
MOST_CHARACTERS: t.Final = 200

# What replaces a character that a label's value must not have.
_REPLACED: t.Final = "\N{REPLACEMENT CHARACTER}"

_COUNTERS: t.Final[Mapping[str, str]] = {
    "db_client_connection_timeouts_total": "timeouts",
    "poolguard_connections_opened_total": "connects",
    "poolguard_checkouts_total": "checkouts",
    "poolguard_waits_total": "waits",
    "poolguard_deadlocks_total": "deadlocks",
    "poolguard_unavailable_total": "unavailable",
    "poolguard_refused_writes_total": "refused_writes",
    "poolguard_leaks_total": "leaks",
}
_HISTOGRAMS: t.Final[Mapping[str, str]] = {
    "db_client_connection_create_time_seconds": "create",
    "db_client_connection_wait_time_seconds": "wait",
    "db_client_connection_use_time_seconds": "use",
}
REASONS: t.Final = (
    "recycled",
    "idle",
    "dead",
    "overflow",
    "invalidated",
    "closed",
    "detached",
)

_Figure = Callable[[PoolStatus], float | None]
_SUMS: t.Final[Mapping[str, _Figure]] = {
    "db_client_connection_max": lambda pool: pool.limit,
    "db_client_connection_idle_max": lambda pool: pool.size or None,
    "db_client_connection_pending_requests": lambda pool: pool.waiting,
    "poolguard_connections_overflow": lambda pool: pool.overflow,
    "poolguard_connections_opening": lambda pool: pool.connecting,
}


def gather(
    app: Flask, report: Report | None = None, without_pid: int | None = None
) -> list[Filled]:
    """Return all metrics of an app on this host.

    :param report: for what the servers say; without it they are not asked.
    :param without_pid: a process that is no worker.
    :raises SetupError: the app has no PoolGuard.
    """
    state = state_of(app)
    return fill(look(app, state, without_pid), state, report)


def fill(host: Host, state: State, report: Report | None) -> list[Filled]:
    """Return all metrics, with what is known."""
    filling = _Filling(host.app)
    filling.put("poolguard_workers", len(host.workers))
    filling.put("poolguard_unreadable", host.problems)
    pools = [pool for worker in host.workers for pool in worker.pools]
    _fill_pools(filling, pools, host.totals.values(), state)
    budgets = by_bind(budgets_of(host.workers))
    for bind, standing in budgets.items():
        filling.put("poolguard_budget_places", standing.limit, bind)
        filling.put("poolguard_budget_places_taken", standing.taken, bind)
    if report is None:
        evidence = Evidence(
            config={}, engines=(), workers=host.workers, answers={}, budgets=budgets
        )
        _fill_findings(filling, findings_of(evidence, OF_WORKERS))
    else:
        _fill_findings(filling, report.findings)
        _fill_servers(filling, report)
    return filling.done()


def fill_own(app: str, state: State, pools: Sequence[PoolStatus]) -> list[Filled]:
    """Return the metrics of the pools of this process; those of the host stay empty."""
    filling = _Filling(app)
    _fill_pools(filling, pools, map(totals_of, pools), state)
    return filling.done()


def clean(text: str) -> str:
    """Return a label's value without what a terminal or a parser might take amiss.

    A line break stays: the text format has an escape for it.
    """
    return "".join(
        char if char.isprintable() or char == "\n" else _REPLACED
        for char in text[:MOST_CHARACTERS]
    )


class _Filling:
    """All metrics; values of the same labels are added up, because two names may be
    the same once they are clean, and a scrape with two such lines is refused.
    """

    def __init__(self, app: str) -> None:
        self._app = clean(app)
        self._filled = {each.name: Filled(each) for each in FAMILIES}

    def put(self, name: str, value: float | Histogram | None, *labels: str) -> None:
        """Add a value; None is unknown, and left out.

        :param labels: the values of those after ``app``.
        """
        if value is None:
            return
        filled = self._filled[name]
        key = (self._app, *map(clean, labels))
        known = filled.samples.get(key)
        if known is None:
            filled.samples[key] = value
        elif isinstance(known, Histogram):
            filled.samples[key] = known.plus(t.cast(Histogram, value))
        else:
            filled.samples[key] = known + t.cast(float, value)

    def done(self) -> list[Filled]:
        """Return what was filled, in the order of the table."""
        return [self._filled[name] for name in BY_NAME]


def _fill_pools(
    filling: _Filling,
    pools: Iterable[PoolStatus],
    totals: Iterable[PoolTotals],
    state: State,
) -> None:
    by_name: dict[str, list[PoolStatus]] = {}
    for pool in pools:
        by_name.setdefault(clean(pool.bind), []).append(pool)
    for bind, found in sorted(by_name.items()):
        _fill_gauges(filling, bind, found)
    for each in state.engines:
        served = sum(
            pool.bind == each.bind and pool.pool_class == "GuardedPool"
            for pool in by_name.get(clean(each.bind), ())
        )
        if served:
            keeps = each.settings.min_idle.value
            filling.put("db_client_connection_idle_min", keeps * served, each.bind)
    for counted in totals:
        _fill_totals(filling, counted)


def _fill_gauges(filling: _Filling, bind: str, pools: Sequence[PoolStatus]) -> None:
    """Fill in what the pools of a bind are like now."""
    for state, name in (("idle", "idle"), ("used", "checked_out")):
        number = _sum(getattr(each, name) for each in pools)
        filling.put("db_client_connection_count", number, bind, state)
    for name, figure in _SUMS.items():
        # Without a limit in one worker there is none in all.
        values = [figure(each) for each in pools]
        if name != "db_client_connection_max" or None not in values:
            filling.put(name, _sum(values), bind)
    if any(each.is_counted for each in pools):
        held = (each.longest_held_seconds or 0.0 for each in pools)
        filling.put("poolguard_oldest_checkout_seconds", max(held), bind)
    if any(each.waiting is not None for each in pools):
        waits = (each.oldest_wait_seconds or 0.0 for each in pools)
        filling.put("poolguard_oldest_wait_seconds", max(waits), bind)
    recycles = [each.recycle_seconds for each in pools if each.recycle_seconds]
    filling.put("poolguard_recycle_seconds", min(recycles, default=None), bind)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) if known else None


def _fill_totals(filling: _Filling, totals: PoolTotals) -> None:
    for name, field in _COUNTERS.items():
        filling.put(name, getattr(totals, field), totals.bind)
    for name, field in _HISTOGRAMS.items():
        filling.put(name, getattr(totals.durations, field), totals.bind)
    if totals.closed is not None:
        for reason in REASONS:
            number = getattr(totals.closed, reason)
            filling.put(
                "poolguard_connections_closed_total", number, totals.bind, reason
            )


def _fill_findings(filling: _Filling, findings: Iterable[Finding]) -> None:
    for each in findings:
        filling.put("poolguard_findings", 1, each.level, each.code)


def _fill_servers(filling: _Filling, report: Report) -> None:
    for each in report.servers:
        if each.reachable is None:  # it was not asked, as a database without a server
            continue
        for name, value in (
            ("up", int(each.reachable)),
            ("connections", each.connections),
            ("connections_max", each.max_connections),
            ("idle_timeout_seconds", each.idle_timeout_seconds),
        ):
            filling.put(f"poolguard_server_{name}", value, each.bind)
