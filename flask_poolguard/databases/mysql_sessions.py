"""The session list of MySQL and MariaDB."""

from __future__ import annotations

import typing as t
from collections.abc import Collection

from .mysql_errors import means_lost
from .types import (
    LONGEST_STATEMENT,
    Connection,
    ServerSession,
    SessionList,
    SessionState,
    cursor_of,
    shorten_statement,
)

# Without the PROCESS privilege: the user's own sessions.
_SESSIONS: t.Final = "SELECT ID, COMMAND FROM information_schema.PROCESSLIST"
# Needs the PROCESS privilege, even for the user's own transactions. InnoDB looks anew
# only if nobody has read it for 0.1 s (storage/innobase/trx/trx0i_s.cc).
_TRANSACTIONS: t.Final = "SELECT trx_mysql_thread_id FROM information_schema.INNODB_TRX"
# All accounts' attributes need the SELECT privilege; those of the own account do not
# (both servers' table_session_account_connect_attrs). Without performance_schema, the
# default of MariaDB, they are empty.
_ATTRIBUTES: t.Final = tuple(
    "SELECT PROCESSLIST_ID, ATTR_NAME, ATTR_VALUE"  # noqa: S608 (no input)
    f" FROM performance_schema.{table}"
    " WHERE ATTR_NAME IN ('program_name', '_client_name')"
    for table in ("session_connect_attrs", "session_account_connect_attrs")
)
# Replication's and the scheduler's own threads.
_NO_CLIENTS: t.Final = ("system user", "event_scheduler")
_NO_TRANSACTIONS: t.Final = (
    "other users' sessions, and open transactions, which count as idle: this user has"
    " no PROCESS privilege"
)
_NO_LABELS: t.Final = (
    "labels, and so what other hosts and dead workers left: performance_schema is off,"
    " or this user may not read it"
)


def list_sessions(connection: Connection, *, with_sql: bool) -> SessionList:
    """Return the sessions that the user may see, without the asking one."""
    # What is cut off may begin with much white space.
    statement = f"LEFT(INFO, {LONGEST_STATEMENT * 25})" if with_sql else "NULL"
    with cursor_of(connection) as cursor:
        cursor.execute(
            f"SELECT ID, USER, HOST, DB, COMMAND, TIME, {statement}"  # noqa: S608 (no input)
            " FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()"
        )
        rows = [
            row
            for row in cursor.fetchall()
            if row[1] not in _NO_CLIENTS and row[4] != "Daemon"
        ]
        in_transaction = _transactions(cursor)
        labels = _labels(cursor)
    hidden = []
    if in_transaction is None:
        hidden.append(_NO_TRANSACTIONS)
    if labels is None:
        hidden.append(_NO_LABELS)
    sessions = (_session(row, in_transaction or set(), labels or {}) for row in rows)
    return SessionList(tuple(sessions), tuple(hidden))


def session_states(
    connection: Connection, ids: Collection[int]
) -> dict[int, SessionState]:
    """Ask what sessions do; without the PROCESS privilege an open transaction cannot
    be seen, and its session counts as idle.
    """
    if not ids:
        return {}
    with cursor_of(connection) as cursor:
        cursor.execute(_SESSIONS)
        commands = {int(row[0]): str(row[1]) for row in cursor.fetchall()}
        shown = {each: commands[each] for each in ids if each in commands}
        resting = {each for each, command in shown.items() if command == "Sleep"}
        in_transaction = (_transactions(cursor) or set()) if resting else set()
    return {each: _state(each, resting, in_transaction) for each in shown}


def _state(each: int, resting: set[int], in_transaction: set[int]) -> SessionState:
    if each not in resting:
        return "active"
    return "idle in transaction" if each in in_transaction else "idle"


def _session(
    row: t.Sequence[t.Any], in_transaction: set[int], labels: dict[int, str]
) -> ServerSession:
    number, user, client, database, command, seconds, statement = row
    state: t.Any = "active"
    if command == "Sleep":
        state = "idle in transaction" if number in in_transaction else "idle"
    return ServerSession(
        id=int(number),
        label=labels.get(int(number)),
        user=user,
        database=database,
        client="local" if client == "localhost" else client or None,
        state=state,
        # Below zero while the clock is set; NULL for a session that logs in.
        state_seconds=None if seconds is None else max(float(seconds), 0.0),
        age_seconds=None,
        statement=shorten_statement(statement),
    )


def _labels(cursor: t.Any) -> dict[int, str] | None:
    """Return the names of sessions whose attributes can be read, "" for no name.

    None if not even those of the asking session can: drivers send some always.
    """
    labels: dict[int, str] = {}
    for query in _ATTRIBUTES:
        for number, name, value in _rows_if_allowed(cursor, query) or ():
            if name == "program_name":
                labels[int(number)] = value or ""
            else:
                labels.setdefault(int(number), "")
        if labels:
            return labels
    return None


def _transactions(cursor: t.Any) -> set[int] | None:
    """Return the sessions with an open transaction; None if that may not be seen."""
    rows = _rows_if_allowed(cursor, _TRANSACTIONS)
    return None if rows is None else {int(row[0]) for row in rows}


def _rows_if_allowed(cursor: t.Any, query: str) -> list[t.Sequence[t.Any]] | None:
    """Return a query's rows; None if it failed and the session is none the worse."""
    try:
        cursor.execute(query)
        return list(cursor.fetchall())
    except Exception as error:
        # 1227 and 1142: no privilege. Whatever it is, the rest remains true.
        if means_lost(error):
            raise
        return None
