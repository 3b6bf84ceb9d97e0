"""Server sessions as text: urgent ones first, the rest summed up."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..report.model import Report, Server, Session
from ..report.text import UNKNOWN, Page, duration
from ..urls import ServerKey, server_key
from .findings_view import hidden_lines
from .holders_view import describe_state, process

# Lines for the sessions of one server.
_MAX_LINES: t.Final = 20
_INDENT: t.Final = "  "
_DEEPER: t.Final = "      "

_KINDS: t.Final = {
    "orphan": "of workers that are gone",
    "held": "held now (above)",
    "pool": "idle in workers' pools",
    "worker": "of workers by their labels alone",
    "process": "of other processes of this app on this host",
    "other-host": "of this app on other hosts",
    "other": "of others",
    "unknown": "of unknown owners",
}


def render(report: Report, page: Page) -> list[list[str]]:
    """Return a section for each server that was asked for its sessions."""
    urls = {bind.bind: bind.url for bind in report.binds}
    groups: dict[ServerKey | str, list[Server]] = {}
    for server in report.servers:
        if server.sessions is not None or server.sessions_hidden:
            key = server_key(urls.get(server.bind, "")) or server.bind
            groups.setdefault(key, []).append(server)
    return [_section(servers, report.host, page) for servers in groups.values()]


def _section(servers: Sequence[Server], host: str, page: Page) -> list[str]:
    binds = ", ".join(server.bind for server in servers)
    sessions = servers[0].sessions
    lines = page.wrap(f"Sessions on the server of {binds}", rest=_DEEPER)
    if sessions is not None:
        lines += page.wrap(_counts(sessions), _INDENT, _DEEPER)
        held = sum(_kind(each) == "held" for each in sessions)
        lines += _cut(_blocks(sessions, host, page), len(sessions) - held)
    return lines + hidden_lines(servers, page, _INDENT, _DEEPER)


def _kind(session: Session) -> str:
    if session.held_seconds is not None:
        return "held"
    if session.owner == "worker" and session.bind is not None:
        return "pool"
    return session.owner or "other"


def _counts(sessions: Sequence[Session]) -> str:
    """Return how many sessions there are of each kind."""
    if not sessions:
        return "None but the one that asked."
    kinds = [_kind(each) for each in sessions]
    parts = [
        f"{kinds.count(kind)} {words}"
        for kind, words in _KINDS.items()
        if kind in kinds
    ]
    return f"{len(sessions)} in all: {', '.join(parts)}."


def _cut(blocks: Iterable[tuple[list[str], int]], total: int) -> list[str]:
    """Return as many blocks of lines as there is room for.

    :param blocks: lines, and for how many sessions they stand.
    """
    lines: list[str] = []
    for block, count in blocks:
        if len(lines) + len(block) > _MAX_LINES - 1:
            lines.append(f"{_INDENT}… and {total} more (--json has all)")
            break
        lines += block
        total -= count
    return lines


def _blocks(
    sessions: Sequence[Session], host: str, page: Page
) -> Iterator[tuple[list[str], int]]:
    """Yield lines, and for how many sessions they stand: the most urgent first."""
    by_kind: dict[str, list[Session]] = {kind: [] for kind in _KINDS}
    for each in sessions:
        by_kind[_kind(each)].append(each)
    for each in sorted(by_kind["orphan"], key=_in_state, reverse=True):
        text = f"ORPHAN of {each.host} pid {each.pid}, which is gone: session {each.id}"
        if each.age_seconds is not None:
            text += f", {duration(each.age_seconds)} old,"
        yield (
            page.wrap(f"{text} {describe_state(each)}", _INDENT, _DEEPER)
            + _sql(each, page),
            1,
        )

    def who(session: Session) -> str:
        return process(session.host, session.pid, host)

    for kind, name in (
        ("worker", lambda each: f"{who(each)} by its label alone"),
        ("pool", lambda each: f"{who(each)} {each.bind}, in the pool"),
        ("process", lambda each: f"{who(each)}, not among the workers found here"),
        ("other-host", who),
        ("other", _foreigner),
        ("unknown", lambda each: f"{_foreigner(each)}, of an unknown owner"),
    ):
        yield from _sums(by_kind[kind], name, page)


def _sums(
    sessions: Sequence[Session], name: Callable[[Session], str], page: Page
) -> Iterator[tuple[list[str], int]]:
    """Yield a line per name, with how many sessions are in which state."""
    groups: dict[str, list[Session]] = {}
    for each in sessions:
        groups.setdefault(name(each), []).append(each)
    for text, group in groups.items():
        lines = page.wrap(f"{text}: {_states(group)}", _INDENT, _DEEPER)
        for each in sorted(group, key=_in_state, reverse=True):
            lines += _sql(each, page)
        yield lines, len(group)


def _states(sessions: Sequence[Session]) -> str:
    """Return how many are in which state, and for how long at most."""
    parts = []
    for state in ("active", "idle in transaction", "idle", None):
        found = [each for each in sessions if each.state == state]
        if found:
            longest = max(map(_in_state, found))
            known = any(each.state_seconds is not None for each in found)
            since = f" for {duration(longest)}" if known else ""
            most = " at most" if since and len(found) > 1 else ""
            parts.append(f"{len(found)} {state or 'in an unknown state'}{since}{most}")
    return ", ".join(parts)


def _foreigner(session: Session) -> str:
    client = session.client or UNKNOWN
    address = client if client == "local" else client.rpartition(":")[0] or client
    user = f"user {session.user or UNKNOWN} from {address}"
    return f"{session.label} ({user})" if session.label else user


def _in_state(session: Session) -> float:
    return session.state_seconds or 0.0


def _sql(session: Session, page: Page) -> list[str]:
    if session.statement is None:
        return []
    return page.wrap(f"{session.id}: {session.statement}", _DEEPER, _DEEPER)
