"""Limits, version and counters of a PostgreSQL server."""

from __future__ import annotations

import typing as t
from contextlib import suppress

from .postgresql_sessions import quoted, session_of, sessions_query
from .types import ConnectionLimit, IdleLimit, ServerSession, ServerView

_SERVER: t.Final = (
    "SELECT pg_catalog.current_setting('server_version'),"
    " pg_catalog.current_setting('server_version_num')::int,"
    " pg_catalog.current_setting('max_connections')::int,"
    " pg_catalog.pg_backend_pid(), session_user, pg_catalog.current_database(),"
    " pg_catalog.current_setting('is_superuser') = 'on'"
)
# The second is of PostgreSQL 16; who has the role may use those connections.
_RESERVED: t.Final = (
    "SELECT pg_catalog.current_setting('superuser_reserved_connections')::int,"
    " pg_catalog.current_setting('reserved_connections', true)::int,"
    " (SELECT pg_catalog.pg_has_role(session_user, oid, 'USAGE')"
    " FROM pg_catalog.pg_roles WHERE rolname = 'pg_use_reserved_connections')"
)
# -1 for none. A superuser is not held to either.
_LIMITS: t.Final = (
    "SELECT (SELECT rolconnlimit FROM pg_catalog.pg_roles"
    " WHERE rolname = session_user),"
    " (SELECT datconnlimit FROM pg_catalog.pg_database"
    " WHERE datname = pg_catalog.current_database())"
)
# Milliseconds, 0 for none; no row where the server does not know it.
_TRANSACTION_LIMIT: t.Final = (
    "SELECT setting FROM pg_catalog.pg_settings"
    " WHERE name = 'idle_in_transaction_session_timeout'"
)
_ENCRYPTED: t.Final = (
    "SELECT COALESCE((SELECT ssl FROM pg_catalog.pg_stat_ssl"
    " WHERE pid = pg_catalog.pg_backend_pid()), false)"
    " OR COALESCE((SELECT encrypted FROM pg_catalog.pg_stat_gssapi"
    " WHERE pid = pg_catalog.pg_backend_pid()), false)"
)
# Of this database, from PostgreSQL 14.
_COUNTERS: t.Final = (
    "sessions",
    "sessions_abandoned",
    "sessions_fatal",
    "sessions_killed",
)
_STATISTICS: t.Final = (
    f"SELECT {', '.join(_COUNTERS)} FROM pg_catalog.pg_stat_database"  # noqa: S608 (our own names)
    " WHERE datname = pg_catalog.current_database()"
)

Rows = list[tuple[t.Any, ...]]


class _Questions:
    """Questions that the server may refuse without harm to the others."""

    def __init__(self, cursor: t.Any, in_autocommit: bool) -> None:
        self._cursor = cursor
        self._in_autocommit = in_autocommit

    def ask(self, statement: str) -> Rows | None:
        """Return the rows, or None if the user may not ask or the server does not
        know.
        """
        cursor = self._cursor
        try:
            if not self._in_autocommit:  # a failure would end the whole transaction
                cursor.execute("SAVEPOINT poolguard")
            cursor.execute(statement)
            rows = list(cursor.fetchall())
        except Exception:  # what else is known counts
            rows = None
        if not self._in_autocommit:
            with suppress(Exception):  # a lost connection
                if rows is None:
                    cursor.execute("ROLLBACK TO SAVEPOINT poolguard")
                cursor.execute("RELEASE SAVEPOINT poolguard")
        return rows


def server_view(
    cursor: t.Any,
    limit: IdleLimit,
    handshake_id: int | None,
    *,
    in_autocommit: bool,
    is_encrypted: bool | None,
) -> ServerView:
    """Ask for everything that the user may know.

    :param limit: the session's own idle limit.
    :param in_autocommit: whether each statement is a transaction of its own.
    :param is_encrypted: what the driver says; a pooler's own session to the server is
        another.
    """
    cursor.execute(_SERVER)
    version, number, maximum, me, user, database, is_superuser = cursor.fetchone()
    ask = _Questions(cursor, in_autocommit).ask
    rows = ask(sessions_query())
    sessions = None if rows is None else tuple(map(session_of, rows))
    statistics = ask(_STATISTICS)
    if not is_encrypted and handshake_id == me:  # GSSAPI, or another driver
        rows = ask(_ENCRYPTED)
        is_encrypted = bool(rows[0][0]) if rows else is_encrypted
    return ServerView(
        product=f"PostgreSQL {str(version).partition(' ')[0]}",
        idle_limit=limit,
        max_connections=maximum,
        connections=None if sessions is None else len(sessions),
        # From 10 on: the major number times 10,000, and the minor one.
        version=(number // 10000, number % 10000),
        reserved=0 if is_superuser else _reserved(ask(_RESERVED)),
        user=user,
        limits=() if is_superuser else _limits(ask(_LIMITS), user, database, sessions),
        sessions=sessions,
        counters=_counters(statistics),
        idle_in_transaction_limit=_transaction_limit(ask(_TRANSACTION_LIMIT)),
        is_encrypted=is_encrypted,
        handshake_id=handshake_id,
        session_id=me,
    )


def _reserved(rows: Rows | None) -> int | None:
    if rows is None:
        return None
    for_superusers, for_others, may_use = rows[0]
    return int(for_superusers) + (0 if may_use else int(for_others or 0))


def _limits(
    rows: Rows | None,
    user: str,
    database: str,
    sessions: tuple[ServerSession, ...] | None,
) -> tuple[ConnectionLimit, ...]:
    if not rows:
        return ()
    by_user, by_database = rows[0]
    found = []
    if by_user is not None and by_user >= 0:
        used = None
        if sessions is not None:
            used = sum(each.user == user for each in sessions)
        remedy = f"its limit (ALTER ROLE {quoted(user)} CONNECTION LIMIT …)"
        found.append(ConnectionLimit("user", user, by_user, used, remedy))
    if by_database is not None and by_database >= 0:
        used = None
        if sessions is not None:
            used = sum(each.database == database for each in sessions)
        remedy = f"its limit (ALTER DATABASE {quoted(database)} CONNECTION LIMIT …)"
        found.append(ConnectionLimit("database", database, by_database, used, remedy))
    return tuple(found)


def _transaction_limit(rows: Rows | None) -> IdleLimit | None:
    if not rows:
        return None
    name, seconds = "idle_in_transaction_session_timeout", float(rows[0][0]) / 1000
    if seconds <= 0:
        return IdleLimit(None, f"no {name}")
    return IdleLimit(seconds, f"{name} {seconds:g} s")


def _counters(rows: Rows | None) -> dict[str, int] | None:
    if not rows:
        return None
    values = zip(_COUNTERS, rows[0], strict=True)
    return {name: int(value) for name, value in values if value is not None}
