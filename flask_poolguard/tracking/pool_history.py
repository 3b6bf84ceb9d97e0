"""What one pool met within each minute of the last hour."""

from __future__ import annotations

import time
from collections import deque

from ..state.history import COUNTED, Minute, Totals

# One hour.
_MINUTES = 60
# Seconds; a shorter wait is what a pool is for.
LONG_WAIT = 0.1


class PoolHistory:
    """Keeps a minute for each in which anything happened.

    Changed under the lock of :class:`.pool_figures.PoolFigures`, whose totals it
    compares with those at the end of the last minute. What is seen once a second only
    (connections that are out, threads that wait) may miss a peak in between.
    """

    def __init__(self) -> None:
        self._past: deque[Minute] = deque(maxlen=_MINUTES - 1)
        self._at = _this_minute()
        self._before = Totals()
        self._forget()

    def _forget(self) -> None:
        self._most_out = self._most_waiting = 0
        self._longest_wait = 0.0
        self._first_failed_at: float | None = None
        self._last_failed_at: float | None = None
        self._first_waited_at: float | None = None
        self._last_waited_at: float | None = None

    def failed(self) -> None:
        """Note that a checkout, or a write, fails now."""
        self._last_failed_at = now = time.time()
        if self._first_failed_at is None:
            self._first_failed_at = now

    def waited(self, seconds: float) -> None:
        """Note how long a thread waited until now, served or not."""
        self._longest_wait = max(seconds, self._longest_wait)
        if seconds >= LONG_WAIT:
            self._last_waited_at = now = time.time()
            first = self._first_waited_at
            self._first_waited_at = min(now - seconds, now if first is None else first)

    def saw(self, out: int, waiting: int) -> None:
        """Note how many connections are out, and threads wait, now."""
        self._most_out = max(out, self._most_out)
        self._most_waiting = max(waiting, self._most_waiting)

    def minutes(self, totals: Totals) -> tuple[Minute, ...]:
        """Return the last hour, the oldest minute first; none in which nothing was.

        :param totals: what was counted since the worker began.
        """
        current = self._current(totals)
        minute = _this_minute()
        if minute != self._at:
            if current is not None:
                self._past.append(current)
            self._at, self._before = minute, totals
            self._forget()
            current = None
        first = minute - (_MINUTES - 1) * 60
        while self._past and self._past[0].at < first:
            self._past.popleft()
        return (*self._past, *([] if current is None else [current]))

    def _current(self, totals: Totals) -> Minute | None:
        minute = Minute(
            at=self._at,
            **{
                name: getattr(totals, name) - getattr(self._before, name)
                for name in COUNTED
            },
            most_out=self._most_out,
            most_waiting=self._most_waiting,
            longest_wait_seconds=round(self._longest_wait, 3),
            first_failed_at=self._first_failed_at,
            last_failed_at=self._last_failed_at,
            first_waited_at=self._first_waited_at,
            last_waited_at=self._last_waited_at,
        )
        return None if minute == Minute(at=self._at) else minute


def _this_minute() -> int:
    return int(time.time()) // 60 * 60
