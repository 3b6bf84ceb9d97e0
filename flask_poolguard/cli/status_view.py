"""A report as text, in as many columns as the terminal has room for."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence
from datetime import datetime

from ..budget import Standing
from ..report.model import BindSettings, Failure, Report, Server
from ..report.phrases import listed
from ..report.text import NONE, UNKNOWN, Page, columns, duration, visible
from ..report.verdict import verdict_of
from ..state.process import is_same_path
from ..state.status import PoolStatus, Worker
from ..urls import server_key
from . import findings_view, holders_view, sessions_view
from .marks import BAD, UNUSUAL, mark, paint, paint_first

_MAX_HOLDERS: t.Final = 10
# A worker that wrote nothing for longer is named.
_QUIET_SECONDS: t.Final = 10.0
# To connect takes milliseconds; what takes longer is named.
_SLOW_SECONDS: t.Final = 1.0

_FAILURES: t.Final[dict[Failure, str]] = {
    "away": "unreachable, see the findings",
    "full": "full, it refuses connections: see the findings",
    "login": "refuses the login, see the findings",
    "silent": "accepts connections and gives no answer, see the findings",
}

_HEADINGS: t.Final = (
    "PID",
    "BIND",
    "OUT/LIMIT",
    "IDLE",
    "WAITING",
    "PEAK",
    "HELD",
    "TIMEOUTS",
    "LEAKS",
    "RECYCLE",
)


def render(report: Report, page: Page, height: int | None = None) -> str:
    """Return the whole report.

    :param height: lines of the terminal, which the text is cut to; None for no limit.
    """
    lines = _lines(report, page, _MAX_HOLDERS)
    if height is None:
        return "\n".join(lines)
    room = max(height - 1, 2)  # the last line is the cursor's
    for most_holders in range(_MAX_HOLDERS - 1, 0, -1):
        if len(lines) <= room:
            break
        lines = _lines(report, page, most_holders)
    if len(lines) > room:
        more = len(lines) - room + 1
        lines[room - 1 :] = [f"… {more} more lines: flask pool status"]
    return "\n".join(lines)


def _lines(report: Report, page: Page, most_holders: int) -> list[str]:
    findings = [each for each in report.findings if each.level != "info"]
    hints = [each for each in report.findings if each.level == "info"]
    sections = [
        [
            *findings_view.verdict_lines(verdict_of(report), page),
            *page.wrap(headline(report)),
        ],
        findings_view.render(findings, page),
        _workers(report, page),
        _held(report, page, most_holders),
        *_of_this_shell(report, page),
        *sessions_view.render(report, page),
        findings_view.render(hints, page, "Hints"),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines).split("\n")


def _of_this_shell(report: Report, page: Page) -> list[list[str]]:
    """Return the servers, and without workers the settings for them; nothing if the
    workers have others.
    """
    if any(each.code == "other-deployment" for each in findings_view.gaps(report)):
        return []
    settings = [] if report.workers else _settings(report.binds, page)
    return [settings, _servers(report, page)]


def headline(report: Report) -> str:
    """Return what was looked at, and when."""
    taken = datetime.fromisoformat(report.taken_at).astimezone()
    number = len(report.workers)
    workers = {0: "no live worker", 1: "1 worker"}.get(number, f"{number} workers")
    return (
        f"{report.app}: {workers} on host {report.host}, taken at"
        f" {taken:%Y-%m-%d %H:%M:%S}"
    )


def _workers(report: Report, page: Page) -> list[str]:
    """Return a table with a line per worker and bind, and who has been quiet."""
    rows = []
    for worker in report.workers:
        name = str(worker.pid)
        if worker.host != report.host:  # a container that shares the folder
            name = visible(f"{worker.host}:{name}")
        name = mark(name, BAD if worker.stopped else None)
        rows += [_row(name, pool) for pool in worker.pools]
        if not worker.pools:
            rows.append([name, NONE, *[UNKNOWN] * (len(_HEADINGS) - 2)])
    lines = list(columns(_HEADINGS, rows, page, paint)) if rows else []
    for text, colour, found in (
        ("Connecting", UNUSUAL, _connecting(report.workers)),
        ("Slowest connect so far", None, _slow_connects(report.workers)),
        ("Stopped by a signal, or a debugger", BAD, _stopped(report.workers)),
        ("Quiet (nothing to do)", None, _quiet(report.workers)),
        ("Started from another path", None, _elsewhere(report)),
    ):
        if found:
            told = page.wrap(f"{text}: {', '.join(found)}", rest="  ")
            lines += paint_first(told, text, colour)
    return lines


def _connecting(workers: Sequence[Worker]) -> list[str]:
    return [
        f"{worker.pid} {visible(pool.bind)}: {pool.connecting} for"
        f" {duration(pool.oldest_connect_seconds)}"
        for worker in workers
        for pool in worker.pools
        if pool.connecting and (pool.oldest_connect_seconds or 0) >= _SLOW_SECONDS
    ]


def _slow_connects(workers: Sequence[Worker]) -> list[str]:
    return [
        f"{worker.pid} {visible(pool.bind)}: {duration(pool.longest_connect_seconds)}"
        for worker in workers
        for pool in worker.pools
        if (pool.longest_connect_seconds or 0) >= _SLOW_SECONDS
    ]


def _stopped(workers: Sequence[Worker]) -> list[str]:
    return [str(worker.pid) for worker in workers if worker.stopped]


def _elsewhere(report: Report) -> list[str]:
    """Return the workers whose root path is not that of this command's app."""
    pids: dict[str, list[int]] = {}
    for worker in report.workers:
        if not is_same_path(worker.root_path, report.root_path):
            pids.setdefault(worker.root_path, []).append(worker.pid)
    return [
        f"{' '.join(map(str, numbers))} {visible(path)}"
        for path, numbers in pids.items()
    ]


def _quiet(workers: Sequence[Worker]) -> list[str]:
    return [
        f"{worker.pid} for {duration(worker.updated_seconds_ago)}"
        for worker in workers
        if (worker.updated_seconds_ago or 0) > _QUIET_SECONDS
        and not worker.stopped
        and not any(pool.unserved for pool in worker.pools)
    ]


def _row(name: str, pool: PoolStatus) -> list[str]:
    limit = "∞" if pool.is_unlimited else _number(pool.limit, NONE)
    kept = pool.holds_only_kept
    held = duration(pool.longest_held_seconds, NONE if kept else UNKNOWN)
    is_long = not kept and pool.is_long(pool.longest_held_seconds)
    return [
        name,
        visible(pool.bind),
        mark(f"{_number(pool.checked_out)}/{limit}", UNUSUAL if pool.is_full else None),
        _number(pool.idle),
        mark(_number(pool.unserved), UNUSUAL if pool.unserved else None),
        _number(pool.peak_checked_out),
        mark(held, UNUSUAL if is_long else None),
        _number(pool.timeouts),
        _number(pool.leaks),
        _recycle(pool.recycle_seconds),
    ]


def _recycle(seconds: float | None) -> str:
    return NONE if seconds is None else f"{round(seconds, 1):g}s"


def _number(value: int | None, unknown: str = UNKNOWN) -> str:
    return unknown if value is None else str(value)


def _held(report: Report, page: Page, most: int) -> list[str]:
    held = holders_view.held_now(report)
    if not held:
        return []
    lines = ["Held now, longest first"]
    for each in held[:most]:
        lines += holders_view.describe(each, report, page)
    if len(held) > most:
        more = len(held) - most
        lines.append(f"  … and {more} more (--json has all)")
    return lines


def _settings(binds: Sequence[BindSettings], page: Page) -> list[str]:
    if not binds:
        return page.wrap("No bind is known to Flask-PoolGuard in this app.")
    groups: dict[tuple[str, str], list[str]] = {}
    for bind in binds:
        text = ", ".join(
            f"{each.name} {each.value} ({each.origin})" for each in bind.settings
        )
        groups.setdefault((bind.pool_class, text), []).append(bind.bind)
    lines = ["Settings for each worker"]
    for (pool_class, text), names in groups.items():
        lines += page.wrap(f"{listed(names)}: {pool_class}", "  ", "    ")
        lines += page.wrap(text, "    ", "    ") if text else []
    return lines


def _servers(report: Report, page: Page) -> list[str]:
    """Return what each server says, once below all binds that lead to it.

    The first of them was asked before any other had its own question's connection.
    """
    urls = {bind.bind: bind.url for bind in report.binds}
    groups: dict[tuple[t.Any, ...], list[Server]] = {}
    for server in report.servers:
        key = server_key(urls.get(server.bind, "")) or server.bind
        answer = (server.reachable, server.failure, server.idle_timeout_seconds)
        groups.setdefault((key, *answer), []).append(server)
    lines = ["Servers"] if report.servers else []
    for servers in groups.values():
        for each in servers:
            url = urls.get(each.bind, UNKNOWN)
            lines += page.wrap(f"{each.bind}: {url}", "  ", "    ")
        lines += page.wrap(_describe(servers[0]), "    ", "    ")
        for text in dict.fromkeys(filter(None, map(_budget, servers))):
            lines += page.wrap(text, "    ", "    ")
    return lines


def _budget(server: Server) -> str | None:
    """Return how a bind's budget stands, None if it has none."""
    if server.budget is None and not server.budget_told:
        return None
    standing = Standing(server.budget, server.budget_holders, server.budget_told)
    return f"budget: {visible(str(standing))}"


def _describe(server: Server) -> str:
    """Return what a server said."""
    if server.reachable is False:
        return _FAILURES[server.failure or "away"]
    parts = [server.product or "a server that was not asked"]
    if server.reachable is None and server.product:
        parts.append("no such file yet")
    if server.connections is not None or server.max_connections is not None:
        parts.append(
            f"{_number(server.connections)} of {_number(server.max_connections)}"
            f" connections, {_number(server.ours)} of them ours"
        )
    if server.idle_timeout_seconds is not None:
        parts.append(f"closes idle ones after {server.idle_timeout_seconds:g} s")
    return ", ".join(parts)
