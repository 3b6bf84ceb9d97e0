"""Sessions without a logout, and refused connects, as the servers count them."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ..evidence import AnsweringServer, Evidence
from ..model import Finding
from ..phrases import sessions
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


def find_aborted_clients(evidence: Evidence) -> Iterator[Finding]:
    """Yield the servers of which sessions end badly while the command looks.

    Totals say nothing: each deployment, of any client, adds to them.
    """
    for server in evidence.answering_servers():
        risen = _risen(server, _ABORTED)
        if risen:
            count = sum(risen.values())
            yield Finding(
                "info",
                "aborted-clients",
                f"{sessions(count)} of {server.name} ended without a logout within"
                f" {evidence.seconds:g} s ({', '.join(risen)})",
                f"If no worker ended then, see the server's log ({_log_of(server)}).",
                "Requests that had one of them may have failed.",
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


def _of(everything: int, now: Mapping[str, int]) -> str:
    text = f" of {everything} connections" if everything else ""
    if "Uptime" in now:
        return f"{text} since it started {duration(float(now['Uptime']))} ago"
    return f"{text} since its statistics began"


def _log_of(server: AnsweringServer) -> str:
    """Return the setting with which the server's log has the reason of each."""
    if server.view.product.startswith("PostgreSQL"):
        return "log_disconnections = on"
    if server.view.product.startswith("MariaDB"):
        return "log_warnings = 2"
    return "log_error_verbosity = 3"
