"""The null object for servers that Flask-PoolGuard knows nothing of."""

from __future__ import annotations

from .base import Connection, IdleLimit, ServerView


class UnknownDatabase:
    """Claims nothing.

    :param name: the SQLAlchemy dialect's name, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._limit = IdleLimit(None, f"no idle limit is known for {name}")

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Return that none is known."""
        return self._limit

    def server_id(self, connection: Connection) -> int | None:
        """Return None: unknown."""
        return None

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Return False: unknown, and the pool's own reset decides."""
        return False

    def view(self, connection: Connection) -> ServerView:
        """Return the dialect's name; being connected proves that it answers."""
        return ServerView(self.name, self._limit)
