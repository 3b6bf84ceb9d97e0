"""Who holds connections, and what the servers say of them, as text and as JSON."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..databases import SessionState
from ..report.model import Report, Session
from ..report.text import UNKNOWN, Page, duration
from ..report.verdict import verdict_of
from ..state.plain import INTERNAL, to_plain
from . import findings_view
from .marks import BAD, UNUSUAL, paint_first

# The workers look once a second; what is older is shown with its age.
_FRESH_SECONDS: t.Final = 3.0


@dataclass(frozen=True, slots=True)
class Held:
    """A connection that is out; None is unknown.

    :ivar host: with ``pid``, the worker that holds it.
    :ivar state: what its session does, as the server says; ``statement`` likewise.
    :ivar gone: whether the server has ended its session.
    :ivar kept: it outlives its scope on purpose.
    :ivar is_long: it is held for longer than its worker's ``held_warning``.
    :ivar now: the app's line that runs now in the thread that took it; None also for
        less than a second. ``now_seconds`` since that was seen.
    """

    held_seconds: float
    host: str
    pid: int
    bind: str
    endpoint: str | None
    site: str | None
    thread: str | None
    server_id: int | None
    state: SessionState | None
    state_seconds: float | None
    gone: bool
    kept: bool
    statement: str | None = field(metadata=INTERNAL)
    is_long: bool = field(metadata=INTERNAL)
    now: str | None = None
    now_seconds: float | None = None


def held_now(report: Report, min_seconds: float = 0.0) -> tuple[Held, ...]:
    """Return the connections that are held for so long or longer, longest first."""
    sessions: dict[tuple[t.Any, ...], Session] = {
        (each.host, each.pid, each.bind, each.id): each
        for server in report.servers
        for each in server.sessions or ()
        if each.owner == "worker"
    }
    held = []
    for worker in report.workers:
        for pool in worker.pools:
            for each in pool.holders:
                key = (worker.host, worker.pid, pool.bind, each.server_id)
                session = sessions.get(key)
                if each.held_seconds < min_seconds:
                    continue
                held.append(
                    Held(
                        held_seconds=each.held_seconds,
                        host=worker.host,
                        pid=worker.pid,
                        bind=pool.bind,
                        endpoint=each.endpoint,
                        site=each.site,
                        thread=each.thread,
                        server_id=each.server_id,
                        state=session.state if session else None,
                        state_seconds=session.state_seconds if session else None,
                        gone=each.gone,
                        kept=each.kept,
                        statement=session.statement if session else None,
                        is_long=not each.kept and pool.is_long(each.held_seconds),
                        now=each.now,
                        now_seconds=each.now_seconds,
                    )
                )
    return tuple(sorted(held, key=lambda each: -each.held_seconds))


def to_dict(report: Report, held: tuple[Held, ...]) -> dict[str, t.Any]:
    """Return what ``flask pool holders --json`` prints, before it is JSON."""
    return {
        "schema_version": report.schema_version,
        "taken_at": report.taken_at,
        "app": report.app,
        "workers": len(report.workers),
        "holders": to_plain(held),
        "findings": to_plain(findings_view.gaps(report)),
    }


def render(report: Report, held: Sequence[Held], min_seconds: float, page: Page) -> str:
    """Return the holders, and what keeps the list from being complete."""
    number = len(report.workers)
    workers = {0: "no live worker", 1: "1 worker"}.get(number, f"{number} workers")
    taken = datetime.fromisoformat(report.taken_at).astimezone()
    count = {0: "no connection", 1: "1 connection"}.get(
        len(held), f"{len(held)} connections"
    )
    for_long = f" for {min_seconds:g} s or longer" if min_seconds else ""
    lines = findings_view.verdict_lines(verdict_of(report), page)
    lines += page.wrap(
        f"{report.app}: {count} held{for_long}, {workers} on host {report.host}, taken"
        f" at {taken:%Y-%m-%d %H:%M:%S}"
    )
    if not number:
        lines += page.wrap("flask pool status says where workers were looked for.")
    if held:
        lines.append("")
    for each in held:
        lines += describe(each, report, page)
    lines += _beyond(report, page)
    unseen = findings_view.hidden_lines(report.servers, page)
    # One that seems to idle may have a transaction that cannot be seen.
    if unseen and any(each.state in (None, "idle") for each in held):
        lines += ["", *unseen]
    found = findings_view.render(findings_view.gaps(report), page)
    lines += ["", *found] if found else []
    return "\n".join(lines)


def describe(held: Held, report: Report, page: Page) -> list[str]:
    """Return a holder in a line or two, and what its session does if that was asked."""
    first = f"  {duration(held.held_seconds):>6}  "
    rest = " " * len(first)
    text = f"{process(held.host, held.pid, report.host)} {held.bind}: {_purpose(held)}"
    if held.now:
        text += f", now at {held.now}"
        if (held.now_seconds or 0.0) > _FRESH_SECONDS:
            text += f" (as seen {duration(held.now_seconds)} ago)"
    if held.kept:
        text += ", kept on purpose"
    if held.thread:
        text += f", thread {held.thread}"
    if held.server_id is not None:
        text += f"; session {held.server_id}"
        if held.gone:
            text += " gone: the server has ended it"
        elif _was_asked(report):
            text += f" {describe_state(held)}"
    colour = BAD if held.gone else UNUSUAL if held.is_long else None
    lines = paint_first(page.wrap(text, first, rest), first.strip(), colour)
    if held.statement is not None:
        lines += page.wrap(held.statement, rest, rest)
    return lines


def process(host: str | None, pid: int | None, here: str) -> str:
    """Return a process's number, with its host's name unless that is this one's."""
    return f"pid {pid}" if host == here else f"{host} pid {pid}"


def describe_state(held: Held | Session) -> str:
    """Return what a session does, and since when."""
    state = held.state or f"state {UNKNOWN}"
    if held.state_seconds is None:
        return state
    return f"{state} for {duration(held.state_seconds)}"


def _purpose(held: Held) -> str:
    """Return what a connection was taken for, and where."""
    if held.endpoint is None and held.site is None:
        return "is being opened"
    return f"{held.endpoint or UNKNOWN} at {held.site or UNKNOWN}"


def _was_asked(report: Report) -> bool:
    """Tell whether any server was asked for its sessions."""
    return any(
        server.sessions is not None or server.sessions_hidden
        for server in report.servers
    )


def _beyond(report: Report, page: Page) -> list[str]:
    """Say which pools have more out than they can name the holders of."""
    lines = []
    for worker in report.workers:
        for pool in worker.pools:
            where = f"pid {worker.pid} {pool.bind} ({pool.pool_class})"
            if pool.checked_out is None:
                text = f"{where}: who holds its connection is not known"
            elif pool.checked_out > len(pool.holders):
                more = pool.checked_out - len(pool.holders)
                text = f"{where}: {more} more, whose holders are not listed"
            else:
                continue
            lines += page.wrap(text, "  ", "    ")
    return lines
