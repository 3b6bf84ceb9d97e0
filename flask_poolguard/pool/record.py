"""One slot of a guarded pool: judges its connection before it is handed out.

SQLAlchemy has no hook between taking a record from the queue and handing its
connection out, so this overrides ``get_connection`` of the private
``_ConnectionRecord`` and calls its private ``__connect`` and ``__close``; the same
in SQLAlchemy 2.0.31 and 2.1.9, on which it was checked.
"""

from __future__ import annotations

import logging
import os
import time
import typing as t

from sqlalchemy.pool.base import _ConnectionRecord

from ..databases import IdleLimit
from .inherited import keep_from_finalising
from .recycle import Recycle, derive

if t.TYPE_CHECKING:
    from .guarded import GuardedPool
    from .observer import CloseReason

logger = logging.getLogger("flask_poolguard")

_FIT: t.Final = "fit"


class GuardedRecord(_ConnectionRecord):
    """A record that knows its own connection's limit and idle time.

    :ivar pid: the process that opened the connection; no other may use it.
    :ivar recycle: derived for this connection; None until the server was asked.
    :ivar idle_since: monotonic time of the last return to the pool.
    :ivar proved_at: monotonic time of the last answer that is known to have come
        from the server (a view may take a connection and never use it).
    """

    __slots__ = ("_idle_allowed", "_pool", "idle_since", "pid", "proved_at", "recycle")

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool
        self.pid = os.getpid()
        self.recycle: Recycle | None = None
        self._idle_allowed: float | None = None
        self.idle_since = self.proved_at = 0.0
        super().__init__(pool)
        pool.observer.connected(self)

    def get_connection(self) -> t.Any:
        """Return a connection that may be handed out, replaced first if need be."""
        if self.dbapi_connection is None:
            self._connect_anew()
        elif self.recycle is not None:
            verdict = self._judge()
            if verdict != _FIT:
                self._close_because(verdict)
                self._connect_anew()
        if self.recycle is None:
            self._ask_for_limit()
        return self.dbapi_connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.pid != os.getpid():
            self._disown()
        elif self.dbapi_connection is not None:
            super().close()
            self._pool.observer.closed(self, None)

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Close an unusable connection, or have it replaced at the next checkout."""
        if self.pid != os.getpid():
            self._disown()
        had_one = self.dbapi_connection is not None
        super().invalidate(e, soft)
        if had_one and not soft:
            self._pool.observer.closed(self, "dead")

    def _disown(self) -> None:
        """Leave an inherited connection to the parent."""
        keep_from_finalising(self.dbapi_connection)
        self.dbapi_connection = None

    def _judge(self) -> CloseReason | t.Literal["fit"] | None:
        """Return why to replace the connection, ``"fit"`` if it can be handed out."""
        pool = self._pool
        started = self.starttime
        if pool._invalidate_time > started:
            return "dead"
        if self._soft_invalidate_time > started:
            return None
        if -1 < pool.max_age_seconds < time.time() - started:
            return "recycled"
        allowed = self._idle_allowed
        if allowed is not None:
            now = pool.clock()
            if now - self.idle_since >= allowed:
                return "recycled"
            if now - self.proved_at >= allowed and not pool._pre_ping:
                # It came back lately, but maybe nobody used it, and the server
                # counts from the last statement. One ping per limit settles it
                # (and none where SQLAlchemy pings at every checkout).
                # arg-type: a fit record has a connection, which mypy cannot see.
                if not pool._dialect._do_ping_w_event(self.dbapi_connection):  # type: ignore[arg-type]
                    return "dead"
                self.proved_at = now
        return _FIT

    def _close_because(self, reason: CloseReason | None) -> None:
        self._pool.logger.info(
            "Connection %r is replaced before it is handed out (%s)",
            self.dbapi_connection,
            reason or "invalidated",
        )
        self._ConnectionRecord__close(terminate=True)  # type: ignore[attr-defined] # private name
        self._pool.observer.closed(self, reason)

    def _connect_anew(self) -> None:
        self.info.clear()
        self.recycle = None
        self._ConnectionRecord__connect()  # type: ignore[attr-defined] # private name
        self._pool.observer.connected(self)

    def _ask_for_limit(self) -> None:
        """Read the limit on this connection, after all connect listeners ran."""
        pool = self._pool
        try:
            limit = pool.database.idle_limit(self.dbapi_connection)
        except Exception as error:
            if pool.is_disconnect(error, self.dbapi_connection):
                raise
            limit = IdleLimit(None, f"the server did not tell ({error})")
            pool.warn_once(
                "idle-limit",
                "The idle limit of %s is unknown: %s. Set POOLGUARD_IDLE_LIMIT if"
                " connections die while they idle.",
                pool.name,
                error,
            )
        self.recycle = derive(limit, pool.idle_limit_seconds)
        self._idle_allowed = self.recycle.jittered()
        self.idle_since = self.proved_at = pool.clock()
        pool.learn(self.recycle, limit.seconds)
