"""The slow path of a checkout: ping, connect or queue."""

from __future__ import annotations

import gc
import math
import threading
import time
import typing as t

from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import PoolTimeout
from .connect_breaker import ConnectBreaker, ServerFullError
from .fair_queue import FairQueue
from .late_patch import late_patch
from .outage import Patience
from .refusals import PoolOfHolders, Refusals
from .session_probe import LEAD, SessionProbe
from .slot import GuardedRecord
from .types import FIT, Attempt, Claim, PoolCallbacks
from .waiter import Waiter

_clock = time.monotonic

# Between two collections of garbage goes as many times what the last one took, so that
# an app that runs into deadlocks all the time is not busy with collecting.
_COLLECT_EVERY: t.Final = 100


class PoolOfWaiters(PoolOfHolders, t.Protocol):
    """A guarded pool, as far as the slow path needs it."""

    callbacks: PoolCallbacks

    def checkedout(self) -> int:
        """Return the number of connections that are out or being opened."""

    def owns(self, record: ConnectionPoolEntry) -> bool:
        """Tell whether a record is one of this pool's."""

    def free(self, record: GuardedRecord) -> None:
        """Take back a record that was not handed out, without its connection."""

    def _do_return_conn(self, record: GuardedRecord) -> None:
        """Take back a record that was handed out."""


class SlowPath:
    """Finds a fit record where the pool has none at once.

    The queue has the waiters, the breaker those that connect. Its only state is when
    garbage may be collected again; any thread sets it, and the last one is right.
    """

    def __init__(
        self,
        pool: PoolOfWaiters,
        queue: FairQueue[GuardedRecord],
        breaker: ConnectBreaker,
        session_probe: SessionProbe,
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._breaker = breaker
        self._session_probe = session_probe
        self._refusals = Refusals(pool, queue, breaker, session_probe)
        self._collect_from = -math.inf

    def get(self, record: GuardedRecord | None) -> GuardedRecord:
        """Return a fit record when it takes a question, a connect, or waiting.

        :param record: one that may not be fit.
        """
        if threading.local is not late_patch.local:
            late_patch.notice()
        queue, callbacks = self._queue, self._pool.callbacks
        claim, is_waiting = None, False
        number = None if record is None else record.returns
        attempt = Attempt(_clock())
        begun = attempt.began_at
        try:
            until = begun + self._pool._timeout
            patience = Patience(begun, self._pool.policy.connect_retry, until)
            while True:
                if record is None:
                    record = queue.get_now()
                if record is None:
                    if claim is None:
                        attempt.is_counted = True
                        claim = callbacks.began_waiting(self._pool.checkedout())
                        is_waiting = True
                    else:  # what it was handed could not be connected
                        is_waiting = True
                        callbacks.waits_again(claim)
                    asked_at = _clock()
                    try:
                        record = self._wait(claim, until)
                    finally:
                        callbacks.stopped_waiting(claim)
                        is_waiting = False
                    attempt.began_at += _clock() - asked_at  # that was no connecting
                number = record.returns
                if record.is_fit():
                    self._found(record, attempt, begun)
                    return record
                try:
                    callbacks.began_connecting(attempt, self._pool.checkedout())
                    try:
                        self._make_fit(record, patience, may_queue=True)
                    finally:
                        callbacks.stopped_connecting(attempt)
                except ServerFullError:
                    self._pool.free(record)
                    record = number = None  # in this order
                    # While it tried, no thread could tell how that would end.
                    for each in queue.claims():
                        self._break_deadlock(each)
                    continue
                self._found(record, attempt, begun)
                return record
        except BaseException as error:  # an asynchronous one too
            try:
                if record is not None and number in (None, record.returns):
                    self._pool.free(record)
            finally:
                if claim is not None and is_waiting:
                    callbacks.stopped_waiting(claim)
            if isinstance(error, PoolTimeout):
                error.waited_seconds = _clock() - begun
            elif isinstance(error, Exception):
                callbacks.got_none()
            raise

    def _found(self, record: GuardedRecord, attempt: Attempt, begun: float) -> None:
        record.is_found_fit = True
        record.is_counted = attempt.is_counted
        if attempt.is_counted:
            record.waited_seconds = _clock() - begun
            self._pool.callbacks.waited(record.waited_seconds)

    def _make_fit(
        self, record: GuardedRecord, patience: Patience, may_queue: bool
    ) -> None:
        if record.dbapi_connection is not None:
            try:
                reason = record.fitness()
            except BaseException:  # it is in the middle of a question
                record.close_because("dead")
                raise
            if reason == FIT:
                return
            record.close_because(reason)
        self._open(record, patience, self._are_there_others if may_queue else _is_not)

    def _open(
        self,
        record: GuardedRecord,
        patience: Patience,
        may_queue: t.Callable[[], bool],
    ) -> None:
        record.connect_until = patience.deadline
        self._breaker.connect(record.open, patience, may_queue)
        is_first = True
        while record.is_outdated() and (is_first or _clock() < patience.deadline):
            # The pool was renewed meanwhile: this one may lead to the old server.
            # One more attempt in any case, although the deadline may be over.
            is_first = False
            record.close_because("invalidated")
            self._breaker.connect(record.open, patience, may_queue)

    def refill(self, record: GuardedRecord) -> None:
        """Replace a connection that was lost after the pool had handed it over."""
        if record.dbapi_connection is not None:
            record.close_because("dead")
        pool, now = self._pool, _clock()
        patience = Patience(now, pool.policy.connect_retry, now + pool._timeout)
        attempt = Attempt(now)
        attempt.is_counted = True
        pool.callbacks.began_connecting(attempt, pool.checkedout())
        try:
            self._open(record, patience, _is_not)
        except Exception:
            pool.callbacks.got_none()
            raise
        finally:
            pool.callbacks.stopped_connecting(attempt)

    def _are_there_others(self) -> bool:
        """Tell whether there is another connection: idle, or in use and to be given
        back.
        """
        return self._queue.opened > self._breaker.pending

    def _wait(self, claim: Claim, until: float) -> GuardedRecord:
        queue, probe = self._queue, self._session_probe
        waiter: Waiter[GuardedRecord] = Waiter(claim)
        is_withdrawn = False
        most = self._pool.policy.max_waiting
        try:
            queue.enqueue(
                waiter, math.inf if most is None else most, self._refusals.too_many
            )
            if (
                claim.has_any  # else no other waits for it
                and not waiter.is_settled()
                and (queue.opened >= queue.limit or queue.opens_none_until > _clock())
            ):
                self._break_deadlock(claim)
            record, ask_at = None, until - min(LEAD, self._pool._timeout / 2)
            if not probe.has_asked(ask_at):
                record = queue.wait(waiter, ask_at)
                if record is None and _clock() < until:
                    probe.begin(self._pool.holders.sessions_out)
            if record is None:
                record = queue.wait(waiter, until)
            if record is None:
                record = queue.withdraw(waiter)
                is_withdrawn = True
            if record is None:
                raise waiter.error or self._refusals.timed_out()
            return record
        except BaseException as error:
            # What was handed over in the same moment goes to the next.
            granted = waiter.grant if is_withdrawn else queue.withdraw(waiter)
            if granted is not None:
                self._pool._do_return_conn(granted)
            if isinstance(error, PoolTimeout):
                if self._breaker.is_away and self._breaker.pending:
                    # What he waited for is held up by the server, not by others' work.
                    self._pool.callbacks.got_none()
                else:
                    self._pool.callbacks.timed_out(error)
            raise

    def _break_deadlock(self, claim: Claim) -> None:
        queue = self._queue
        for is_last in (False, True):
            found = self._pool.holders.find_deadlock(
                claim, queue.claims, queue.opened, self._pool.owns
            )
            if found is None:
                return
            if is_last:
                victim, error = found
                if queue.opened < queue.limit:
                    error.args = (f"{error.args[0]}{self._refusals.server_says()}",)
                queue.fail(victim, error)
            else:  # what only garbage holds comes back by itself
                self._collect()

    def _collect(self) -> None:
        """Collect garbage, unless that was done lately: where much lives it takes long,
        and stops all threads.
        """
        begun = _clock()
        if begun >= self._collect_from:
            gc.collect()
            ended = _clock()
            self._collect_from = ended + _COLLECT_EVERY * (ended - begun)


def _is_not() -> bool:
    return False
