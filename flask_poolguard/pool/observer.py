"""What a pool tells whoever keeps the books, in terms that no bookkeeper sets."""

from __future__ import annotations

import typing as t

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .recycle import Recycle

# Why a connection was closed, as the report counts it; None is not counted.
CloseReason = t.Literal["recycled", "idle", "dead", "overflow"]


class Observer(t.Protocol):
    """Called by the pool, in the thread that does the work, never under its lock."""

    def connected(self, record: ConnectionPoolEntry) -> None:
        """A connection was opened for this record."""

    def took(self, record: ConnectionPoolEntry, fairy: PoolProxiedConnection) -> None:
        """A connection was handed out."""

    def gave(self, record: ConnectionPoolEntry) -> None:
        """A record comes back; without a connection if that was lost."""

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason | None) -> None:
        """The record's connection was closed."""

    def began_waiting(self) -> object:
        """A thread waits for a connection; the result goes to stopped_waiting."""

    def stopped_waiting(self, ticket: object) -> None:
        """It waits no more."""

    def timed_out(self) -> None:
        """It waited in vain."""

    def learned(self, recycle: Recycle, server_limit: float | None) -> None:
        """The server told its idle limit on a new connection."""

    def forked(self) -> None:
        """This process is a child that inherited the pool."""


class NullObserver:
    """Keeps no books."""

    def connected(self, record: ConnectionPoolEntry) -> None:
        """Do nothing."""

    def took(self, record: ConnectionPoolEntry, fairy: PoolProxiedConnection) -> None:
        """Do nothing."""

    def gave(self, record: ConnectionPoolEntry) -> None:
        """Do nothing."""

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason | None) -> None:
        """Do nothing."""

    def began_waiting(self) -> object:
        """Do nothing."""
        return None

    def stopped_waiting(self, ticket: object) -> None:
        """Do nothing."""

    def timed_out(self) -> None:
        """Do nothing."""

    def learned(self, recycle: Recycle, server_limit: float | None) -> None:
        """Do nothing."""

    def forked(self) -> None:
        """Do nothing."""


NULL_OBSERVER: t.Final = NullObserver()
