"""Sessions without a logout, and refused connects, as the servers count them."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ..evidence import AnsweringServer, Evidence
from ..model import Finding
from ..text import duration

# Sessions that ended without a logout: the client ended or vanished, the server's idle
# limit struck, or they were killed. Of MySQL and MariaDB, and of a database of
# PostgreSQL.
_ABORTED: t.Final = (
    "Aborted_clients",
    "sessions_abandoned",
    "sessions_fatal",
    "sessions_killed",
)
_REFUSED: t.Final = ("Connection_errors_max_connections",)
# All sessions since the server started, or since its statistics were reset.
_ALL: t.Final = ("Connections", "sessions")
# A total of fewer, or of a smaller share, is what every server has after a while.
_MANY: t.Final = 10
_SHARE: t.Final = 0.01


def find_aborted_clients(evidence: Evidence) -> Iterator[Finding]:
    """Yield the servers whose sessions end badly now, or did so often."""
    for server in evidence.answering_servers():
        now = server.view.counters or {}
        risen = _risen(server, _ABORTED)
        totals = {name: now[name] for name in _ABORTED if now.get(name)}
        everything = next((now[name] for name in _ALL if name in now), 0)
        is_much = sum(totals.values()) >= max(_MANY, everything * _SHARE)
        if not risen and not (totals and is_much):
            continue
        seen = f"{_list(totals)}{_of(everything, now)}"
        if risen:
            what = (
                f"{server.name} saw sessions end without a logout within"
                f" {evidence.seconds:g} s: {_list(risen, '+')}; {seen}"
            )
        else:
            what = f"{server.name} has seen sessions end without a logout: {seen}"
        yield Finding(
            "warning" if risen else "info",
            "aborted-clients",
            what,
            _where_to_look(server),
            "Requests that had one of these sessions may have failed. Most often none"
            " had: a worker ended, as in a deployment or a reload, and did not close"
            " its connections. Else something killed it, or ended connections that"
            " the client still wanted.",
        )


def find_refused_connects(evidence: Evidence) -> Iterator[Finding]:
    """Yield the servers that refuse connects because they are full, or did so."""
    for server in evidence.answering_servers():
        now, maximum = server.view.counters or {}, server.view.max_connections
        total = sum(now.get(name, 0) for name in _REFUSED)
        # One more than users may have is let in to see whether it is an
        # administrator's; who then is refused is not counted as refused. Only known
        # where it can be compared with max_connections.
        most = now.get("Max_used_connections", 0)
        was_full = maximum is not None and most > maximum
        if not total and not was_full:
            continue
        risen = sum(_risen(server, _REFUSED).values())
        seen = f"{total}{_of(now.get('Connections', 0), now)}"
        if risen:
            what = (
                f"{server.name} refused {risen} connects within {evidence.seconds:g} s"
                f" because it was full; in all {seen}"
            )
        elif total:
            what = f"{server.name} was full at times and refused {seen}"
        else:
            what = (
                f"{server.name} was full at times: Max_used_connections is {most},"
                f" max_connections {maximum}"
            )
        yield Finding(
            "critical" if risen else "info",
            "connection-errors",
            what,
            "Lower the pools' sizes, of this app or of others (`flask pool doctor"
            " --workers N` says how far), or raise the server's max_connections (now"
            f" {maximum}).",
            "Each further connect is refused, of every app; the guard waits"
            " for a connection of its own pool instead, as long as it has any.",
        )


def _risen(server: AnsweringServer, names: Sequence[str]) -> dict[str, int]:
    """Return by how much counters rose between the two looks."""
    if server.earlier is None:
        return {}
    then, now = server.earlier.counters or {}, server.view.counters or {}
    return {
        name: now[name] - then[name]
        for name in names
        if name in now and name in then and now[name] > then[name]
    }


def _list(counts: Mapping[str, int], sign: str = "") -> str:
    return ", ".join(f"{name} {sign}{count}" for name, count in counts.items())


def _of(everything: int, now: Mapping[str, int]) -> str:
    text = f" of {everything} connections" if everything else ""
    if "Uptime" in now:
        return f"{text} since it started {duration(float(now['Uptime']))} ago"
    return f"{text} since its statistics began"


def _where_to_look(server: AnsweringServer) -> str:
    where = "The server's log has the reason of each"
    if server.view.product.startswith("PostgreSQL"):
        where += " with log_disconnections = on"
    elif server.view.product.startswith("MariaDB"):
        where += " with log_warnings = 2"
    else:
        where += " with log_error_verbosity = 3"
    return (
        f"{where}. Look first whether workers ended then: those of this app close their"
        " idle connections at their end, but not those in use, so give them time to"
        " finish; those of other apps may close none. If workers are killed, look for"
        " time limits and memory. If the sessions idled, set POOLGUARD_IDLE_LIMIT below"
        " what ends them, such as the server's limit or a firewall. Or an operator did."
    )
