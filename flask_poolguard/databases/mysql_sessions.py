"""The session list of MySQL and MariaDB."""

from __future__ import annotations

import typing as t
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from .mysql_errors import means_lost
from .types import (
    LONGEST_STATEMENT,
    Connection,
    Hidden,
    ServerSession,
    SessionList,
    cursor_of,
    shorten_statement,
)

Row = Sequence[t.Any]

# Needs the PROCESS privilege, even for the user's own transactions. InnoDB looks anew
# only if it was not read for 0.1 s (storage/innobase/trx/trx0i_s.cc).
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
# What _ATTRIBUTES need apart from privileges.
_COLLECTS_LABELS: t.Final = "SELECT @@performance_schema"
_ACCOUNT: t.Final = "SELECT CURRENT_USER()"


def sessions_query(
    only: Collection[int] | None = None, *, with_sql: bool = False
) -> str:
    """Return the question for sessions; without the PROCESS privilege its answer has
    the user's own only.
    """
    # What is cut off may begin with much white space.
    statement = f"LEFT(INFO, {LONGEST_STATEMENT * 25})" if with_sql else "NULL"
    which = ""
    if only is not None:
        which = f" WHERE ID IN ({', '.join(f'{each:d}' for each in only)})"
    return (
        "SELECT ID, USER, HOST, DB, COMMAND, TIME,"  # noqa: S608 (no input)
        f" ID = CONNECTION_ID(), {statement} FROM information_schema.PROCESSLIST{which}"
    )


@dataclass(frozen=True, slots=True)
class ProcessList:
    """The answer to :func:`sessions_query`.

    :ivar own: the asking session.
    :ivar others: of clients.
    """

    own: ServerSession | None
    others: tuple[ServerSession, ...]


def read_process_list(rows: Iterable[Row]) -> ProcessList:
    """Turn the answer's rows into sessions, as far as that statement alone tells: an
    open transaction cannot be seen, and its session counts as idle.
    """
    own, others = None, []
    for number, user, client, database, command, seconds, is_own, statement in rows:
        if user in _NO_CLIENTS or command == "Daemon":
            continue
        session = ServerSession(
            id=int(number),
            label=None,
            user=user,
            database=database,
            client="local" if client == "localhost" else client or None,
            state="idle" if command == "Sleep" else "active",
            # Below zero while the clock is set; NULL for a session that logs in.
            state_seconds=None if seconds is None else max(float(seconds), 0.0),
            age_seconds=None,
            statement=shorten_statement(statement),
        )
        if is_own:
            own = session
        else:
            others.append(session)
    return ProcessList(own, tuple(others))


def list_sessions(
    connection: Connection, only: Collection[int] | None, *, with_sql: bool
) -> SessionList:
    """Ask for sessions, their transactions and labels, and say what cannot be seen."""
    hidden = []
    with cursor_of(connection) as cursor:
        cursor.execute(sessions_query(only, with_sql=with_sql))
        sessions = read_process_list(cursor.fetchall()).others
        if only is not None and not any(each.state == "idle" for each in sessions):
            return SessionList(sessions)
        in_transaction = _transactions(cursor)
        labels = _labels(cursor) if only is None else {}
        if in_transaction is None:
            hidden.append(_without_process(cursor))
        if labels is None:
            hidden.append(_without_labels(cursor))
    return SessionList(
        tuple(
            replace(
                each,
                label=(labels or {}).get(each.id),
                state="idle in transaction"
                if each.state == "idle" and each.id in (in_transaction or ())
                else each.state,
            )
            for each in sessions
        ),
        tuple(hidden),
    )


def _without_process(cursor: t.Any) -> Hidden:
    rows = _rows_if_allowed(cursor, _ACCOUNT)
    name, _, host = str(rows[0][0]).rpartition("@") if rows else ("", "", "")
    return Hidden(
        "other users' sessions, and transactions that are open",
        f"run: GRANT PROCESS ON *.* TO {quoted(name)}@{quoted(host)}",
    )


def quoted(name: str) -> str:
    """Return a user or a host as a statement has it, with any ``sql_mode``."""
    if "'" in name or "\\" in name:  # whether a backslash escapes depends on that
        return "`" + name.replace("`", "``") + "`"
    return f"'{name}'"


def _without_labels(cursor: t.Any) -> Hidden:
    rows = _rows_if_allowed(cursor, _COLLECTS_LABELS)
    is_on = bool(rows and rows[0][0])
    return Hidden(
        "labels of sessions",
        "the server keeps no connection attributes"
        if is_on
        else "performance_schema is off",
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


def _rows_if_allowed(cursor: t.Any, query: str) -> list[Row] | None:
    """Return a query's rows; None if it failed and the session is none the worse."""
    try:
        cursor.execute(query)
        return list(cursor.fetchall())
    except Exception as error:
        # 1227 and 1142: no privilege. Whatever it is, the rest remains true.
        if means_lost(error):
            raise
        return None
