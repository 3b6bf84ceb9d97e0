"""SQLite: a library in the process, which closes no connection by itself."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Collection

from .base import ConnectFailure, Connection, IdleLimit, Loss, ServerView, SessionList

_NO_LIMIT = IdleLimit(None, "SQLite has no idle limit")


class SQLite:
    """Has no server, so no limits."""

    has_server = False
    longest_label = 0

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Return that there is none."""
        return _NO_LIMIT

    def server_id(self, connection: Connection) -> int | None:
        """Return None: there are no sessions."""
        return None

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Return False: statements run within the call."""
        return False

    def fileno_of(self, connection: Connection) -> Callable[[], int] | None:
        """Return None: there is no socket."""
        return None

    def connect_failure(self, error: BaseException) -> ConnectFailure | None:
        """Return None: a file that cannot be opened now cannot be opened later."""
        return None

    def refuses_login(self, error: BaseException) -> bool:
        """Return False: there are no users."""
        return False

    def means_lost(self, error: BaseException) -> bool:
        """Return False: there is nobody who could end a session."""
        return False

    def why_lost(self, error: BaseException) -> Loss:
        """Return that it is unknown: there is nobody who could end a session."""
        return Loss.UNKNOWN

    def killed_sessions(self, connection: Connection) -> int | None:
        """Return None: there are no sessions."""
        return None

    def means_read_only(self, error: BaseException, connection: Connection) -> bool:
        """Return False: a new connection would open the same file."""
        return False

    def session_states(
        self, connection: Connection, ids: Collection[int]
    ) -> dict[int, str]:
        """Return nothing: there are no sessions."""
        return {}

    def limit_connect(
        self,
        arguments: dict[str, t.Any],
        driver: str,
        seconds: float,
        left: float = math.inf,
    ) -> None:
        """Change nothing: opening a file does not wait."""

    def label_connect(self, arguments: dict[str, t.Any], driver: str, app: str) -> None:
        """Change nothing: nobody would read it."""

    def view(self, connection: Connection) -> ServerView:
        """Return the library's version."""
        import sqlite3  # 1 ms that apps on a server need not spend

        return ServerView(f"SQLite {sqlite3.sqlite_version}", _NO_LIMIT)

    def sessions(self, connection: Connection, *, with_sql: bool) -> SessionList:
        """Return nothing: there are no sessions."""
        return SessionList()

    def kill_statement(self, session_id: int) -> str | None:
        """Return None: there are no sessions."""
        return None
