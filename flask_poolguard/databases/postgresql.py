"""PostgreSQL, through psycopg2, psycopg 3 or any DB-API driver."""

from __future__ import annotations

import math
import os
import re
import typing as t
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from . import postgresql_errors
from .base import Database
from .labels import own_label
from .postgresql_sessions import list_sessions
from .postgresql_view import server_view
from .time_limits import whole_seconds
from .types import (
    ConnectFailure,
    Connection,
    IdleLimit,
    Loss,
    ServerView,
    SessionList,
    cursor_of,
)

# libpq's PGTransactionStatusType, which both psycopg generations pass on.
_IDLE: t.Final = 0
_ACTIVE: t.Final = 1
# How pg8000 keeps the same, in a private attribute: the letter that the server sends
# with ReadyForQuery (message formats in the PostgreSQL documentation).
_IDLE_LETTER: t.Final = b"I"

# Milliseconds; no row where the server does not know the setting (before 14), and
# unlike SHOW it cannot abort a transaction.
_IDLE_LIMITS: t.Final = (
    "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN"
    " ('idle_session_timeout', 'idle_in_transaction_session_timeout')"
)
_NOT_ASKED: t.Final = IdleLimit(
    None, "not asked for: the driver does not tell whether a transaction is open"
)
# As JSON, a column that an older server does not have is NULL, and no error, which
# would abort a transaction that a listener has begun.
_KILLED_SESSIONS: t.Final = (
    "SELECT pg_catalog.to_jsonb(d) ->> 'sessions_killed'"
    " FROM pg_catalog.pg_stat_database AS d"
    " WHERE d.datname = pg_catalog.current_database()"
)
# NAMEDATALEN - 1: the server cuts off what is longer (its application_name).
_LONGEST_LABEL: t.Final = 63
# A name among the server's own options would give way to any other. Written with
# either sign (--application-name=…), in either case.
_LIBPQ_DRIVERS: t.Final = ("psycopg", "psycopg2")
_NAMES_ITSELF: t.Final = re.compile(r"application[_-]name\s*=", re.IGNORECASE)

# libpq takes 1 for 2 (its documentation of connect_timeout).
_SHORTEST_TIMEOUT: t.Final = 2
# Each can set a time limit; a service is a section of a file that libpq reads.
_TIMEOUT_ARGUMENTS: t.Final = frozenset({"connect_timeout", "service"})
_TIMEOUT_VARIABLES: t.Final = ("PGCONNECT_TIMEOUT", "PGSERVICE")
_IN_CONNINFO: t.Final = re.compile(r"(?:^|[\s?&])(?:connect_timeout|service)\s*=")


class PostgreSQL(Database):
    """Reads the session's ``idle_session_timeout`` (PostgreSQL 14 and later)."""

    has_server = True
    longest_label = _LONGEST_LABEL

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Ask for the session's value, which ``ALTER ROLE … SET`` may have changed.

        A driver that does not tell whether a transaction is open is not asked: no
        way to end the transaction of the question would leave alone one that a
        ``connect`` listener has begun. A savepoint would not either: it leaves the
        transaction open, in which drivers refuse to change isolation and autocommit.
        """
        if _is_in_transaction(connection) is None:
            return _NOT_ASKED
        with _outside_transaction(connection), cursor_of(connection) as cursor:
            return _read_idle_limit(cursor)

    def server_id(self, connection: Connection) -> int | None:
        """Return the backend's pid from the start-up message."""
        try:
            if hasattr(connection, "get_backend_pid"):  # psycopg2
                return int(connection.get_backend_pid())
            return int(connection.info.backend_pid)  # psycopg 3
        except Exception:  # a driver without it, or a connection already closed
            return None

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Tell whether a command was sent whose answer has not been read, as an
        exception from outside (gevent.Timeout) leaves it behind.
        """
        return _transaction_status(connection) == _ACTIVE

    def fileno_of(self, connection: Connection) -> Callable[[], int] | None:
        """Return ``connection.fileno`` of psycopg2 and psycopg 3; it raises once the
        connection is closed.
        """
        fileno = getattr(connection, "fileno", None)
        return t.cast(Callable[[], int], fileno) if callable(fileno) else None

    def connect_failure(self, error: BaseException) -> ConnectFailure | None:
        """Tell by the SQLSTATE, or by libpq's text where there is none."""
        return postgresql_errors.connect_failure(error)

    def refuses_login(self, error: BaseException) -> bool:
        """Tell by the SQLSTATE, or by the server's text where there is none."""
        return postgresql_errors.refuses_login(error)

    def means_lost(self, error: BaseException) -> bool:
        """Tell by the SQLSTATE, or by libpq's text where there is none."""
        return postgresql_errors.means_lost(error)

    def why_lost(self, error: BaseException) -> Loss:
        """Tell by the SQLSTATE, or by libpq's text, which psycopg2 alone gives."""
        return postgresql_errors.why_lost(error)

    def killed_sessions(self, connection: Connection) -> int | None:
        """Ask for ``sessions_killed`` of this database (PostgreSQL 14 and later)."""
        if _is_in_transaction(connection) is None:
            return None
        with _outside_transaction(connection), cursor_of(connection) as cursor:
            cursor.execute(_KILLED_SESSIONS)
            row = cursor.fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def means_read_only(self, error: BaseException, connection: Connection) -> bool:
        """Tell by the SQLSTATE, unless the session was made read-only through the
        driver (as SQLAlchemy's ``postgresql_readonly`` does).

        A ``SET TRANSACTION READ ONLY`` that the app sends itself cannot be seen
        without asking the server.
        """
        if not postgresql_errors.means_read_only(error):
            return False
        with suppress(Exception):  # psycopg2 asks only open connections
            for name in ("readonly", "read_only"):  # psycopg2, psycopg 3
                if getattr(connection, name, None):
                    return False
        return True

    def limit_connect(
        self,
        arguments: dict[str, t.Any],
        driver: str,
        seconds: float,
        left: float = math.inf,
    ) -> None:
        """Set ``connect_timeout``, in whole seconds and at least 2, as libpq wants.

        libpq counts it for each of several hosts anew.
        """
        conninfo = arguments.get("dsn") or arguments.get("conninfo") or ""
        if (
            _TIMEOUT_ARGUMENTS.isdisjoint(arguments)
            and not any(os.environ.get(each) for each in _TIMEOUT_VARIABLES)
            and not _IN_CONNINFO.search(str(conninfo))
        ):
            arguments["connect_timeout"] = whole_seconds(
                seconds, left, _SHORTEST_TIMEOUT
            )

    def label_connect(self, arguments: dict[str, t.Any], driver: str, app: str) -> None:
        """Set what libpq takes for ``application_name`` where none is named: not an
        argument, not a service, not ``PGAPPNAME``.
        """
        texts = [arguments.get(name) for name in ("dsn", "conninfo", "options")]
        texts.append(os.environ.get("PGOPTIONS"))
        label = own_label(app, self.longest_label)
        if label is None or any(_NAMES_ITSELF.search(str(each)) for each in texts):
            return
        if driver in _LIBPQ_DRIVERS:
            arguments.setdefault("fallback_application_name", label)
        elif driver == "pg8000":
            arguments.setdefault("application_name", label)
        elif driver == "asyncpg":
            users = arguments.get("server_settings") or {}
            if "application_name" not in users:
                name = {"application_name": label}
                arguments["server_settings"] = {**users, **name}

    def view(self, connection: Connection) -> ServerView:
        """Ask for version, limits, sessions and counters."""
        with _outside_transaction(connection), cursor_of(connection) as cursor:
            limit = _read_idle_limit(cursor)
            return server_view(
                cursor,
                limit,
                self.server_id(connection),
                in_autocommit=bool(getattr(connection, "autocommit", False)),
                is_encrypted=_is_encrypted(connection),
            )

    def sessions(
        self,
        connection: Connection,
        *,
        only: Collection[int] | None = None,
        with_sql: bool = False,
    ) -> SessionList:
        """Ask ``pg_stat_activity``."""
        with _outside_transaction(connection), cursor_of(connection) as cursor:
            return list_sessions(cursor, only, with_sql=with_sql)

    def kill_statement(self, session_id: int) -> str | None:
        """Return a call of ``pg_terminate_backend``."""
        return f"SELECT pg_terminate_backend({session_id:d})"


def _read_idle_limit(cursor: t.Any) -> IdleLimit:
    cursor.execute(_IDLE_LIMITS)
    found = {str(row[0]): float(row[1]) / 1000 for row in cursor.fetchall()}
    within = found.get("idle_in_transaction_session_timeout", 0.0) or None
    seconds = found.get("idle_session_timeout")
    if seconds is None:
        source = "no idle_session_timeout (the server is older than PostgreSQL 14)"
        return IdleLimit(None, source, within)
    if seconds <= 0:
        return IdleLimit(None, "idle_session_timeout is 0: no limit", within)
    return IdleLimit(seconds, f"idle_session_timeout {seconds:g} s", within)


def _is_encrypted(connection: Connection) -> bool | None:
    """Ask libpq about TLS; None from an older one, or another driver."""
    for owner in (
        getattr(connection, "info", None),
        getattr(connection, "pgconn", None),
    ):
        with suppress(Exception):  # a libpq or driver without it
            answer = getattr(owner, "ssl_in_use", None)
            if answer is not None:
                return bool(answer)
    return None


def _transaction_status(connection: Connection) -> int | None:
    info = getattr(connection, "info", None)
    status = getattr(info, "transaction_status", None)
    return None if status is None else int(status)


def _is_in_transaction(connection: Connection) -> bool | None:
    """Ask the driver, never the server; None from a driver that does not tell."""
    status = _transaction_status(connection)
    if status is not None:
        return status != _IDLE
    if not hasattr(connection, "_transaction_status"):  # pg8000 1.16 and later
        return None
    letter = connection._transaction_status
    if letter is None:  # it has sent no statement yet
        return False
    return letter != _IDLE_LETTER if isinstance(letter, bytes) else None


@contextmanager
def _outside_transaction(connection: Connection) -> Iterator[None]:
    """Run statements without leaving a transaction open behind them.

    Autocommit costs no round trip, a rollback does. A transaction that is open
    already (a connect listener of the app) is neither ended nor changed.

    With a driver that does not tell, only for connections of the guard's own: what
    is rolled back may be the listener's.
    """
    is_in_transaction = _is_in_transaction(connection)
    if is_in_transaction is None:
        try:
            yield
        finally:
            connection.rollback()
    elif is_in_transaction:
        yield
    else:
        before = connection.autocommit
        connection.autocommit = True
        try:
            yield
        except BaseException:
            with suppress(Exception):  # a lost connection; the first error counts
                connection.autocommit = before
            raise
        connection.autocommit = before
