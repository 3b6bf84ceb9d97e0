"""Sessions of processes that are gone, and sessions idle in a transaction."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Iterator, Sequence

from ...engines import Guarded
from ...urls import server_key
from ..evidence import Evidence
from ..model import Finding, Session
from ..phrases import connections, line_of
from ..session_matching import sessions_by_server
from ..text import duration

# What is in its state for less may be over by the time that it is looked at.
_ORPHANED_SECONDS: t.Final = 2.0
_IDLE_SECONDS: t.Final = 5.0
# The server is asked a little before the files are read, or after.
_TOLERANCE_SECONDS: t.Final = 3.0
# As many are named one by one.
_MAX_NAMED: t.Final = 5

_Sessions = dict[tuple[t.Any, ...], list[Session]]


def find_orphans(evidence: Evidence) -> list[Finding]:
    """Return what servers still do for workers that are gone.

    A server notices that its client is gone when it next reads or writes: one that
    runs a statement may not for hours. An idle session is left out: who keeps that
    open is a pooler between, for others to use.
    """
    findings = []
    for guarded, sessions in sessions_by_server(evidence.engines, evidence.sessions):
        orphans = _grouped(
            sessions,
            lambda each: (each.pid,),
            lambda each: (
                each.owner == "orphan"
                and each.state in ("active", "idle in transaction")
                and (each.state_seconds or 0.0) >= _ORPHANED_SECONDS
            ),
        )
        for (pid,), group in orphans.items():
            is_busy = any(each.state == "active" for each in group)
            does = "runs statements" if is_busy else "keeps transactions open"
            ends = (guarded.tracker.database.kill_statement(each.id) for each in group)
            findings.append(
                Finding(
                    "warning",
                    "orphan",
                    f"The server of bind {guarded.bind!r} still {does} for pid {pid} of"
                    f" this host, which is gone: {_list(group)}",
                    "End it with "
                    + "; ".join(filter(None, ends))
                    + " unless a container that shares this host's name has that pid.",
                    "Until its statement ends, it keeps its locks, and its place among"
                    " the server's connections.",
                )
            )
    return findings


def idle_in_transaction(evidence: Evidence) -> set[tuple[t.Any, ...]]:
    """Return host, pid, bind and id of sessions that idle in a transaction."""
    return {
        (each.host, each.pid, each.bind, each.id)
        for _, sessions in sessions_by_server(evidence.engines, evidence.sessions)
        for each in filter(_idles, sessions)
    }


def _idles(session: Session) -> bool:
    """Tell whether a session that is held does nothing in its transaction."""
    is_held = session.held_seconds is not None and not session.kept
    return is_held and _is_idle(session)


def _is_idle(session: Session) -> bool:
    return (
        session.state == "idle in transaction"
        and (session.state_seconds or 0.0) >= _IDLE_SECONDS
    )


def find_idle_transactions(evidence: Evidence) -> list[Finding]:
    """Return the endpoints and lines that do something else within a transaction."""
    findings = []
    for guarded, sessions in sessions_by_server(evidence.engines, evidence.sessions):
        idle = _grouped(sessions, lambda each: (each.endpoint, each.site), _idles)
        for (endpoint, site), group in idle.items():
            where = site or "an unknown line"
            findings.append(
                Finding(
                    "warning",
                    "idle-in-transaction",
                    f"{endpoint or '(unknown)'} keeps {connections(len(group))} of bind"
                    f" {group[0].bind or guarded.bind!r} idle in a transaction, taken"
                    f" at {where}: {_list(group)}",
                    "Commit, roll back or close before slow work (an HTTP call, a"
                    f" report, a sleep) that follows {where}.",
                    "Others wait for its locks, and the server cannot clear away old"
                    " rows.",
                )
            )
    return findings


def find_idle_transactions_by_label(evidence: Evidence) -> Iterator[Finding]:
    """Yield the workers that do something else within a transaction.

    A proxy hides which of the worker's connections that is, so all that have been out
    for so long are named.
    """
    for guarded, sessions in sessions_by_server(evidence.engines, evidence.sessions):
        if not evidence.sessions[guarded.bind].by_label:
            continue
        idle = _grouped(
            sessions,
            lambda each: (each.host, each.pid),
            lambda each: each.owner == "worker" and _is_idle(each),
        )
        for (host, pid), group in idle.items():
            least = group[-1].state_seconds or 0.0
            lines = _lines_there(evidence, guarded, (host, pid), least)
            where = " or ".join(lines[:_MAX_NAMED]) or "a line that is not known"
            yield Finding(
                "warning",
                "idle-in-transaction",
                f"Worker {pid} keeps {connections(len(group))} of bind"
                f" {guarded.bind!r} idle in a transaction behind a proxy, taken by"
                f" {where}: {_list(group)}",
                "Commit, roll back or close before slow work (an HTTP call, a report, a"
                f" sleep) that follows {where}.",
                "Others wait for its locks, the server cannot clear away old rows, and"
                " the proxy cannot lend the session to others.",
            )


def _lines_there(
    evidence: Evidence, guarded: Guarded, process: tuple[str, int], least: float
) -> list[str]:
    """Return the lines of a worker that have had connections to a server for so long.

    :param process: the worker's host and pid.
    """
    key = server_key(guarded.engine.url)
    lines = [
        line_of(holder)
        for worker in evidence.workers
        if (worker.host, worker.pid) == process
        for pool in worker.pools
        if pool.bind == guarded.bind or (key and server_key(pool.url) == key)
        for holder in pool.holders
        if holder.held_seconds >= least - _TOLERANCE_SECONDS
    ]
    return list(dict.fromkeys(lines))


def _grouped(
    sessions: Iterable[Session],
    key: t.Callable[[Session], tuple[t.Any, ...]],
    is_meant: t.Callable[[Session], bool],
) -> _Sessions:
    groups: _Sessions = {}
    for each in filter(is_meant, sessions):
        groups.setdefault(key(each), []).append(each)
    for group in groups.values():
        group.sort(key=lambda each: -(each.state_seconds or 0.0))
    return groups


def _list(group: Sequence[Session]) -> str:
    """Name sessions, those that are longest in their state first."""
    text = ", ".join(
        f"session {each.id} for {duration(each.state_seconds)}"
        for each in group[:_MAX_NAMED]
    )
    more = len(group) - _MAX_NAMED
    return f"{text} and {more} more" if more > 0 else text
