"""The session list of PostgreSQL."""

from __future__ import annotations

import typing as t
from collections.abc import Collection

from .types import (
    LONGEST_STATEMENT,
    Hidden,
    ServerSession,
    SessionList,
    SessionState,
    shorten_statement,
)

# Of other users' sessions a user without pg_read_all_stats sees neither backend_type
# nor state; what has a database and a user is a client's, or a parallel worker for the
# length of a query.
_ARE_CLIENTS: t.Final = (
    " pid <> pg_catalog.pg_backend_pid()"
    " AND CASE WHEN backend_type IS NULL"
    " THEN datid IS NOT NULL AND usesysid IS NOT NULL"
    " ELSE backend_type = 'client backend' END"
)
# What pg_stat_activity calls the state of a session.
_STATE_NAMES: t.Final[dict[str, SessionState]] = {
    "active": "active",
    "fastpath function call": "active",
    "idle": "idle",
    "idle in transaction": "idle in transaction",
    "idle in transaction (aborted)": "idle in transaction",
}
# What an idle session ran last is over. One space for any white space, or the first
# hundreds of characters may be the indentation alone.
_STATEMENT: t.Final = (
    "CASE WHEN state <> 'idle' AND query <> '<insufficient privilege>' THEN"
    r" pg_catalog.left(pg_catalog.regexp_replace(pg_catalog.left(query, 2000),"
    rf" '\s+', ' ', 'g'), {LONGEST_STATEMENT + 2}) END"
)
_USER: t.Final = "SELECT session_user"
# What a server process shows of itself while its track_activities is off.
_DISABLED: t.Final = "disabled"
_UNTRACKED: t.Final = Hidden("what some sessions do", "their track_activities is off")


def sessions_query(
    only: Collection[int] | None = None, *, with_sql: bool = False
) -> str:
    """Return the question for clients' sessions but the asking one.

    Each user may see ids, users, databases and labels of all.
    """
    which = ""
    if only is not None:
        which = f" AND pid IN ({', '.join(f'{each:d}' for each in only)})"
    return (
        "SELECT pid, application_name, usename, datname,"  # noqa: S608 (no input)
        " pg_catalog.host(client_addr), client_port, state,"
        " extract(epoch FROM pg_catalog.clock_timestamp() - state_change)::float8,"
        " extract(epoch FROM pg_catalog.clock_timestamp() - backend_start)::float8,"
        " backend_type IS NULL,"
        f" {_STATEMENT if with_sql else 'NULL'}"
        f" FROM pg_catalog.pg_stat_activity WHERE{_ARE_CLIENTS}{which}"
    )


def list_sessions(
    cursor: t.Any, only: Collection[int] | None, *, with_sql: bool
) -> SessionList:
    """Ask for the sessions of clients, and say what cannot be seen of them."""
    cursor.execute(sessions_query(only, with_sql=with_sql))
    rows = cursor.fetchall()
    hidden = []
    if any(row[9] for row in rows):
        cursor.execute(_USER)
        statement = f"GRANT pg_read_all_stats TO {quoted(str(cursor.fetchone()[0]))}"
        hidden.append(Hidden("what other users' sessions do", f"run: {statement}"))
    if any(row[6] == _DISABLED for row in rows):
        hidden.append(_UNTRACKED)
    return SessionList(tuple(map(session_of, rows)), tuple(hidden))


def quoted(name: str) -> str:
    """Return a name as a statement has it."""
    return '"' + name.replace('"', '""') + '"'


def session_of(row: t.Sequence[t.Any]) -> ServerSession:
    """Turn a row of the answer into a session."""
    pid, label, user, database, host, port, state, state_age, age, _, statement = row
    return ServerSession(
        id=int(pid),
        label=label,
        user=user,
        database=database,
        client=_client(host, port),
        state=_STATE_NAMES.get(state),
        state_seconds=_seconds(state_age),
        age_seconds=_seconds(age),
        statement=shorten_statement(statement),
    )


def _client(host: str | None, port: int | None) -> str | None:
    """Return an address and a port; a session over the Unix socket has port -1."""
    if port is None:
        return None
    if host is None:
        return "local"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(max(value, 0.0), 3)
