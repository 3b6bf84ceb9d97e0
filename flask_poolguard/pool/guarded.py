"""The pool: a QueuePool that judges, reports, and survives a fork."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import typing as t
import weakref
from dataclasses import dataclass

from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool
from sqlalchemy.pool.base import ResetStyle, _ConnectionFairy, reset_none
from sqlalchemy.util import queue as sqla_queue

from ..config import AUTO
from ..databases import Database, for_dialect
from .inherited import keep_from_finalising
from .observer import NULL_OBSERVER, Observer
from .record import GuardedRecord
from .recycle import Recycle

logger = logging.getLogger("flask_poolguard")

_pools: weakref.WeakSet[GuardedPool] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Policy:
    """What a guarded pool knows beyond a QueuePool's arguments.

    :ivar name: the bind's, for messages.
    :ivar recycle: ``"auto"``, seconds of age, or -1.
    :ivar recycle_origin: who set it, for messages.
    :ivar idle_limit: ``POOLGUARD_IDLE_LIMIT`` in seconds.
    """

    name: str = "default"
    recycle: float | t.Literal["auto"] = -1
    recycle_origin: str = "recycle"
    idle_limit: float | None = None


class GuardedPool(QueuePool):
    """A :class:`~sqlalchemy.pool.QueuePool` that hands out nothing stale.

    It takes a QueuePool's arguments; *policy* and *observer* are the extension's.
    ``_fork_lock`` protects the change-over to a child process, nothing else. It is
    re-entrant because a garbage collection inside may return a connection.
    """

    # Keeps logging.getLogger("sqlalchemy.pool") and echo_pool in charge.
    _sqla_logger_namespace = "sqlalchemy.pool.impl.GuardedPool"

    clock = staticmethod(time.monotonic)

    def __init__(
        self,
        creator: t.Any,
        *args: t.Any,
        policy: Policy | None = None,
        observer: Observer = NULL_OBSERVER,
        **kwargs: t.Any,
    ) -> None:
        if policy is None:  # used as a plain poolclass
            policy = Policy(recycle=kwargs.get("recycle", -1))
        self.policy = policy
        self.observer = observer
        self.name = policy.name
        self.max_age_seconds = -1.0 if policy.recycle == AUTO else policy.recycle
        self.idle_limit_seconds = policy.idle_limit
        self._recycle_known = Recycle(None, "not known before the first connection")
        self._limit_known: float | None = None
        self._warned: dict[str, object] = {}
        self._disposed = self._retired = False
        self._pid = os.getpid()
        self._fork_lock = threading.RLock()
        kwargs["recycle"] = self.max_age_seconds
        super().__init__(creator, *args, **kwargs)
        self.database: Database = for_dialect(getattr(self._dialect, "name", "unknown"))
        _pools.add(self)

    @property
    def recycle(self) -> Recycle:
        """The recycle time in force and its source: derived, or the user's own."""
        if self.policy.recycle == AUTO:
            return self._recycle_known
        age = self.max_age_seconds
        return Recycle(
            age if age > -1 else None, f"{self.policy.recycle_origin} = {age:g}"
        )

    @property  # type: ignore[override] # declared int; floats work
    def _recycle(self) -> float:
        """Show the derived value where SQLAlchemy keeps its own (-1 for none)."""
        seconds = self.recycle.seconds
        return -1 if seconds is None else seconds

    @_recycle.setter
    def _recycle(self, value: float) -> None:
        """Accept what Pool.__init__ sets; the policy holds the value."""

    @property
    def _reset_on_return(self) -> ResetStyle:
        """Say how to reset what comes back: not at all what is the parent's.

        SQLAlchemy asks for this just before it sends a rollback.
        """
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self.forget_parent()
            return reset_none
        return self._reset

    @_reset_on_return.setter
    def _reset_on_return(self, value: ResetStyle) -> None:
        self._reset = value

    def connect(self) -> PoolProxiedConnection:
        """Hand out a connection.

        :raises sqlalchemy.exc.TimeoutError: none came free within the timeout.
        """
        try:
            fairy = _ConnectionFairy._checkout(self)
        except exc.TimeoutError:
            self.observer.timed_out()
            raise
        self.observer.took(fairy._connection_record, fairy)  # type: ignore[arg-type] # it is None once closed only
        return fairy

    def is_disconnect(self, error: Exception, connection: t.Any) -> bool:
        """Ask the dialect whether this error means a lost connection."""
        ask = getattr(self._dialect, "is_disconnect", None)
        return ask is not None and bool(ask(error, connection, None))

    def warn_once(self, subject: str, message: str, *args: object) -> None:
        """Log a warning the first time that this pool has something to say on it."""
        # One operation, so that of several threads only one finds it new.
        mine = object()
        if self._warned.setdefault(subject, mine) is mine:
            logger.warning(message, *args)

    def learn(self, recycle: Recycle, server_limit: float | None) -> None:
        """Note what the newest connection's server said."""
        age = self.max_age_seconds
        if server_limit is not None and age >= server_limit:
            self.warn_once(
                "recycle",
                "%s = %g s of bind %r is not below the server's idle limit of %g s,"
                " so it cannot protect idle connections. Remove it (the guard then"
                " derives %g s) or set it below %g.",
                self.policy.recycle_origin,
                age,
                self.name,
                server_limit,
                server_limit * 5 / 6,
                server_limit,
            )
        if (recycle, server_limit) != (self._recycle_known, self._limit_known):
            self._recycle_known, self._limit_known = recycle, server_limit
            self.observer.learned(self.recycle, server_limit)

    def _create_connection(self) -> ConnectionPoolEntry:
        return GuardedRecord(self)

    def _do_get(self) -> ConnectionPoolEntry:
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self.forget_parent()
        if -1 < self._max_overflow <= self._overflow and self._pool.empty():
            ticket = self.observer.began_waiting()
            try:
                return QueuePool._do_get(self)
            finally:
                self.observer.stopped_waiting(ticket)
        return QueuePool._do_get(self)

    def _do_return_conn(self, record: GuardedRecord) -> None:  # type: ignore[override] # _create_connection makes no others
        if record.pid != self._pid:
            keep_from_finalising(record)
            return
        self.observer.gave(record)
        record.idle_since = self.clock()
        if self._retired:
            record.close()
        try:
            # An empty record as well: whoever waits here fills it.
            self._pool.put(record, False)
            return
        except sqla_queue.Full:
            pass
        try:
            if record.dbapi_connection is not None:
                super(GuardedRecord, record).close()
                self.observer.closed(record, "overflow")
        finally:
            self._dec_overflow()

    def dispose(self) -> None:
        """Close what is idle; in a child only what the child itself opened."""
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self.forget_parent()
        self._disposed = True
        super().dispose()

    def recreate(self) -> GuardedPool:
        """Return the pool that takes this one's place (``Engine.dispose``).

        What is still checked out here is closed when it comes back: nobody would
        ever take it from this pool again.
        """
        self.logger.info("Pool recreating")
        self._retired = True
        # What came back between dispose() and this; without a dispose()
        # (``Engine.dispose(close=False)``) the idle connections are to stay open.
        for _ in range(self._pool.qsize() if self._disposed else 0):
            try:
                self._pool.get(False).close()
            except sqla_queue.Empty:
                break
        fresh = self.__class__(
            self._creator,
            pool_size=self._pool.maxsize,
            max_overflow=self._max_overflow,
            pre_ping=self._pre_ping,
            use_lifo=self._pool.use_lifo,
            timeout=self._timeout,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
            policy=self.policy,
            observer=self.observer,
        )
        fresh._recycle_known = self._recycle_known
        fresh._limit_known = self._limit_known
        fresh._warned = self._warned
        return fresh

    def forget_parent(self) -> None:
        """Start empty in a forked child, without touching the parent's connections.

        Its locks are replaced as well: the fork may have caught them held.
        """
        with self._fork_lock:
            if self._pid == os.getpid():
                return
            size = self._pool.maxsize
            if self._overflow > -size:  # the queue itself may be locked
                keep_from_finalising(self._pool)
            self._pool = self._queue_class(size, use_lifo=self._pool.use_lifo)
            self._overflow = 0 - size
            self._overflow_lock = threading.Lock()
            # SQLAlchemy's own (2.0.31 to 2.1.9), held while the first connection is
            # set up. Without a dialect there is nobody to set it up.
            with contextlib.suppress(AttributeError):
                listeners: t.Any = self.dispatch.connect
                listeners._exec_once_mutex = threading.Lock()
            self._pid = os.getpid()
        self.observer.forked()


def _forget_parents() -> None:
    for pool in list(_pools):
        pool._fork_lock = threading.RLock()
        pool.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
