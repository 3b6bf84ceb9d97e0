"""Activity between two reports, as text and as JSON."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..report.model import Finding, Report
from ..report.text import NONE, UNKNOWN, Page, columns, duration, visible
from ..report.verdict import verdict_of
from ..state.plain import INTERNAL, to_plain
from ..state.status import PoolStatus, Worker
from . import findings_view
from .budget_view import BudgetUse, budget_lines, budgets_in
from .holders_view import Held, describe, held_now
from .marks import BAD, UNUSUAL, mark, paint

_HEADINGS: t.Final = (
    "PID",
    "BIND",
    "OUT",
    "WAITING",
    "HELD",
    "CHECKOUTS/S",
    "CONNECTS/S",
    "WAITS/S",
    "TIMEOUTS/S",
)
_MAX_HOLDERS: t.Final = 10


@dataclass(frozen=True, slots=True)
class Activity:
    """One pool of one worker; None is unknown.

    :ivar limit: the most connections it can have; None without a limit, too.
    :ivar checkouts_per_second: since the refresh before, as are the other rates; None
        at a worker's first.
    :ivar unserved: threads that have no connection yet: both of the above.
    :ivar is_long: one is held for longer than ``held_warning`` allows.
    """

    host: str
    pid: int
    bind: str
    checked_out: int | None
    limit: int | None
    is_unlimited: bool
    waiting: int | None
    oldest_wait_seconds: float | None
    connecting: int | None
    oldest_connect_seconds: float | None
    longest_held_seconds: float | None
    checkouts_per_second: float | None
    connects_per_second: float | None
    waits_per_second: float | None
    timeouts_per_second: float | None
    unserved: int | None = field(metadata=INTERNAL)
    holds_only_kept: bool = field(metadata=INTERNAL)
    is_full: bool = field(metadata=INTERNAL)
    is_long: bool = field(metadata=INTERNAL)
    is_stopped: bool = field(metadata=INTERNAL)


@dataclass(frozen=True, slots=True)
class Refresh:
    """What ``flask pool top`` shows at a time.

    :ivar seconds: since the refresh before; None for the first.
    :ivar pools: those where most wait come first, then by who holds one longest.
    :ivar budgets: each once, however many binds share it.
    :ivar holders: longest first.
    :ivar findings: those for which something is missing.
    """

    schema_version: int
    taken_at: str
    app: str
    seconds: float | None
    pools: tuple[Activity, ...]
    budgets: tuple[BudgetUse, ...]
    holders: tuple[Held, ...]
    findings: tuple[Finding, ...]
    report: Report = field(repr=False, metadata=INTERNAL)

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``flask pool top --json`` prints, before it is JSON."""
        return t.cast("dict[str, t.Any]", to_plain(self))


_Key = tuple[str, int, str, str]
_Counts = tuple[int | None, ...]


class Top:
    """Remembers the counts of one refresh for the next."""

    def __init__(self) -> None:
        self._before: dict[_Key, _Counts] = {}
        self._at: float | None = None

    def refresh(self, report: Report, now: float) -> Refresh:
        """Return what goes on.

        :param now: monotonic seconds at which the report was begun.
        """
        seconds = None if self._at is None else now - self._at
        counts: dict[_Key, _Counts] = {}
        pools = []
        for worker in report.workers:
            for pool in worker.pools:
                # A number comes back, with another start.
                key = (worker.host, worker.pid, worker.started_at, pool.bind)
                counts[key] = _counts(pool)
                rates = _rates(self._before.get(key), counts[key], seconds)
                pools.append(_activity(worker, pool, rates))
        self._before, self._at = counts, now
        pools.sort(
            key=lambda each: (-(each.unserved or 0), -(each.longest_held_seconds or 0))
        )
        return Refresh(
            schema_version=report.schema_version,
            taken_at=report.taken_at,
            app=report.app,
            seconds=None if seconds is None else round(seconds, 3),
            pools=tuple(pools),
            budgets=budgets_in(report),
            holders=held_now(report),
            findings=findings_view.gaps(report),
            report=report,
        )


def render(refresh: Refresh, page: Page, height: int | None = None) -> str:
    """Return a refresh as text.

    :param height: lines of the terminal, which the text is cut to; None for no limit.
    """
    most_pools = len(refresh.pools)
    most_holders = min(_MAX_HOLDERS, len(refresh.holders))
    if height is None:
        return "\n".join(_lines(refresh, page, most_pools, most_holders))
    room = height - 1  # the last line is the cursor's
    while True:
        # How many lines one takes depends on the width.
        lines = _lines(refresh, page, most_pools, most_holders, is_short=True)
        excess = len(lines) - room
        if excess <= 0:
            return "\n".join(lines)
        if max(most_pools, most_holders) <= 1:
            return "\n".join([*lines[: max(room - 1, 1)], "…"])
        # A holder takes two or three lines. One of the two gets less each time.
        if most_holders > 1 and (most_holders * 3 > most_pools or most_pools <= 1):
            most_holders -= 1
        else:
            most_pools = max(most_pools - max(excess // 3, 1), 1)


def _lines(
    refresh: Refresh,
    page: Page,
    most_pools: int,
    most_holders: int,
    *,
    is_short: bool = False,
) -> list[str]:
    taken = datetime.fromisoformat(refresh.taken_at).astimezone()
    since = (
        "rates from the next refresh on"
        if refresh.seconds is None
        else f"rates of the last {duration(refresh.seconds)}"
    )
    host = refresh.report.host
    lines = findings_view.verdict_lines(verdict_of(refresh.report), page)
    lines += page.wrap(
        f"{refresh.app} on host {host}, {taken:%Y-%m-%d %H:%M:%S}, {since}"
    )
    if not refresh.pools:
        lines += page.wrap(
            "No live worker; flask pool status says where they were looked for."
        )
    if refresh.pools:
        rows = [_row(each, host) for each in refresh.pools[:most_pools]]
        lines += ["", *columns(_HEADINGS, rows, page, paint)]
        lines += _more(len(refresh.pools) - most_pools, "pools")
    lines += budget_lines(refresh.budgets, refresh.app, page)
    if refresh.holders:
        lines += ["", "Held now, longest first"]
        for held in refresh.holders[:most_holders]:
            lines += describe(held, refresh.report, page)
        lines += _more(len(refresh.holders) - most_holders, "holders")
    return [*lines, *_gaps(refresh.findings, page, is_short=is_short)]


def _gaps(findings: Sequence[Finding], page: Page, *, is_short: bool) -> list[str]:
    """Return why the lists are not complete, on a terminal the worst reason alone."""
    shown = findings[:1] if is_short else findings
    lines = findings_view.render(shown, page, with_fix=False)
    if not lines:
        return []
    return ["", *lines, *_more(len(findings) - len(shown), "findings")]


def _more(count: int, what: str) -> list[str]:
    return [f"  … and {count} more {what} (--json has all)"] if count > 0 else []


def _counts(pool: PoolStatus) -> _Counts:
    waits = None if pool.timeouts is None else pool.usage.waits
    return (pool.checkouts, pool.connects, waits, pool.timeouts)


def _rates(
    before: _Counts | None, now: _Counts, seconds: float | None
) -> Sequence[float | None]:
    """Return what was added per second, None where that cannot be known.

    What went back is counted by another pool than before.
    """
    if before is None or not seconds:
        return [None] * len(now)
    return [
        None
        if old is None or new is None or new < old
        else round((new - old) / seconds, 2)
        for old, new in zip(before, now, strict=True)
    ]


def _activity(
    worker: Worker, pool: PoolStatus, rates: Sequence[float | None]
) -> Activity:
    checkouts, connects, waits, timeouts = rates
    return Activity(
        host=worker.host,
        pid=worker.pid,
        bind=pool.bind,
        checked_out=pool.checked_out,
        limit=pool.limit,
        is_unlimited=pool.is_unlimited,
        waiting=pool.waiting,
        oldest_wait_seconds=pool.oldest_wait_seconds,
        connecting=pool.connecting,
        oldest_connect_seconds=pool.oldest_connect_seconds,
        longest_held_seconds=pool.longest_held_seconds,
        checkouts_per_second=checkouts,
        connects_per_second=connects,
        waits_per_second=waits,
        timeouts_per_second=timeouts,
        unserved=pool.unserved,
        holds_only_kept=pool.holds_only_kept,
        is_full=pool.is_full,
        is_long=not pool.holds_only_kept and pool.is_long(pool.longest_held_seconds),
        is_stopped=worker.stopped,
    )


def _row(pool: Activity, host: str) -> list[str]:
    name = str(pool.pid) if pool.host == host else visible(f"{pool.host}:{pool.pid}")
    limit = "∞" if pool.is_unlimited else NONE if pool.limit is None else pool.limit
    out = f"{UNKNOWN if pool.checked_out is None else pool.checked_out}/{limit}"
    waiting = UNKNOWN if pool.unserved is None else str(pool.unserved)
    held = duration(
        pool.longest_held_seconds, NONE if pool.holds_only_kept else UNKNOWN
    )
    checkouts, connects, waits, timeouts = (
        NONE if each is None else f"{each:.1f}"
        for each in (
            pool.checkouts_per_second,
            pool.connects_per_second,
            pool.waits_per_second,
            pool.timeouts_per_second,
        )
    )
    return [
        mark(name, BAD if pool.is_stopped else None),
        visible(pool.bind),
        mark(out, UNUSUAL if pool.is_full else None),
        mark(waiting, UNUSUAL if pool.unserved else None),
        mark(held, UNUSUAL if pool.is_long else None),
        checkouts,
        connects,
        waits,
        mark(timeouts, BAD if pool.timeouts_per_second else None),
    ]
