"""The null object for servers that Flask-PoolGuard knows nothing about."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Collection

from .base import (
    ConnectFailure,
    Connection,
    IdleLimit,
    Loss,
    ServerView,
    SessionList,
    driver_error,
)
from .network_errors import network_failure


class UnknownDatabase:
    """Claims nothing.

    :param name: the SQLAlchemy dialect's name, for messages.
    """

    has_server = True
    longest_label = 0

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

    def fileno_of(self, connection: Connection) -> Callable[[], int] | None:
        """Return None: unknown."""
        return None

    def connect_failure(self, error: BaseException) -> ConnectFailure | None:
        """Tell by what Python itself says of the network; drivers' errors mean
        something else with every driver.
        """
        original = driver_error(error)
        return network_failure(original) if isinstance(original, OSError) else None

    def refuses_login(self, error: BaseException) -> bool:
        """Return False: unknown."""
        return False

    def means_lost(self, error: BaseException) -> bool:
        """Return False: unknown, and SQLAlchemy's dialect decides."""
        return False

    def why_lost(self, error: BaseException) -> Loss:
        """Return that it is unknown."""
        return Loss.UNKNOWN

    def killed_sessions(self, connection: Connection) -> int | None:
        """Return None: unknown."""
        return None

    def means_read_only(self, error: BaseException, connection: Connection) -> bool:
        """Return False: unknown."""
        return False

    def session_states(
        self, connection: Connection, ids: Collection[int]
    ) -> dict[int, str]:
        """Return nothing: unknown."""
        return {}

    def limit_connect(
        self,
        arguments: dict[str, t.Any],
        driver: str,
        seconds: float,
        left: float = math.inf,
    ) -> None:
        """Change nothing: an argument that a driver does not know is an error."""

    def label_connect(self, arguments: dict[str, t.Any], driver: str, app: str) -> None:
        """Change nothing: an argument that a driver does not know is an error."""

    def view(self, connection: Connection) -> ServerView:
        """Return the dialect's name; being connected proves that it answers."""
        return ServerView(self.name, self._limit)

    def sessions(self, connection: Connection, *, with_sql: bool) -> SessionList:
        """Return nothing: unknown."""
        return SessionList(hidden=(f"{self.name} cannot be asked for its sessions",))

    def kill_statement(self, session_id: int) -> str | None:
        """Return None: unknown."""
        return None
