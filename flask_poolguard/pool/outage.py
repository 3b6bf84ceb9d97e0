"""An outage of the server as one pool meets it; how long a caller goes on trying."""

from __future__ import annotations

import contextlib
import copy
import time
import typing as t
from dataclasses import dataclass, field
from datetime import datetime

from ..databases import ConnectFailure

_clock = time.monotonic

# The pauses between attempts grow from the first to the longest, and each is drawn
# from its upper half, so that many processes do not knock in step.
FIRST_PAUSE: t.Final = 0.05
LONGEST_PAUSE: t.Final = 1.0


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
    """How long a thread goes on connecting; times in monotonic seconds.

    :ivar begun_at: when it began to ask for a connection.
    :ivar seconds: ``POOLGUARD_CONNECT_RETRY``.
    :ivar deadline: of the whole checkout.
    """

    begun_at: float
    seconds: float
    deadline: float

    def until(self, outage_began_at: float) -> float:
        """Return when to give up. An outage that began while it waited in the queue
        does not shorten its time.
        """
        began_at = max(self.begun_at, outage_began_at)
        return min(began_at + self.seconds, self.deadline)


@dataclass(slots=True)
class Outage:
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
        """Tell whether a thread that has no time for a pause may try at once."""
        return self.next_try_at >= until and now >= self.tried_at + FIRST_PAUSE

    def is_full(self) -> bool:
        """Tell whether the server has no room, as far as is known."""
        return self.kind is ConnectFailure.FULL and not self.recovering


class Turn:
    """What is counted of one caller; changed under the breaker's lock.

    :ivar outage: in which its attempt is counted, None if it is not.
    :ivar is_pending: whether it is counted among those that connect or wait to.
    """

    __slots__ = ("is_pending", "outage")

    def __init__(self) -> None:
        self.outage: Outage | None = None
        self.is_pending = False

    def end(self) -> None:
        """Count the attempt no more."""
        outage = self.outage
        if outage is not None:
            outage.busy -= 1
            self.outage = None


def without_tracebacks(error: Exception) -> Exception:
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


def given_up(outage: Outage) -> GaveUp:
    """Return what was tried in an outage."""
    return GaveUp(outage.since, outage.attempts, outage.failed_at)


def gave_up(error: BaseException) -> GaveUp | None:
    """Return what was tried before a connect was given up; None for other errors."""
    found = getattr(error, "poolguard_gave_up", None)
    return found if isinstance(found, GaveUp) else None


def give_up(error: BaseException) -> None:
    """Note on a connect's error that it is not tried again, though it could have
    passed."""
    now = datetime.now()
    with contextlib.suppress(Exception):  # an exception that takes no attribute
        error.poolguard_gave_up = GaveUp(now, 1, now)  # type: ignore[attr-defined] # read by gave_up()


def explained(outage: Outage) -> Exception:
    """Return the last error, told with its story, for one more thread to raise."""
    gave = given_up(outage)
    try:
        error = copy.copy(outage.error)
    except Exception:  # a driver's exception that cannot be copied
        error = outage.error
    if gave_up(error) is None:
        *before, text = error.args or ("",)
        error.args = (*before, f"{str(text).rstrip()} ({gave.describe()})")
        error.poolguard_gave_up = gave  # type: ignore[attr-defined] # read by gave_up()
    return error.with_traceback(None)
