"""A circuit breaker: who may connect while the server is away or full, and when."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import threading
import time
import typing as t
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ..databases import ConnectFailure
from .types import Obstacle

logger = logging.getLogger("flask_poolguard")

_clock = time.monotonic

# The pauses between attempts grow from the first to the longest, and each is drawn
# from its upper half, so that many processes do not knock in step.
FIRST_PAUSE: t.Final = 0.05
LONGEST_PAUSE: t.Final = 1.0

# After the first success so many may connect at a time as have succeeded, doubled;
# from here on the breaker lets all connect.
_OPEN_AT: t.Final = 32

# How long somebody whose time is up still waits for his turn once others got through.
_GRACE: t.Final = 1.0

# An attempt that takes so long may hang (a lost SYN): one more may try beside it.
_HANGS_AFTER: t.Final = 2.0

# Trouble that nobody met for so long is over; what comes is new trouble.
_FORGET_AFTER: t.Final = 60.0


class ServerFullError(Exception):
    """The server has no room, but a connection of this pool will come free."""


class GaveUp(t.NamedTuple):
    """What the pool tells of a connect that it gave up."""

    since: datetime
    attempts: int
    failed_at: datetime

    def describe(self) -> str:
        """Return since when, how often, and when last."""
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        return (
            f"no connection since {self.since:%H:%M:%S}; tried {times} from this"
            f" process, last at {self.failed_at:%H:%M:%S.%f}"[:-3]
        )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long somebody goes on connecting; times in monotonic seconds.

    :ivar begun_at: when he began to ask for a connection.
    :ivar seconds: ``POOLGUARD_CONNECT_RETRY``.
    :ivar deadline: of the whole checkout.
    """

    begun_at: float
    seconds: float
    deadline: float

    def until(self, trouble_began_at: float) -> float:
        """Return when to give up. An outage that began while he waited in the queue
        is not held against him.
        """
        began_at = max(self.begun_at, trouble_began_at)
        return min(began_at + self.seconds, self.deadline)


@dataclass(slots=True)
class _Trouble:
    """An outage as this process sees it; times in monotonic seconds.

    :ivar room: how many may be connecting at the same time.
    :ivar busy: how many are.
    :ivar turn_at: when the last of them began to.
    """

    kind: ConnectFailure
    error: Exception
    since: datetime = field(default_factory=datetime.now)
    failed_at: datetime = field(default_factory=datetime.now)
    tried_at: float = field(default_factory=_clock)
    next_try_at: float = 0.0
    pause: float = FIRST_PAUSE
    attempts: int = 0
    recovering: bool = False
    room: int = 1
    busy: int = 0
    began_at: float = field(default_factory=_clock)
    turn_at: float = 0.0

    def may_be_hurried(self, now: float, until: float) -> bool:
        """Tell whether somebody who has no time for a pause may try at once."""
        return self.next_try_at >= until and now >= self.tried_at + FIRST_PAUSE

    def is_full(self) -> bool:
        """Tell whether the server has no room, as far as is known."""
        return self.kind is ConnectFailure.FULL and not self.recovering


class _Turn:
    """What is counted of one caller; changed under the breaker's lock.

    :ivar trouble: in which his attempt is counted, None if it is not.
    :ivar is_pending: whether he is counted among those who connect or wait to.
    """

    __slots__ = ("is_pending", "trouble")

    def __init__(self) -> None:
        self.trouble: _Trouble | None = None
        self.is_pending = False

    def end(self) -> None:
        """Count the attempt no more."""
        trouble = self.trouble
        if trouble is not None:
            trouble.busy -= 1
            self.trouble = None


class ConnectBreaker:
    """Lets connects through, all while the server is well, one at a time otherwise.

    ``_turns`` protects the trouble and wakes those who wait for their turn. It is
    never held while connecting.

    :param judge: tells whether a failed connect may pass.
    :param close_until: told until when the server is known to be full; 0 for well.
    """

    def __init__(
        self,
        judge: Callable[[BaseException], ConnectFailure | None],
        close_until: Callable[[float], None],
    ) -> None:
        self._judge = judge
        self._close_until = close_until
        self._turns = threading.Condition()
        self._trouble: _Trouble | None = None
        # Connects that are under way or wait for their turn.
        self.pending = 0

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
        turn = _Turn()
        try:
            try:
                self._enter(turn)
                self._try(turn, open_, patience, may_queue)
            finally:
                self._leave(turn)
        except BaseException:  # it may have struck there
            self._leave(turn)
            raise

    @property
    def trouble(self) -> str | None:
        """What is wrong with the server, in words; None if it is well."""
        trouble = self._trouble
        if trouble is None or trouble.recovering:
            return None
        return f"{_first_line(trouble.error)} ({_gave(trouble).describe()})"

    @property
    def is_away(self) -> bool:
        """Tell whether nobody answers, as while the server restarts."""
        trouble = self._trouble
        return (
            trouble is not None
            and not trouble.recovering
            and trouble.kind is ConnectFailure.AWAY
        )

    @property
    def is_full(self) -> bool:
        """Tell whether the server has no room for one more connection."""
        trouble = self._trouble
        return trouble is not None and trouble.is_full()

    def obstacle(self) -> Obstacle | None:
        """Return what is wrong with the server, and since when; None if it is well, or
        nobody has tried for so long that it may be.
        """
        trouble = self._trouble
        if trouble is None or trouble.recovering:
            return None
        if _clock() - trouble.tried_at > _FORGET_AFTER and not trouble.busy:
            return None
        return Obstacle(trouble.kind, trouble.began_at)

    def _enter(self, turn: _Turn) -> None:
        with self._turns:
            # Nothing is called in between, so nothing can strike.
            self.pending += 1
            turn.is_pending = True

    def _try(
        self,
        turn: _Turn,
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
                kind = self._judge(error)
                self._failed(turn, kind, error, begun)
                if kind is None:
                    raise
            else:
                self._succeeded(turn)
                return

    def _await_turn(
        self,
        turn: _Turn,
        patience: Patience,
        may_queue: Callable[[], bool],
        tried: bool,
    ) -> None:
        """Wait for a turn, which is counted while there is trouble.

        :param tried: whether this caller had a turn already. One whose time is too
            short to wait for one gets it at once, unless somebody else is trying; who
            has tried gets none once his time is up.
        """
        with self._turns:
            while True:
                trouble, now = self._trouble, _clock()
                if trouble is None:
                    return
                if now - trouble.tried_at > _FORGET_AFTER and not trouble.busy:
                    self._end()
                    return
                until = patience.until(trouble.began_at)
                wait = trouble.next_try_at - now
                may_wait_in_pool = trouble.is_full() and may_queue()
                impatient = not tried and trouble.may_be_hurried(now, until)
                if trouble.recovering:  # it is well: others are just connecting
                    until = max(until, trouble.tried_at + _GRACE)
                is_time = wait <= 0 or (impatient and not may_wait_in_pool)
                is_late = tried and now >= until
                hangs_at = trouble.turn_at + _HANGS_AFTER
                has_room = trouble.busy < trouble.room or now >= hangs_at
                if is_time and has_room and not is_late:
                    trouble.busy += 1
                    turn.trouble = trouble
                    trouble.turn_at = now
                    return
                if may_wait_in_pool:
                    raise ServerFullError from trouble.error
                if now >= until or (wait > 0 and trouble.next_try_at > until):
                    raise _explained(trouble)
                pause = wait if wait > 0 else max(hangs_at - now, 0.01)
                self._turns.wait(min(pause, until - now))

    def _failed(
        self,
        turn: _Turn,
        kind: ConnectFailure | None,
        error: Exception,
        begun: float,
    ) -> None:
        with self._turns:
            turn.end()
            trouble = self._trouble
            if kind is None:
                # It answers, and says no for good: nothing to wait for.
                self._end()
                return
            error = _kept(error)
            if trouble is None:
                trouble = self._trouble = _Trouble(kind, error, began_at=begun)
            elif trouble.recovering:  # to and fro: no reason to knock more often
                pause = trouble.pause
                trouble = _Trouble(kind, error, began_at=begun, pause=pause)
                self._trouble = trouble
            now = _clock()
            trouble.kind, trouble.error = kind, error
            trouble.attempts += 1
            trouble.tried_at, trouble.failed_at = now, datetime.now()
            if trouble.next_try_at <= now:  # of several at once, the first counts
                pause = trouble.pause * random.uniform(0.5, 1)  # noqa: S311 (spread)
                trouble.next_try_at = now + pause
                trouble.pause = min(trouble.pause * 2, LONGEST_PAUSE)
            if kind is ConnectFailure.FULL:
                self._close_until(trouble.next_try_at)
            self._turns.notify_all()

    def _succeeded(self, turn: _Turn) -> None:
        if turn.trouble is None and self._trouble is None:
            return
        with self._turns:
            turn.end()
            trouble = self._trouble
            if trouble is not None:
                trouble.tried_at = _clock()
                trouble.recovering = True
                trouble.room *= 2
                trouble.next_try_at = 0.0
                if trouble.room >= _OPEN_AT:
                    self._trouble = None
            self._turns.notify_all()
            self._close_until(0)

    def _leave(self, turn: _Turn) -> None:
        """Count somebody no more, however far he came."""
        with self._turns:
            if turn.trouble is not None:
                turn.end()
                self._turns.notify_all()
            if turn.is_pending:
                self.pending -= 1
                turn.is_pending = False

    def _end(self) -> None:
        self._trouble = None
        self._turns.notify_all()
        self._close_until(0)


def _kept(error: Exception) -> Exception:
    """Return a copy without tracebacks: their frames hold what the callers had, their
    connections among it. The original keeps its own.
    """
    try:
        kept = copy.copy(error)
        for name, value in list(vars(kept).items()):
            if isinstance(value, BaseException):  # PyMySQL's original_exception
                setattr(kept, name, copy.copy(value))
    except Exception:  # a driver's exception that cannot be copied
        return error
    return kept


def _gave(trouble: _Trouble) -> GaveUp:
    return GaveUp(trouble.since, trouble.attempts, trouble.failed_at)


def gave_up(error: BaseException) -> GaveUp | None:
    """Return what was tried before a connect was given up; None for other errors."""
    found = getattr(error, "poolguard_gave_up", None)
    return found if isinstance(found, GaveUp) else None


def give_up(error: BaseException) -> None:
    """Note on a connect's error that nobody tries again, if it could have passed."""
    now = datetime.now()
    with contextlib.suppress(Exception):  # an exception that takes no attribute
        error.poolguard_gave_up = GaveUp(now, 1, now)  # type: ignore[attr-defined] # read by gave_up()


def _explained(trouble: _Trouble) -> Exception:
    """Return the last error, told with its story, for one more thread to raise."""
    gave = _gave(trouble)
    try:
        error = copy.copy(trouble.error)
    except Exception:  # a driver's exception that cannot be copied
        error = trouble.error
    if gave_up(error) is None:
        *before, text = error.args or ("",)
        error.args = (*before, f"{str(text).rstrip()} ({gave.describe()})")
        error.poolguard_gave_up = gave  # type: ignore[attr-defined] # read by gave_up()
    return error.with_traceback(None)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
