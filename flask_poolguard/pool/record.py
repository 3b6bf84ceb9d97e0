"""The life of a pool's connection: opened, closed and why, detached, inherited.

It calls the private ``__connect`` and ``__close`` of ``_ConnectionRecord``; the same in
SQLAlchemy 2.0.31 and 2.1.9, on which it was checked.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import typing as t
import weakref

from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionRecord

from .fork import keep_from_finalising

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from .types import CloseReason, PoolCallbacks

# Closed without a logout, which may block: the other end is gone.
_ABRUPT: t.Final = ("dead", "recycled", "invalidated")


class PoolOfRecords(t.Protocol):
    """A guarded pool, as far as the life of its connections needs it."""

    generation: object
    callbacks: PoolCallbacks
    logger: t.Any
    _dialect: t.Any


class PoolRecord(_ConnectionRecord):
    """A record that tells the tracker what becomes of its connection.

    It is made without a connection; :meth:`open` makes one.

    :ivar pid: the process that opened the connection; no other may use it.
    :ivar has_served: it has had a connection.
    :ivar generation: the pool's, when the connect began; the pool's next one makes
        the connection outdated.
    :ivar is_open: it has a connection, as far as this class was told.
    :ivar is_connecting: one is being made right now.
    :ivar last: gives the connection that it had last, as long as that lives.
    :ivar connect_seconds: how long the last connect took that gave a connection.
    :ivar connect_until: monotonic time at which no thread waits for that any more.
    :ivar is_ahead: one is being made for no thread.
    """

    __slots__ = (
        "_pool",
        "connect_seconds",
        "connect_until",
        "generation",
        "has_served",
        "is_ahead",
        "is_connecting",
        "is_open",
        "last",
        "pid",
    )

    def __init__(self, pool: PoolOfRecords) -> None:
        self._pool = pool
        self.pid = os.getpid()
        self.has_served = self.is_open = self.is_connecting = self.is_ahead = False
        self.connect_until = math.inf
        self.connect_seconds = 0.0
        self.last: Callable[[], t.Any] = lambda: None
        self.generation = pool.generation
        super().__init__(t.cast(Pool, pool), connect=False)

    def is_of(self, pool: object) -> bool:
        """Tell whether this is a slot of that pool."""
        return self._pool is pool

    def is_outdated(self) -> bool:
        """Tell whether its connect began before the pool was last renewed, done or not.

        Where one that is under way leads is not known, so it counts until it is judged.
        """
        return self.generation is not self._pool.generation and (
            self.dbapi_connection is not None or self.is_connecting
        )

    def was_renewed(self) -> bool:
        """Tell whether its last connection was one to replace on request."""
        return self.generation is not self._pool.generation

    def open(self) -> None:
        """Connect.

        :raises Exception: what the driver, or a listener, raised; nothing is left
            open then.
        """
        self.info.clear()
        self._soft_invalidate_time = 0
        # In this order: a renewal in between finds one too many, never one too few.
        self.is_connecting = True
        # Before it connects: what is asked for meanwhile is not asked of this one.
        self.generation = self._pool.generation
        began_at = time.monotonic()
        try:
            self._ConnectionRecord__connect()  # type: ignore[attr-defined] # private name
        except BaseException:
            if self.dbapi_connection is not None:
                # A listener refused it. SQLAlchemy closes it since 2.1 only, and
                # no callback has said that it is there.
                self._ConnectionRecord__close(terminate=True)  # type: ignore[attr-defined] # private name
            raise
        finally:
            self.is_connecting = False
        with contextlib.suppress(TypeError):  # a driver's may have no references
            self.last = weakref.ref(self.dbapi_connection)
        self.has_served = self.is_open = True
        self.connect_seconds = time.monotonic() - began_at
        self._pool.callbacks.connected(self)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self.close_because("closed")

    def close_because(self, reason: CloseReason) -> None:
        """Close the connection, if there is one, and count it."""
        if self.pid != os.getpid():
            self._disown()
        elif self.dbapi_connection is not None:
            self._pool.logger.info(
                "Closing connection %r (%s)", self.dbapi_connection, reason
            )
            self._let_go()
            try:
                self._ConnectionRecord__close(terminate=reason in _ABRUPT)  # type: ignore[attr-defined] # private name
            finally:
                # Even if a listener, or the driver, raised: not handed out again.
                self.dbapi_connection = None
                self._pool.callbacks.closed(self, reason)

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Close an unusable connection, or have it replaced at the next checkout."""
        if self.pid != os.getpid():
            self._disown()
        had_one = self.dbapi_connection is not None
        super().invalidate(e, soft)
        if had_one and self.dbapi_connection is None:
            self._let_go()
            self._pool.callbacks.closed(
                self, "dead" if e is not None else "invalidated"
            )

    def is_lost(self, error: Exception) -> bool:
        """Ask the dialect whether this error means that the connection is lost."""
        dialect = self._pool._dialect
        try:
            return bool(dialect.is_disconnect(error, self.dbapi_connection, None))
        except Exception:  # none, or not an exception of its driver
            return False

    def was_detached(self) -> bool:
        """Tell, once, whether the app took the connection out of the pool for good."""
        if self.dbapi_connection is None and self.is_open:
            self._let_go()
            return True
        return False

    def _let_go(self) -> None:
        """Note that there is no connection any more."""
        self.is_open = False

    def _disown(self) -> None:
        """Leave an inherited connection to the parent."""
        keep_from_finalising(self.dbapi_connection)
        self.dbapi_connection = None
        self._let_go()
