"""The slow path of a checkout: ping, connect or queue."""

from __future__ import annotations

import gc
import math
import time
import typing as t

from sqlalchemy.pool import ConnectionPoolEntry

from ..error_notes import Room, add_note, explain_away, explain_full, explain_timeout
from ..errors import PoolTimeout, TooManyWaiting
from .connect_breaker import ConnectBreaker, ServerFullError
from .fair_queue import FairQueue, Waiter
from .outage import Patience
from .session_probe import LEAD, SessionProbe
from .slot import FIT, GuardedRecord
from .types import Attempt, Claim, Holders, Policy, PoolCallbacks

_clock = time.monotonic

# Between two collections of garbage goes as many times what the last one took, so that
# an app that runs into deadlocks all the time is not busy with collecting.
_COLLECT_EVERY: t.Final = 100

# What is said of the holders is said for as many seconds: to look at all threads for
# each error of a storm would take three times as long as the rest of it.
SAID_FOR: t.Final = 0.1


class PoolOfWaiters(t.Protocol):
    """A guarded pool, as far as the slow path needs it."""

    name: str
    policy: Policy
    callbacks: PoolCallbacks
    holders: Holders
    _timeout: float

    def size(self) -> int:
        """Return ``pool_size``."""

    def overflow(self) -> int:
        """Return the open connections above that."""

    def checkedout(self) -> int:
        """Return the number of connections that are out or being opened."""

    def room(self, waiting: int = 0) -> Room:
        """Return what this pool has and may have, for an error."""

    def owns(self, record: ConnectionPoolEntry) -> bool:
        """Tell whether a record is one of this pool's."""

    def free(self, record: GuardedRecord) -> None:
        """Take back a record that was not handed out, without its connection."""

    def _do_return_conn(self, record: GuardedRecord) -> None:
        """Take back a record that was handed out."""


class _Said(t.NamedTuple):
    """What errors say of the holders.

    :ivar until: monotonic seconds up to which that is true enough.
    :ivar note: "" if none has a connection.
    """

    until: float
    holders: str
    note: str


class SlowPath:
    """Finds a fit record where the pool has none at once.

    The queue has the waiters, the breaker those that connect. Its only state is when
    garbage may be collected again, and what was said of the holders; any thread sets
    it, and the last one is right.
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
        self._collect_from = -math.inf
        self._said = _Said(-math.inf, "", "")

    def get(self, record: GuardedRecord | None) -> GuardedRecord:
        """Return a fit record when it takes a question, a connect, or waiting.

        :param record: one that may not be fit.
        """
        queue, callbacks = self._queue, self._pool.callbacks
        claim, is_waiting = None, False
        number = None if record is None else record.returns
        attempt = Attempt(_clock())
        try:
            begun = attempt.began_at
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
                if record.has_fit_connection():
                    record.is_found_fit = True
                    record.is_counted = attempt.is_counted
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
                record.is_found_fit = True
                record.is_counted = attempt.is_counted
                return record
        except BaseException as error:  # an asynchronous one too
            try:
                if record is not None and number in (None, record.returns):
                    self._pool.free(record)
            finally:
                if claim is not None and is_waiting:
                    callbacks.stopped_waiting(claim)
            if isinstance(error, Exception) and not isinstance(error, PoolTimeout):
                callbacks.got_none()
            raise

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
        queue, waiter = self._queue, Waiter[GuardedRecord](claim)
        is_withdrawn = False
        most = self._pool.policy.max_waiting
        try:
            queue.enqueue(waiter, math.inf if most is None else most, self._too_many)
            if not waiter.is_settled() and (
                queue.opened >= queue.limit or queue.opens_none_until > _clock()
            ):
                self._break_deadlock(claim)
            record = queue.wait(waiter, until - min(LEAD, self._pool._timeout / 2))
            if record is None and _clock() < until:
                self._session_probe.begin(self._pool.holders.sessions_out)
                record = queue.wait(waiter, until)
            if record is None:
                record = queue.withdraw(waiter)
                is_withdrawn = True
            if record is None:
                raise waiter.error or self._timed_out()
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
                    error.args = (f"{error.args[0]}{self._refused()}",)
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

    def _timed_out(self) -> PoolTimeout:
        return self._noted(
            PoolTimeout(
                f"{self._limit_reached()}, connection timed out, timeout"
                f" {self._pool._timeout:.2f}{self._explain()}",
                code="3o7r",
            )
        )

    def _too_many(self) -> PoolTimeout:
        most = self._pool.policy.max_waiting
        return self._noted(
            TooManyWaiting(
                f"{self._limit_reached()}, and {most} wait already, as many as"
                f" POOLGUARD_MAX_WAITING allows{self._explain()}",
                code="3o7r",
            )
        )

    def _noted(self, error: PoolTimeout) -> PoolTimeout:
        pool = self._pool
        if self._breaker.is_full:
            add_note(error, explain_full(self._room()))
        elif self._breaker.is_away:
            add_note(error, explain_away(pool.name, pool.policy.connect_retry))
        else:
            note = self._look().note
            if note:
                add_note(error, note)
        return error

    def _limit_reached(self) -> str:
        pool, queue = self._pool, self._queue
        if queue.opened < queue.limit:  # the server's limit, or one being opened
            return f"All {queue.opened} connections of the pool are in use"
        return (
            f"QueuePool limit of size {pool.size()} overflow {pool.overflow()} reached"
        )

    def _explain(self) -> str:
        """Return who has the connections, and what is wrong with the server."""
        return self._refused() + self._look().holders

    def _look(self) -> _Said:
        """Look at the holders, unless that was done a moment ago."""
        if _clock() >= self._said.until:
            pool, states = self._pool, self._session_probe.states()
            held, note = pool.holders.held_seconds(), ""
            if held:
                note = explain_timeout(self._room(), pool._timeout, held)
            holders = pool.holders.describe_holders(states)
            self._said = _Said(_clock() + SAID_FOR, holders, note)
        return self._said

    def _room(self) -> Room:
        return self._pool.room(len(self._queue.waiting))

    def _refused(self) -> str:
        outage = self._breaker.outage
        return f". The server refuses more: {outage}" if outage else ""


def _is_not() -> bool:
    return False
