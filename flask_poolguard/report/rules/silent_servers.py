"""Servers that do not answer."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator, Sequence

from ...engines import Guarded
from ...urls import public_url
from ..evidence import Evidence
from ..model import Failure, Finding
from ..phrases import change_sizes, connections, key_of, line_of, named_binds, workers
from ..servers import group_by_server
from ..text import duration
from .pool_use import pools_of, who_waits
from .quota_use import describe_plan

# Those of one server.
Binds = Sequence[Guarded]

_WHERE_TO_GRANT: t.Final = {
    "postgresql": "pg_hba.conf, GRANT CONNECT ON DATABASE",
    "mysql": "SHOW GRANTS, GRANT … ON … TO",
    "mariadb": "SHOW GRANTS, GRANT … ON … TO",
}


def find_silent_servers(evidence: Evidence) -> Iterator[Finding]:
    """Yield the servers that could not be asked, or not for everything; once for all
    binds that met the same.
    """
    for binds in group_by_server(evidence.engines):
        groups: dict[tuple[str | None, ...], list[Guarded]] = {}
        for each in binds:
            answer = evidence.answers[each.bind]
            # That it cannot be reached is one thing, however the drivers put it.
            text = answer.error if answer.failure in (None, "login") else None
            groups.setdefault((answer.failure, text), []).append(each)
        for group in groups.values():
            answer = evidence.answers[group[0].bind]
            describe = _DESCRIPTIONS.get(answer.failure, _incomplete)
            if answer.failure is not None or answer.error is not None:
                yield describe(evidence, group, answer.error)


def _incomplete(evidence: Evidence, binds: Binds, error: str | None) -> Finding:
    return Finding(
        "warning",
        "server-view",
        f"{_server_of(binds)} did not answer all questions: {error}",
        "Look for this error in the server's log: every user may ask these.",
        "Its figures are unknown, and nothing is found that follows from them.",
    )


def _full(evidence: Evidence, binds: Binds, error: str | None) -> Finding:
    sizes = f"{key_of(binds[0], 'pool_size')} and {key_of(binds[0], 'max_overflow')}"
    fix = change_sizes(binds[0], "lower", sizes)
    return Finding(
        "critical",
        "full",
        f"{_server_of(binds)} refuses connections: {error}. {_share(evidence, binds)}",
        f"End the sessions that are not needed, {fix},"
        " start fewer workers, or raise the limit that the message names.",
        "Requests that need a connection which their worker does not have"
        " yet wait for one of its pool's, or fail.",
        f"server full: {_server_of(binds)} refuses connections"
        f"{who_waits(evidence, _names(binds))}",
    )


def _away(evidence: Evidence, binds: Binds, error: str | None) -> Finding:
    return Finding(
        "critical",
        "server-unreachable",
        f"{_server_of(binds)} cannot be reached: {error}",
        "Check that it runs, that this host may reach it, and the address in the"
        " app's configuration.",
        "Requests that need it fail, with HTTP 503 once the guard has stopped trying.",
        f"{_server_of(binds)} cannot be reached{who_waits(evidence, _names(binds))}:"
        f" {error}",
    )


def _login_refused(evidence: Evidence, binds: Binds, error: str | None) -> Finding:
    url = binds[0].engine.url
    user = f"user {url.username}" if url.username else "this user"
    return Finding(
        "critical",
        "server-unreachable",
        f"{_server_of(binds)} refuses the login of {user}: {error}",
        "Check user, password and database in the app's configuration, and at the"
        f" server that {user} exists, and may use this database and come from this"
        f" host ({_WHERE_TO_GRANT.get(url.get_backend_name(), 'its grants')}).",
        "Requests that need a new connection fail at once, with HTTP 500: a refused"
        " login is not tried again.",
        f"{_server_of(binds)} refuses the login of {user}"
        f"{who_waits(evidence, _names(binds))}",
    )


def _silent(evidence: Evidence, binds: Binds, error: str | None) -> Finding:
    return Finding(
        "critical",
        "server-unreachable",
        f"{_server_of(binds)} accepts connections, but gives {error}"
        f"{_longest(evidence, binds)}",
        "Look at the server's load and at its locks; if a pooler stands before it, at"
        " that one's free server connections (PgBouncer: SHOW POOLS; default_pool_size"
        " is how many there are).",
        "Requests that need it wait and keep their threads: for a new connection until"
        " their time is up, for a statement's answer until it comes.",
    )


_Describe = Callable[[Evidence, Binds, str | None], Finding]
_DESCRIPTIONS: t.Final[dict[Failure | None, _Describe]] = {
    "away": _away,
    "full": _full,
    "login": _login_refused,
    "silent": _silent,
}


def _server_of(binds: Binds) -> str:
    url = binds[0].engine.url
    if len(binds) > 1:
        url = url._replace(username=None, password=None, database=None)
    return f"The server of {named_binds(_names(binds))}, {public_url(url)},"


def _names(binds: Binds) -> list[str]:
    return [each.bind for each in binds]


def _longest(evidence: Evidence, binds: Binds) -> str:
    """Say who of this app has held a connection of binds for the longest time."""
    held = [
        (holder.held_seconds, line_of(holder), worker.pid)
        for bind in _names(binds)
        for worker, pool in pools_of(evidence.workers, bind)
        for holder in pool.holders
    ]
    if not held:
        return ""
    seconds, line, pid = max(held)
    return (
        f"; of this app, {line} has held a connection of it for the longest time,"
        f" {duration(seconds)} (worker {pid})"
    )


def _share(evidence: Evidence, binds: Binds) -> str:
    """Return how many connections this app has there, and how many it may open.

    The server's own figures are not to be had, so this is by the state files.
    """
    pairs = [
        pair for bind in _names(binds) for pair in pools_of(evidence.workers, bind)
    ]
    found = [pool for _, pool in pairs]
    if not found and evidence.plan.is_none:
        return "No worker of this app on this host is known to have any there."
    counts = [
        None
        if pool.checked_out is None or pool.idle is None
        else pool.checked_out + pool.idle
        for pool in found
    ]
    known = sum(each or 0 for each in counts)
    number = len({worker.path for worker, _ in pairs})
    least = "" if None not in counts and evidence.has_all_workers else " or more"
    return (
        f"This app has {connections(known)}{least} open there by {workers(number)}"
        f" on this host; {describe_plan(evidence, _names(binds))}"
    )
