"""SQLite, which is a library in the process and closes nothing by itself."""

from __future__ import annotations

from .base import Connection, IdleLimit, ServerView

_NO_LIMIT = IdleLimit(None, "SQLite has no idle limit")


class SQLite:
    """Has no server, so no limits."""

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Return that there is none."""
        return _NO_LIMIT

    def server_id(self, connection: Connection) -> int | None:
        """Return None: there are no sessions."""
        return None

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Return False: statements run within the call."""
        return False

    def view(self, connection: Connection) -> ServerView:
        """Return the library's version."""
        import sqlite3  # 1 ms that apps on a server need not spend

        return ServerView(f"SQLite {sqlite3.sqlite_version}", _NO_LIMIT)
