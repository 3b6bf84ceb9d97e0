"""Servers that Flask-PoolGuard knows nothing about."""

from __future__ import annotations

from collections.abc import Collection

from .base import Database
from .network_errors import network_failure
from .types import (
    ConnectFailure,
    Connection,
    Hidden,
    IdleLimit,
    ServerView,
    SessionList,
    driver_error,
)


class UnknownDatabase(Database):
    """Claims nothing.

    :param name: the SQLAlchemy dialect's name, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._limit = IdleLimit(None, f"no idle limit is known for {name}")

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Return that none is known."""
        return self._limit

    def connect_failure(self, error: BaseException) -> ConnectFailure | None:
        """Tell by what Python itself says of the network; drivers' errors mean
        something else with every driver.
        """
        original = driver_error(error)
        return network_failure(original) if isinstance(original, OSError) else None

    def view(self, connection: Connection) -> ServerView:
        """Return the dialect's name; being connected proves that it answers."""
        return ServerView(self.name, self._limit)

    def sessions(
        self,
        connection: Connection,
        *,
        only: Collection[int] | None = None,
        with_sql: bool = False,
    ) -> SessionList:
        """Return nothing: unknown."""
        return SessionList(
            hidden=(Hidden("what sessions do", f"{self.name} cannot be asked"),)
        )
