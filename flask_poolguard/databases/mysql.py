"""MySQL and MariaDB, through PyMySQL, mysqlclient or any DB-API driver."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Collection

from . import mysql_errors
from .base import Database
from .labels import own_label
from .mysql_sessions import list_sessions
from .mysql_view import server_view
from .time_limits import SHORTEST, whole_seconds
from .types import (
    ConnectFailure,
    Connection,
    IdleLimit,
    Loss,
    ServerView,
    SessionList,
    cursor_of,
)

# From the client/server protocol's capability flags; every driver sets the first.
_CLIENT_PROTOCOL_41: t.Final = 512
_CLIENT_INTERACTIVE: t.Final = 1024

# PyMySQL and mysqlclient; MySQL's own driver.
_TIMEOUT_ARGUMENTS: t.Final = frozenset({"connect_timeout", "connection_timeout"})


# performance_schema keeps 512 bytes of a session's attributes by default
# (performance_schema_session_connect_attrs_size), of which PyMySQL's own take some 60.
_LONGEST_LABEL: t.Final = 255


class MySQL(Database):
    """Reads the session's ``wait_timeout``."""

    has_server = True
    longest_label = _LONGEST_LABEL

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Ask for ``@@session.wait_timeout``: neither the global value, an
        ``init_command`` nor CLIENT_INTERACTIVE can be derived from one another.

        A SELECT that reads no table starts no InnoDB transaction.
        """
        with cursor_of(connection) as cursor:
            cursor.execute("SELECT @@session.wait_timeout")
            seconds = float(cursor.fetchone()[0])
        name = "wait_timeout"
        if _is_flagged_interactive(connection):
            # The server copied interactive_timeout into the session's wait_timeout.
            name = "wait_timeout (from interactive_timeout)"
        return IdleLimit(seconds, f"{name} {seconds:g} s")

    def server_id(self, connection: Connection) -> int | None:
        """Return the connection id from the handshake."""
        try:
            return int(connection.thread_id())
        except Exception:  # a driver without it, or a connection already closed
            return None

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Tell whether PyMySQL has an answer still to read: an unbuffered cursor's,
        of which a rollback would first fetch all that is left, or one that another
        thread waits for.

        The number of the next packet is 1 from a command until its answer begins
        (private; the same in PyMySQL 1.1 and 1.2).
        """
        result = getattr(connection, "_result", None)
        is_waited_for = getattr(connection, "_next_seq_id", 0) == 1
        return is_waited_for or bool(getattr(result, "unbuffered_active", False))

    def fileno_of(self, connection: Connection) -> Callable[[], int] | None:
        """Return ``fileno`` of PyMySQL's socket (TCP, Unix or TLS; -1 once it is
        closed) or of mysqlclient's connection (1.4 and later).

        mysqlclient goes on giving the old number after it found the session lost,
        until ``close()``: by then it may be another connection's.
        """
        for owner in (getattr(connection, "_sock", None), connection):
            fileno: t.Any = getattr(owner, "fileno", None)
            if callable(fileno):
                return t.cast(Callable[[], int], fileno)
        return None

    def connect_failure(self, error: BaseException) -> ConnectFailure | None:
        """Tell by the error's number."""
        return mysql_errors.connect_failure(error)

    def refuses_login(self, error: BaseException) -> bool:
        """Tell by the error's number."""
        return mysql_errors.refuses_login(error)

    def means_lost(self, error: BaseException) -> bool:
        """Tell by the error's number, or by PyMySQL's text where it has none."""
        return mysql_errors.means_lost(error)

    def why_lost(self, error: BaseException) -> Loss:
        """Tell by the error's number, or by PyMySQL's text where it has none."""
        return mysql_errors.why_lost(error)

    def killed_sessions(self, connection: Connection) -> int | None:
        """Ask for ``Com_kill``, which every user may see. It counts KILL QUERY too."""
        with cursor_of(connection) as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Com_kill'")
            row = cursor.fetchone()
        return None if row is None else int(row[1])

    def means_read_only(self, error: BaseException, connection: Connection) -> bool:
        """Tell by the error's number: a session that was made read-only on purpose
        gets another one.
        """
        return mysql_errors.means_read_only(error)

    def limit_connect(
        self,
        arguments: dict[str, t.Any],
        driver: str,
        seconds: float,
        left: float = math.inf,
    ) -> None:
        """Set ``connect_timeout``, in whole seconds as mysqlclient wants them; PyMySQL
        keeps to fractions of what is left.

        PyMySQL applies it to the connect only, not to the handshake that follows.
        """
        if not _TIMEOUT_ARGUMENTS.isdisjoint(arguments):
            return
        if driver == "pymysql" and left < math.ceil(seconds):
            arguments["connect_timeout"] = max(left, SHORTEST)
        else:
            arguments["connect_timeout"] = whole_seconds(seconds, left, 1)

    def label_connect(self, arguments: dict[str, t.Any], driver: str, app: str) -> None:
        """Set the connection attribute ``program_name``; mysqlclient has no argument
        for it.
        """
        label = own_label(app, self.longest_label)
        if driver == "pymysql" and label is not None:
            arguments.setdefault("program_name", label)

    def view(self, connection: Connection) -> ServerView:
        """Ask for version, limits, sessions and counters."""
        limit = self.idle_limit(connection)
        with cursor_of(connection) as cursor:
            flagged = _is_flagged_interactive(connection)
            return server_view(cursor, limit, flagged, self.server_id(connection))

    def sessions(
        self,
        connection: Connection,
        *,
        only: Collection[int] | None = None,
        with_sql: bool = False,
    ) -> SessionList:
        """Ask the process list, and InnoDB and performance_schema as far as that is
        allowed.
        """
        return list_sessions(connection, only, with_sql=with_sql)

    def kill_statement(self, session_id: int) -> str | None:
        """Return a ``KILL``."""
        return f"KILL {session_id:d}"


def _is_flagged_interactive(connection: Connection) -> bool | None:
    """Tell by the flags of PyMySQL or mysqlclient; None for a driver that keeps its own
    to itself: an ``init_command`` may give the session the same limit.
    """
    flags = getattr(connection, "client_flag", 0)
    if not isinstance(flags, int) or not flags & _CLIENT_PROTOCOL_41:
        return None
    return bool(flags & _CLIENT_INTERACTIVE)
