"""The base class of a server family, with defaults for one that is not known."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Collection

from .types import ConnectFailure, Connection, IdleLimit, Loss, ServerView, SessionList


class Database:
    """A family of servers; here one of which nothing is known.

    All methods take a raw DB-API connection, and an error as the driver raised it or as
    SQLAlchemy wrapped it.

    :ivar has_server: whether there is a server, which may end a connection.
    :ivar longest_label: characters of a label that the server keeps; 0 for no labels.
    """

    has_server = True
    longest_label = 0

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Ask the session for its own limit, leaving no transaction open."""
        return IdleLimit(None, "no idle limit is known")

    def server_id(self, connection: Connection) -> int | None:
        """Return the server's number of this session, without asking the server."""
        return None

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Tell whether an answer is still to be read, so that a rollback would block
        or misread it. Asks the driver, never the server.
        """
        return False

    def fileno_of(self, connection: Connection) -> Callable[[], int] | None:
        """Return a cheap callable that gives the file descriptor of the connection's
        socket now; None if the driver has no socket that can be reached.

        It raises, or returns -1, once the driver has closed the socket.
        """
        return None

    def connect_failure(self, error: BaseException) -> ConnectFailure | None:
        """Tell whether a failed connect may pass by itself; None if it will not."""
        return None

    def refuses_login(self, error: BaseException) -> bool:
        """Tell whether a connect failed because the server does not let this user in,
        or not into this database.
        """
        return False

    def means_lost(self, error: BaseException) -> bool:
        """Tell whether an error that SQLAlchemy may take for harmless means that the
        session is gone or out of step.
        """
        return False

    def why_lost(self, error: BaseException) -> Loss:
        """Tell why a session is gone, of an error that means that it is."""
        return Loss.UNKNOWN

    def killed_sessions(self, connection: Connection) -> int | None:
        """Ask how often sessions were ended on purpose so far; None if the server does
        not count that. Leaves no transaction open.
        """
        return None

    def means_read_only(self, error: BaseException, connection: Connection) -> bool:
        """Tell whether the server refused a write because it is read-only now, as
        after a failover, and not because the session's owner asked for that.
        """
        return False

    def limit_connect(
        self,
        arguments: dict[str, t.Any],
        driver: str,
        seconds: float,
        left: float = math.inf,
    ) -> None:
        """Give the arguments of a driver's ``connect()`` a time limit, unless the user
        has set one.

        :param driver: SQLAlchemy's name of it.
        :param left: seconds until no thread waits for the connection any more. The
            limit is not longer, as far as the driver can keep to that.
        """

    def label_connect(self, arguments: dict[str, t.Any], driver: str, app: str) -> None:
        """Give the arguments of a driver's ``connect()`` the calling process's label,
        unless the user named the connection, or the driver takes no name.

        :param driver: SQLAlchemy's name of it.
        """

    def view(self, connection: Connection) -> ServerView:
        """Ask the server about itself."""
        return ServerView("unknown", self.idle_limit(connection))

    def sessions(
        self,
        connection: Connection,
        *,
        only: Collection[int] | None = None,
        with_sql: bool = False,
    ) -> SessionList:
        """Ask for the sessions that this user may see, except the asking one. Leaves
        no transaction open.

        :param only: ids of the sessions to ask for, at least one; None for all. Labels
            are not asked for then: the caller knows whose they are.
        :param with_sql: whether statements are asked for, which may hold data.
        """
        return SessionList()

    def kill_statement(self, session_id: int) -> str | None:
        """Return the SQL that ends a session, None if there is none."""
        return None
