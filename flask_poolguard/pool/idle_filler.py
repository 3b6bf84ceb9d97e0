"""Opens connections before a thread needs them (``POOLGUARD_MIN_IDLE``)."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import typing as t
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionFairy

from ..log_lines import warn
from .fork import after_fork_in_child
from .greenlets import are_threads_greenlets, blocker_of, would_thread_run_on
from .late_patch import after_late_patch
from .outage import Patience

if t.TYPE_CHECKING:
    from ..databases import Database
    from .connect_breaker import ConnectBreaker
    from .fair_queue import FairQueue
    from .idle_limits import IdleLimits
    from .slot import GuardedRecord
    from .types import Policy

_clock = time.monotonic

# Seconds between two looks.
PERIOD: t.Final = 1.0
# Seconds after a failure until the next attempt.
PAUSE: t.Final = 10.0


class PoolToFill(t.Protocol):
    """A guarded pool, as far as it is filled."""

    name: str
    policy: Policy
    limits: IdleLimits
    database: Database
    _dialect: t.Any
    _disposed: bool
    _retired: bool
    _pid: int

    def free(self, record: GuardedRecord) -> None:
        """Take back a record that was not handed out, without its connection."""

    def _do_return_conn(self, record: GuardedRecord) -> None:
        """Take back a record with its connection."""


class IdleFiller:
    """Opens idle connections of one pool, one after the other.

    Only one thread calls :meth:`open_one`, so what it changes needs no lock.

    :ivar keeps: how many idle connections stay in spite of ``POOLGUARD_MAX_IDLE``: none
        before the process is known to serve.
    """

    def __init__(
        self,
        pool: PoolToFill,
        queue: FairQueue[GuardedRecord],
        breaker: ConnectBreaker,
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._breaker = breaker
        self._not_before = -math.inf
        self.keeps = 0

    def begin(self) -> None:
        """Keep connections idle from now on: this process serves."""
        # SQLite opens at once, and would create a file that is not there yet.
        if self._pool.database.has_server:
            self.keeps = self._pool.policy.min_idle

    def is_due(self) -> bool:
        """Tell whether one is missing and may be opened now.

        The pool may be disposed of, and the process forked, at any moment, so this is
        asked before each one.
        """
        pool = self._pool
        if not self.keeps or not self._queue.lacks(self.keeps):
            return False
        if pool._retired or pool._disposed or pool._pid != os.getpid():
            return False
        if filling_thread.is_over or _clock() < self._not_before:
            return False
        if are_threads_greenlets() and blocker_of(getattr(pool._dialect, "driver", "")):
            return False  # all greenlets would wait for the connect
        return self._breaker.lets_ahead(PAUSE)

    def open_one(self, within: Callable[[], AbstractContextManager[object]]) -> bool:
        """Open one and let it lie idle; tell whether that worked.

        After a failure of any kind none is due for a while.

        :param within: makes a context for the listeners; it is left before the
            connection lies idle.
        """
        try:
            with ExitStack() as stack:
                stack.enter_context(within())  # first: if it raises, no slot is lost
                record = self._queue.reserve(self.keeps)
                if record is None:
                    return False
                self._fill(record, stack.close)
                return True
        except BaseException as error:
            # A listener's SystemExit, or GreenletExit, is no reason to stop for ever.
            self._failed(error)
            return False

    def _fill(self, record: GuardedRecord, leave: Callable[[], None]) -> None:
        pool, number = self._pool, record.returns
        try:
            self._connect(record)
            leave()
            if filling_thread.is_over:  # idle connections are closed by now
                pool.free(record)
            else:
                pool._do_return_conn(record)
        except BaseException:
            self._not_before = _clock() + PAUSE  # first: closing may raise as well
            if record.returns == number:
                pool.free(record)
            raise
        finally:
            self._queue.ahead = 0

    def _connect(self, record: GuardedRecord) -> None:
        now = _clock()
        # No checkout waits for it; POOLGUARD_CONNECT_TIMEOUT is its only limit.
        record.connect_until = math.inf
        record.is_ahead = True
        try:
            # No second attempt: who needs a connection tries for itself.
            self._breaker.connect(record.open, Patience(now, 0, math.inf), _is_not)
        finally:
            record.is_ahead = False
        # As on return, or a listener's transaction would stay open while it is idle.
        pool = t.cast(Pool, self._pool)
        fairy = _ConnectionFairy(pool, record.dbapi_connection, record, False)  # type: ignore[arg-type] # it was connected
        fairy._reset(
            pool, transaction_was_reset=False, terminate_only=False, asyncio_safe=True
        )

    def _failed(self, error: BaseException) -> None:
        self._not_before = _clock() + PAUSE
        pool = self._pool
        pool.limits.warn_once(
            "min_idle_not_reached",
            "No idle connection of bind %r could be opened for POOLGUARD_MIN_IDLE: %s."
            " Requests connect by themselves; the next attempt in the background"
            " follows in %.0f s at the earliest.",
            pool.name,
            pool.policy.describe(error),
            PAUSE,
        )


class Filling(t.Protocol):
    """What opens idle connections where they are missing."""

    def fill(self) -> None:
        """Open what is missing."""


class FillingThread:
    """The thread that opens idle connections, one of a process.

    A connect, or a listener, may hold it up for ever, so it does nothing else. It is
    started once there is a pool to fill. ``_lock`` protects the decision to start and
    what fills; ``_wake`` protects nothing, releasing it wakes the thread. It is made
    with the thread, and that is started outside of the lock, as the housekeeper's are.

    :ivar is_over: the process ends, and closes its idle connections.
    """

    def __init__(self) -> None:
        self._fillings: weakref.WeakSet[Filling] = weakref.WeakSet()
        self._reset()

    def _reset(self) -> None:
        self._lock, self._wake = threading.Lock(), threading.Lock()
        self._wake.acquire()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self.is_over = self._is_starting = False

    def renew_lock(self) -> None:
        """Make the lock anew: threading was patched."""
        self._lock = threading.Lock()

    def add(self, filling: Filling) -> None:
        """Let this fill, from now on, for as long as it lives."""
        with self._lock:
            self._fillings.add(filling)

    def start(self) -> None:
        """Start the thread unless it runs; it looks at once."""
        if self._pid != os.getpid():  # a fork that ran no hooks (uWSGI)
            self._reset()
        with self._lock:
            if self.is_over or self._is_starting:
                return
            if self._thread is not None and self._thread.is_alive():
                return
            if not would_thread_run_on():  # the housekeeper asks again
                return
            self._is_starting = True
            self._wake = threading.Lock()
            self._wake.acquire()
            thread = self._thread = threading.Thread(
                target=self._run,
                args=(self._wake,),
                name="poolguard-filler",
                daemon=True,
            )
        try:
            thread.start()
        except RuntimeError:  # no thread can be started: requests connect
            self._thread = None
        finally:
            self._is_starting = False

    def wake(self) -> None:
        """Look at once; idempotent."""
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def end(self) -> None:
        """Open nothing more."""
        self.is_over = True

    def _run(self, wake: t.Any) -> None:
        while not self.is_over:
            self._fill_all()  # a call, so that the pause keeps no app alive
            wake.acquire(timeout=PERIOD)

    def _fill_all(self) -> None:
        with self._lock:
            fillings = list(self._fillings)
        for each in fillings:
            try:
                each.fill()
            except BaseException:  # of a listener, a context or a log handler
                with contextlib.suppress(Exception):
                    warn("guard_failed", "Filling by %r failed", each, exc_info=True)


filling_thread: t.Final = FillingThread()
after_fork_in_child(filling_thread._reset)
after_late_patch(filling_thread.renew_lock)


def _is_not() -> bool:
    return False
