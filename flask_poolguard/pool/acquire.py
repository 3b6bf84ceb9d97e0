"""A checkout that takes a question, a connect, or waiting."""

from __future__ import annotations

import gc
import math
import time
import typing as t

from ..error_notes import add_note, explain_away, explain_full, explain_timeout
from ..errors import PoolTimeout, TooManyWaiting
from .connect_breaker import Gate, Patience, ServerFullError
from .fair_queue import Claim, HandOff, Waiter
from .session_probe import LEAD, Inquiry
from .slot import FIT, GuardedRecord
from .types import Attempt

if t.TYPE_CHECKING:
    from .guarded_pool import GuardedPool

_clock = time.monotonic

# Between two collections of garbage goes as many times what the last one took, so that
# an app that runs into deadlocks all the time is not busy with collecting.
_COLLECT_EVERY: t.Final = 100


class SlowCheckout:
    """Finds records for those whom the pool could not serve at once.

    Who waits is in the hand-off, who connects at the gate. Its only state is when
    garbage may be collected again; any thread sets it, and the last one is right.
    """

    def __init__(
        self, pool: GuardedPool, handoff: HandOff, gate: Gate, inquiry: Inquiry
    ) -> None:
        self._pool = pool
        self._handoff = handoff
        self._gate = gate
        self._inquiry = inquiry
        self._collect_from = -math.inf

    def get(self, record: GuardedRecord | None) -> GuardedRecord:
        """Return a fit record when it takes a question, a connect, or waiting.

        :param record: one that may not be fit.
        """
        handoff, observer = self._handoff, self._pool.observer
        claim, is_waiting = None, False
        number = None if record is None else record.returns
        attempt = Attempt(_clock())
        try:
            begun = attempt.began_at
            until = begun + self._pool._timeout
            patience = Patience(begun, self._pool.policy.connect_retry, until)
            while True:
                if record is None:
                    record = handoff.get_now()
                if record is None:
                    if claim is None:
                        attempt.is_counted = True
                        claim = observer.began_waiting(self._pool.checkedout())
                        is_waiting = True
                    else:  # what it was handed could not be connected
                        is_waiting = True
                        observer.waits_again(claim)
                    try:
                        record = self._wait(claim, until)
                    finally:
                        observer.stopped_waiting(claim)
                        is_waiting = False
                number = record.returns
                try:
                    observer.began_connecting(attempt, self._pool.checkedout())
                    try:
                        self._make_fit(record, patience, may_queue=True)
                    finally:
                        observer.stopped_connecting(attempt)
                except ServerFullError:
                    self._pool.free(record)
                    record = number = None  # in this order
                    # While it tried, nobody could tell how that would end.
                    for each in handoff.claims():
                        self._break_deadlock(each)
                    continue
                record.is_judged = True
                record.is_counted = attempt.is_counted
                return record
        except BaseException as error:  # wherever it struck: nothing is left behind
            try:
                if record is not None and number in (None, record.returns):
                    self._pool.free(record)
            finally:
                if claim is not None and is_waiting:
                    observer.stopped_waiting(claim)
            if isinstance(error, Exception) and not isinstance(error, PoolTimeout):
                observer.got_none()
            raise

    def _make_fit(
        self, record: GuardedRecord, patience: Patience, may_queue: bool
    ) -> None:
        if record.dbapi_connection is not None:
            try:
                reason = record.judge()
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
        self._gate.connect(record.open, patience, may_queue)
        is_first = True
        while record.is_outdated() and (is_first or _clock() < patience.deadline):
            # The pool was renewed meanwhile: it may lead to where nobody wants to be.
            # Once more in any case: whoever connects may be late already.
            is_first = False
            record.close_because("invalidated")
            self._gate.connect(record.open, patience, may_queue)

    def refill(self, record: GuardedRecord) -> None:
        """Replace a connection that was lost after the pool had handed it over."""
        if record.dbapi_connection is not None:
            record.close_because("dead")
        pool, now = self._pool, _clock()
        patience = Patience(now, pool.policy.connect_retry, now + pool._timeout)
        attempt = Attempt(now)
        attempt.is_counted = True
        pool.observer.began_connecting(attempt, pool.checkedout())
        try:
            self._open(record, patience, _is_not)
        except Exception:
            pool.observer.got_none()
            raise
        finally:
            pool.observer.stopped_connecting(attempt)

    def _are_there_others(self) -> bool:
        """Tell whether there is a connection that may be had: idle, or in use by
        somebody who will give it back.
        """
        return self._handoff.opened > self._gate.pending

    def _wait(self, claim: Claim, until: float) -> GuardedRecord:
        handoff, waiter = self._handoff, Waiter(claim)
        most = self._pool.policy.max_waiting
        try:
            handoff.enqueue(waiter, math.inf if most is None else most, self._too_many)
            if not waiter.is_settled() and (
                handoff.opened >= handoff.limit or handoff.closed_until > _clock()
            ):
                self._break_deadlock(claim)
            record = handoff.wait(waiter, until - min(LEAD, self._pool._timeout / 2))
            if record is None and _clock() < until:
                self._inquiry.begin(self._pool.observer.sessions_out())
                record = handoff.wait(waiter, until)
            if record is None:
                record = handoff.withdraw(waiter)
            if record is None:
                raise waiter.error or self._timed_out()
            return record
        except BaseException as error:
            # What was handed over in the same moment goes to the next.
            granted = handoff.withdraw(waiter)
            if granted is not None:
                self._pool._do_return_conn(granted)
            if isinstance(error, PoolTimeout):
                if self._gate.is_away and self._gate.pending:
                    # What he waited for is held up by the server, not by others' work.
                    self._pool.observer.got_none()
                else:
                    self._pool.observer.timed_out()
            raise

    def _break_deadlock(self, claim: Claim) -> None:
        handoff = self._handoff
        for is_last in (False, True):
            found = self._pool.observer.find_deadlock(
                claim, handoff.claims, handoff.opened, self._pool.owns
            )
            if found is None:
                return
            if is_last:
                victim, error = found
                if handoff.opened < handoff.limit:
                    error.args = (f"{error.args[0]}{self._refused()}",)
                handoff.fail(victim, error)
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
        room = pool.room(len(self._handoff.waiting))
        if self._gate.is_full:
            add_note(error, explain_full(room))
        elif self._gate.is_away:
            add_note(error, explain_away(pool.name, pool.policy.connect_retry))
        else:
            held = pool.observer.held_seconds()
            if held:
                add_note(error, explain_timeout(room, pool._timeout, held))
        return error

    def _limit_reached(self) -> str:
        pool, handoff = self._pool, self._handoff
        if handoff.opened < handoff.limit:  # the server's limit, or one being opened
            return f"All {handoff.opened} connections of the pool are in use"
        return (
            f"QueuePool limit of size {pool.size()} overflow {pool.overflow()} reached"
        )

    def _explain(self) -> str:
        """Return who has the connections, and what is wrong with the server."""
        states = self._inquiry.states()
        return self._refused() + self._pool.observer.describe_holders(states)

    def _refused(self) -> str:
        trouble = self._gate.trouble
        return f". The server refuses more: {trouble}" if trouble else ""


def _is_not() -> bool:
    return False
