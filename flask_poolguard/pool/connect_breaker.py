"""A circuit breaker: who may connect while the server is away or full, and when."""

from __future__ import annotations

import random
import threading
import time
import typing as t
from collections.abc import Callable
from datetime import datetime

from ..databases import ConnectFailure
from ..masking import first_line
from .outage import (
    LONGEST_PAUSE,
    Outage,
    Patience,
    Turn,
    explained,
    given_up,
    without_tracebacks,
)
from .types import Obstacle

_clock = time.monotonic

# An outage that no caller met for so long is over; what comes is another.
_FORGET_AFTER: t.Final = 60.0

# After the first success so many may connect at a time as have succeeded, doubled;
# from here on the breaker lets all connect.
_OPEN_AT: t.Final = 32

# How long a thread whose time is up still waits for its turn once others got through.
_GRACE: t.Final = 1.0

# An attempt that takes so long may hang (a lost SYN): one more may try beside it.
_HANGS_AFTER: t.Final = 2.0


class ServerFullError(Exception):
    """The server has no room, but a connection of this pool will come free."""


class ConnectBreaker:
    """Lets connects through, all while the server is well, one at a time otherwise.

    ``_turns`` protects the outage and wakes those who wait for their turn. It is
    never held while connecting.

    :param classify: tells whether a failed connect may pass.
    :param refuses_login: tells whether it will not, as the server lets no such user in.
    :param on_away: told of each attempt that found the server away, and its beginning.
    :param describe: returns a line on an error that may be shown.
    :param open_none_until: told until when the server is known to be full; 0 for well.
    """

    def __init__(
        self,
        classify: Callable[[BaseException], ConnectFailure | None],
        open_none_until: Callable[[float], None],
        refuses_login: Callable[[BaseException], bool] = lambda error: False,
        on_away: Callable[[str, float], None] = lambda error, began_at: None,
        describe: Callable[[BaseException], str] = first_line,
    ) -> None:
        self._classify, self._open_none_until = classify, open_none_until
        self._refuses_login, self._on_away = refuses_login, on_away
        self._describe = describe
        self._turns = threading.Condition()
        self._outage: Outage | None = None
        # Since when no login succeeded, and when the last one was refused. Each thread
        # tries for itself, so this needs no lock: one of two is right for both.
        self._refusal: Obstacle | None = None
        self._refused_at = 0.0
        self.pending = 0  # connects that are under way or wait for their turn

    def connect(
        self,
        open_: Callable[[], None],
        patience: Patience,
        may_queue: Callable[[], bool],
    ) -> None:
        """Connect, again and again while that may help.

        :param open_: makes one attempt.
        :param patience: when to give up.
        :param may_queue: tells whether this pool has connections that may be had.
        :raises ServerFullError: the server is full; wait for one of those instead.
        :raises Exception: what the last attempt raised. If it could have passed, its
            text says since when and how often it was tried.
        """
        turn = Turn()
        try:
            try:
                self._enter(turn)
                self._try(turn, open_, patience, may_queue)
            finally:
                self._leave(turn)
        except BaseException:  # it may have been interrupted there
            self._leave(turn)
            raise

    @property
    def outage(self) -> str | None:
        """What is wrong with the server, in words; None if it is well."""
        outage = self._outage
        if outage is None or outage.recovering:
            return None
        return f"{self._describe(outage.error)} ({given_up(outage).describe()})"

    @property
    def is_away(self) -> bool:
        """Tell whether the server does not answer, as while it restarts."""
        outage = self._outage
        return (
            outage is not None
            and not outage.recovering
            and outage.kind is ConnectFailure.AWAY
        )

    @property
    def is_full(self) -> bool:
        """Tell whether the server has no room for one more connection."""
        outage = self._outage
        return outage is not None and outage.is_full()

    def obstacle(self) -> Obstacle | None:
        """Return what is wrong with the server, and since when; None if it is well, or
        no thread has tried for so long that it may be.
        """
        outage, now = self._outage, _clock()
        if outage is None:
            is_lately = now - self._refused_at <= _FORGET_AFTER
            return self._refusal if is_lately else None
        if outage.recovering:
            return None
        if now - outage.tried_at > _FORGET_AFTER and not outage.busy:
            return None
        return Obstacle(outage.kind, outage.began_at)

    def lets_ahead(self, pause: float) -> bool:
        """Tell whether a connection may be opened that no thread waits for.

        Not while others try, or have tried within so many seconds. Nor after a refused
        login, until one succeeds: each may count towards a lock of the account.
        """
        outage = self._outage
        if outage is None:
            return self._refusal is None
        if outage.recovering:
            return not self.pending
        return not outage.busy and _clock() - outage.tried_at >= pause

    def _enter(self, turn: Turn) -> None:
        with self._turns:
            # Nothing is called in between, so no asynchronous exception can come.
            self.pending += 1
            turn.is_pending = True

    def _try(
        self,
        turn: Turn,
        open_: Callable[[], None],
        patience: Patience,
        may_queue: Callable[[], bool],
    ) -> None:
        tried = False
        while True:
            self._await_turn(turn, patience, may_queue, tried)
            tried, begun = True, _clock()
            try:
                open_()
            except Exception as error:
                kind = self._classify(error)
                self._failed(turn, kind, error, begun)
                if kind is None:
                    raise
            else:
                self._succeeded(turn)
                return

    def _await_turn(
        self,
        turn: Turn,
        patience: Patience,
        may_queue: Callable[[], bool],
        tried: bool,
    ) -> None:
        """Wait for a turn, which is counted during an outage.

        :param tried: whether this caller had a turn already. One whose time is too
            short to wait for one gets it at once, unless another thread is trying; who
            has tried gets none once his time is up.
        """
        with self._turns:
            while True:
                outage, now = self._outage, _clock()
                if outage is None:
                    return
                if now - outage.tried_at > _FORGET_AFTER and not outage.busy:
                    self.end_outage()
                    return
                until = patience.until(outage.began_at)
                wait = outage.next_try_at - now
                may_wait_in_pool = outage.is_full() and may_queue()
                impatient = not tried and outage.may_be_hurried(now, until)
                if outage.recovering:  # it is well: others are just connecting
                    until = max(until, outage.tried_at + _GRACE)
                is_time = wait <= 0 or (impatient and not may_wait_in_pool)
                is_late = tried and now >= until
                hangs_at = outage.turn_at + _HANGS_AFTER
                has_room = outage.busy < outage.room or now >= hangs_at
                if is_time and has_room and not is_late:
                    outage.busy += 1
                    turn.outage = outage
                    outage.turn_at = now
                    return
                if may_wait_in_pool:
                    raise ServerFullError from outage.error
                if now >= until or (wait > 0 and outage.next_try_at > until):
                    raise explained(outage)
                pause = wait if wait > 0 else max(hangs_at - now, 0.01)
                self._turns.wait(min(pause, until - now))

    def _failed(
        self,
        turn: Turn,
        kind: ConnectFailure | None,
        error: Exception,
        begun: float,
    ) -> None:
        with self._turns:
            turn.end()
            outage = self._outage
            if kind is None:
                # It answers, and says no for good: nothing to wait for.
                self.end_outage()
                self._note_refusal(error, begun)
                return
            self._refusal = None
            error = without_tracebacks(error)
            if outage is None:
                outage = self._outage = Outage(kind, error, began_at=begun)
            elif outage.recovering:  # to and fro: no reason to knock more often
                pause = outage.pause
                outage = Outage(kind, error, began_at=begun, pause=pause)
                self._outage = outage
            now = _clock()
            outage.kind, outage.error = kind, error
            outage.attempts += 1
            outage.tried_at, outage.failed_at = now, datetime.now()
            if outage.next_try_at <= now:  # of several at once, the first counts
                pause = outage.pause * random.uniform(0.5, 1)  # noqa: S311 (spread)
                outage.next_try_at = now + pause
                outage.pause = min(outage.pause * 2, LONGEST_PAUSE)
            if kind is ConnectFailure.FULL:
                self._open_none_until(outage.next_try_at)
            self._turns.notify_all()
        if kind is ConnectFailure.AWAY:
            self._on_away(self._describe(error), begun)

    def _note_refusal(self, error: Exception, begun: float) -> None:
        if not self._refuses_login(error):
            self._refusal = None
            return
        self._refused_at = _clock()
        if self._refusal is None:
            self._refusal = Obstacle(ConnectFailure.LOGIN, begun)

    def _succeeded(self, turn: Turn) -> None:
        self._refusal = None
        if turn.outage is None and self._outage is None:
            return
        with self._turns:
            turn.end()
            outage = self._outage
            if outage is not None:
                outage.tried_at = _clock()
                outage.recovering = True
                outage.room *= 2
                outage.next_try_at = 0.0
                if outage.room >= _OPEN_AT:
                    self._outage = None
            self._turns.notify_all()
            self._open_none_until(0)

    def _leave(self, turn: Turn) -> None:
        """Count a thread no more, however far it came."""
        with self._turns:
            if turn.outage is not None:
                turn.end()
                self._turns.notify_all()
            if turn.is_pending:
                self.pending -= 1
                turn.is_pending = False

    def end_outage(self) -> None:
        """Let all connect."""
        with self._turns:
            self._outage = None
            self._turns.notify_all()
            self._open_none_until(0)
