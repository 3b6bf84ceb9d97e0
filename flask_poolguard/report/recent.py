"""What went wrong lately, by the minutes that the workers keep."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Iterable
from dataclasses import dataclass

from ..state.history import Minute
from ..state.status import PoolStatus

# What is judged as going on; what is told of with its time, so that it is not missed.
NOW_SECONDS: t.Final = 60.0
LATELY_SECONDS: t.Final = 300.0
# From this share of the checkouts on, and so many, users notice.
GRAVE_SHARE: t.Final = 0.1
_GRAVE_NUMBER: t.Final = 3

Figure = t.Literal["timed_out", "unavailable", "refused_writes", "deadlocks"]


@dataclass(frozen=True, slots=True)
class Recent:
    """How many checkouts, or statements, failed within some time.

    :ivar asked: all checkouts of the same minutes.
    :ivar first_at: of those that failed, in seconds of Unix time; None if there are
        none. Likewise ``last_at``.
    """

    failed: int
    asked: int
    first_at: float | None
    last_at: float | None

    @property
    def is_grave(self) -> bool:
        """Tell whether so many failed that users notice."""
        return self.failed >= max(GRAVE_SHARE * self.asked, _GRAVE_NUMBER)

    def when(self) -> str:
        """Return when they failed, in this machine's time."""
        if self.first_at is None or self.last_at is None:
            return ""
        return between(self.first_at, self.last_at)


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits that users may have noticed, within some time.

    :ivar number: of all checkouts that waited in the same minutes, of ``asked``.
    :ivar first_at: when the first began, and with ``last_at`` the last ended, in
        seconds of Unix time.
    """

    number: int
    asked: int
    longest_seconds: float
    first_at: float
    last_at: float

    def when(self) -> str:
        """Return when requests waited, in this machine's time."""
        return between(self.first_at, self.last_at)


def between(first_at: float, last_at: float) -> str:
    """Return two times in words, in this machine's time."""
    first, last = (
        time.strftime("%H:%M:%S", time.localtime(each)) for each in (first_at, last_at)
    )
    return f"at {first}" if first == last else f"between {first} and {last}"


def recent(pools: Iterable[PoolStatus], figure: Figure, seconds: float) -> Recent:
    """Return what failed within the last so many seconds, in whole minutes."""
    begin = time.time() - seconds
    minutes = [
        each
        for pool in pools
        for each in pool.history.minutes
        if each.at + 60 > begin or (each.last_failed_at or 0.0) >= begin
    ]
    failed = [
        each
        for each in minutes
        if getattr(each, figure) and (each.last_failed_at or 0.0) >= begin
    ]
    return Recent(
        failed=sum(getattr(each, figure) for each in failed),
        asked=sum(each.checkouts for each in minutes),
        first_at=min(map(_first, failed), default=None),
        last_at=max(map(_last, failed), default=None),
    )


def waited(pools: Iterable[PoolStatus], seconds: float) -> Waits | None:
    """Return how requests waited within the last so many seconds, None if none did for
    so long that a user may notice.
    """
    begin = time.time() - seconds
    found = [
        each
        for pool in pools
        for each in pool.history.minutes
        if (each.last_waited_at or 0.0) >= begin
    ]
    if not found:
        return None
    return Waits(
        number=sum(each.waits for each in found),
        asked=sum(each.checkouts for each in found),
        longest_seconds=max(each.longest_wait_seconds for each in found),
        first_at=min(each.first_waited_at or float(each.at) for each in found),
        last_at=max(each.last_waited_at or 0.0 for each in found),
    )


def leaked(pools: Iterable[PoolStatus], seconds: float) -> int:
    """Return how many connections were not given back within the last seconds, in whole
    minutes.
    """
    begin = time.time() - seconds
    return sum(
        each.leaks
        for pool in pools
        for each in pool.history.minutes
        if each.at + 60 > begin
    )


def _first(minute: Minute) -> float:
    return minute.first_failed_at or float(minute.at)


def _last(minute: Minute) -> float:
    return minute.last_failed_at or float(minute.at)
