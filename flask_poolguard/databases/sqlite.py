"""SQLite: a library in the process, which closes no connection by itself."""

from __future__ import annotations

from .base import Database
from .types import Connection, IdleLimit, ServerView

_NO_LIMIT = IdleLimit(None, "SQLite has no idle limit")


class SQLite(Database):
    """Has no server, so no sessions, users, limits or labels."""

    has_server = False

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Return that there is none."""
        return _NO_LIMIT

    def view(self, connection: Connection) -> ServerView:
        """Return the library's version."""
        import sqlite3  # 1 ms that apps on a server need not spend

        return ServerView(f"SQLite {sqlite3.sqlite_version}", _NO_LIMIT)
