"""``GuardedPool``, the SQLAlchemy pool class."""

from __future__ import annotations

import math
import threading
import time
import typing as t
import weakref

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.pool.base import ResetStyle, _ConnectionFairy, reset_none

from ..databases import Database, for_dialect
from ..errors import PoolTimeout
from .acquire import SlowPath
from .connect_breaker import ConnectBreaker
from .fair_pool import FairPool
from .fork import (
    after_fork_in_child,
    keep_from_finalising,
    orphan_all,
    renew_listeners_locks,
)
from .holders import NO_HOLDERS, Holders
from .housekeeper import housekeeper
from .idle_connections import (
    close_all,
    close_at_exit,
    close_idle,
    close_outdated,
    close_surplus,
    close_unfit,
)
from .idle_filler import IdleFiller, filling_thread
from .idle_limits import IdleLimits
from .pid import current_pid, known_pid
from .places import Places, unlimited
from .session_probe import SessionProbe
from .slot import GuardedRecord
from .types import NO_CALLBACKS, Obstacle, Policy, PoolCallbacks

_pools: weakref.WeakSet[GuardedPool] = weakref.WeakSet()


class GuardedPool(FairPool):
    """A :class:`~sqlalchemy.pool.QueuePool` that hands out no stale connection, and
    serves the oldest request first.

    It takes a QueuePool's arguments; *policy*, *callbacks* and *holders* are the
    extension's, and so is *new_places*. ``_fork_lock`` protects the change-over to a
    child process, nothing else. It is re-entrant because a garbage collection inside
    may return a connection.
    """

    # Keeps logging.getLogger("sqlalchemy.pool") and echo_pool in charge.
    _sqla_logger_namespace = "sqlalchemy.pool.impl.GuardedPool"

    # For idle times and ages; the tests let it jump.
    clock = staticmethod(time.monotonic)

    # Each pool has its own of these. Named here too, because tests that compare
    # the attributes of two pools leave out those of the class.
    _fork_lock: t.Any = None
    _breaker: ConnectBreaker = t.cast(ConnectBreaker, None)
    _session_probe: SessionProbe = t.cast(SessionProbe, None)
    _slow_path: SlowPath = t.cast(SlowPath, None)
    idle_filler: IdleFiller = t.cast(IdleFiller, None)
    database: Database = t.cast(Database, None)
    # Replaced as a whole with each renew(), and compared with that of each record.
    generation: object = None

    def __init__(
        self,
        creator: t.Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,
        policy: Policy | None = None,
        callbacks: PoolCallbacks = NO_CALLBACKS,
        holders: Holders = NO_HOLDERS,
        new_places: t.Callable[[], Places] = unlimited,
        **kwargs: t.Any,
    ) -> None:
        if policy is None:  # used as a plain poolclass
            policy = Policy(recycle=kwargs.get("recycle", -1))
        self.policy = policy
        self.callbacks = callbacks
        self.holders = holders
        self.name = policy.name
        self.limits = IdleLimits(policy, callbacks)
        self._disposed = self._retired = False
        self.generation = object()
        self._pid = current_pid()
        self._fork_lock = threading.RLock()
        kwargs["recycle"] = self.limits.max_age
        super().__init__(
            creator, pool_size, max_overflow, timeout, use_lifo, new_places, **kwargs
        )
        self.database = for_dialect(getattr(self._dialect, "name", "unknown"))
        self._start()
        _pools.add(self)
        close_at_exit(self)
        callbacks.began(self)
        housekeeper.add(self, may_hang=True)

    def _start(self) -> None:
        self._breaker = ConnectBreaker(
            self.database.connect_failure,
            self._pool.open_none_until,
            self.database.refuses_login,
            self.callbacks.server_is_away,
            self.policy.describe,
        )
        driver = getattr(self._dialect, "driver", "")
        self._session_probe = SessionProbe(
            self.database, driver, self._invoke_creator, self._pool.places
        )
        self._slow_path = SlowPath(self, self._pool, self._breaker, self._session_probe)
        self.idle_filler = IdleFiller(self, self._pool, self._breaker)

    # What others ask for -----------------------------------------------------------

    @property
    def outage(self) -> str | None:
        """Why connects fail while the server does not answer; None if it answers."""
        return self._breaker.outage if self._breaker.is_away else None

    def obstacle(self) -> Obstacle | None:
        """Return what keeps new connections from being made; None if nothing does."""
        return None if self._retired else self._breaker.obstacle()

    @property
    def _reset_on_return(self) -> ResetStyle:
        """Say how to reset what comes back: not at all what is the parent's.

        SQLAlchemy asks for this just before it sends a rollback, and once more before
        a commit, so nothing may change until :meth:`_do_return_conn`.
        """
        # After a fork that ran no hooks (uWSGI); otherwise it is orphaned by now.
        return self._reset if self._pid == known_pid[0] else reset_none

    @_reset_on_return.setter
    def _reset_on_return(self, value: ResetStyle) -> None:
        self._reset = value

    def _make_record(self) -> GuardedRecord:
        return GuardedRecord(self)

    # Handing out -------------------------------------------------------------------

    def connect(self) -> PoolProxiedConnection:
        """Hand out a connection.

        :raises PoolTimeout: none came free in time; or :class:`PoolDeadlock`,
            :class:`TooManyWaiting`, at once.
        """
        fairy = _ConnectionFairy._checkout(self)
        record: GuardedRecord = fairy._connection_record  # type: ignore[assignment] # it is None once closed only
        self.callbacks.took(record, fairy, record.is_counted)
        return fairy

    def _do_get(self) -> ConnectionPoolEntry:
        if self._pid != current_pid():  # a fork that ran no hooks (uWSGI)
            self.forget_parent()
        queue = self._pool
        record = number = None
        try:
            if queue.waiting:
                began_at = self.holders.returners.came_back()
                if began_at < math.inf:
                    record = queue.get_now(began_at)
            else:
                try:  # noqa: SIM105 (with every checkout)
                    record = queue.pop()
                except IndexError:
                    pass
            if record is not None:
                if record.is_fit():
                    record.is_found_fit = True
                    return record
                number = record.returns
            return self._slow_path.get(record)
        except BaseException as error:  # gevent.Timeout, too: the slot comes back
            if record is not None and number in (None, record.returns):
                self.free(record)
            queue.serve()  # what was kept for this thread
            if isinstance(error, PoolTimeout):
                self.callbacks.failed(error)
            raise

    def refill(self, record: GuardedRecord) -> None:
        """Replace a connection that was lost after the pool had handed it over."""
        self._slow_path.refill(record)

    # Taking back -------------------------------------------------------------------

    def _do_return_conn(self, record: GuardedRecord) -> None:  # type: ignore[override] # _create_connection makes no others
        is_inherited = False
        try:
            is_inherited = record.pid != current_pid()
            if is_inherited:
                keep_from_finalising(record)
                self.forget_parent()
                return
            if record.was_detached():
                self._pool.places.lend(record.last())
                self.callbacks.closed(record, "detached")
            self.callbacks.gave(record)
            if self._retired:
                record.close()
            elif record.generation is not self.generation:
                record.close_because("invalidated")
        except BaseException:
            if not is_inherited:
                # Perhaps again: it may have been interrupted there.
                self.callbacks.gave(record)
            raise
        finally:
            if not is_inherited:  # after any exception too
                number = record.returns
                try:
                    self._take_back(record)
                except BaseException:
                    if record.returns == number:
                        self._take_back(record)
                    else:
                        self._pool.serve()
                    raise

    def _take_back(self, record: GuardedRecord) -> None:
        record.is_found_fit = record.is_counted = False
        places = self._pool.places
        if places.owes > 0 and record.dbapi_connection is not None and places.pays():
            record.close_because("idle")
        if record.dbapi_connection is None:
            self._pool.free(record)
            return
        record.idle_since = self.clock()
        queue, returners = self._pool, self.holders.returners
        began_at = returners.comes_back() if queue.waiting else math.inf
        surplus = queue.put(record, began_at)
        if began_at < math.inf:
            returners.expect(queue)
        if surplus is not None:
            close_idle(queue, surplus, "overflow")
        if self._retired:  # meanwhile
            self._dispose_again()

    # Closing and replacing ---------------------------------------------------------

    def tend(self) -> None:
        """Do what must be done without traffic; the housekeeper calls it.

        Closes idle connections whose time is up, those that are gone, and those that
        are more than a smaller pool keeps, and lets waiting threads try again if the
        server was full.
        """
        if self._pid != current_pid():
            return
        queue, limits, max_idle = self._pool, self.limits, self.policy.max_idle
        min_idle, again = self.idle_filler.keeps, self._dispose_again
        close_unfit(queue, self.clock(), max_idle, min_idle, limits, again)
        close_surplus(queue)
        if self.idle_filler.is_due():
            filling_thread.wake()
        limits.conclude(self._breaker.is_away, queue.idle)
        if queue.waiting:
            queue.serve()

    def renew(self) -> None:
        """Replace all connections, each as soon as it is not in use.

        Those that are idle are closed at once, one after the other, in the calling
        thread; who waits gets the slot that comes free. Those that are out are closed
        when they come back, and one that is being opened when it is open. None of
        them is handed out again, the next checkout gets a new connection. All are
        counted as ``invalidated``. It needs no lock: whichever of two calls is last
        is right for both. A child that is forked later has nothing to do with it.

        :raises Exception: what a listener to closing connections raised; what is
            still idle then is closed by the next round of the housekeeper.
        """
        if self._pid != current_pid():  # a fork that ran no hooks (uWSGI)
            self.forget_parent()
        self.generation = object()
        close_outdated(self._pool)

    def dispose(self) -> None:
        """Close what is idle; in a child only what the child itself opened."""
        if self._pid != current_pid():  # a fork that ran no hooks (uWSGI)
            self.forget_parent()
        self._disposed = True
        close_all(self._pool)
        self.logger.info("Pool disposed. %s", self.status())

    def _dispose_again(self) -> None:
        """Close what became idle here while the pool was replaced.

        Without a dispose() (``Engine.dispose(close=False)``) what is idle is to stay
        open.
        """
        if self._retired and self._disposed:
            self.dispose()

    def recreate(self) -> GuardedPool:
        """Return the pool that takes this one's place (``Engine.dispose``).

        What is still checked out here is closed when it comes back: no thread would
        ever take it from this pool again.
        """
        if self._pid != current_pid():  # a fork that ran no hooks (uWSGI)
            self.forget_parent()
        self.logger.info("Pool recreating")
        self._retired = True
        self._dispose_again()  # of what came back between dispose() and this
        fresh: GuardedPool = self._another(
            reset_on_return=self._reset,
            policy=self.policy,
            callbacks=self.callbacks,
            holders=self.holders,
        )
        fresh.limits = self.limits
        return fresh

    def forget_parent(self) -> None:
        """Start empty in a forked child, without touching the parent's connections.

        Its locks are replaced as well: the fork may have caught them held.
        """
        with self._fork_lock:
            if self._pid == current_pid():
                return
            if self._pool.opened:
                keep_from_finalising(self._pool)
                if self.callbacks is NO_CALLBACKS:  # otherwise that is its part
                    orphan_all(list(self._pool.records))
            self._make_queue(self._pool.maxsize, self._pool.use_lifo)
            self._start()
            renew_listeners_locks(self.dispatch)
            self._pid = current_pid()
        self.callbacks.forked()


@after_fork_in_child
def _forget_parents() -> None:
    for pool in list(_pools):
        pool._fork_lock = threading.RLock()
        pool.forget_parent()
