"""Learns after what time of idling something on the way ends connections."""

from __future__ import annotations

import time
import typing as t
from collections import deque

_clock = time.monotonic

# So many deaths, at idle times that differ by no more than this share of the longest,
# at moments that lie so many seconds apart: a server that restarts ends connections
# of all ages, or many of one age at one moment.
DEATHS: t.Final = 3
SPREAD: t.Final = 0.25
APART: t.Final = 2.0

_REMEMBERED: t.Final = 16


class IdleDeaths:
    """The idle times at which connections were found dead, and at which alive.

    Its methods are called by any thread; each changes a deque or a number by single
    operations, and what two threads tell at once at worst counts as one.
    """

    def __init__(self) -> None:
        # Seconds of idling, monotonic time.
        self._deaths: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._survived = 0.0
        self.limit: float | None = None

    def survived(self, idle: float) -> None:
        """Note that a connection is alive after so many seconds of idling."""
        if idle > self._survived:
            self._survived = idle

    def died(self, idle: float) -> bool:
        """Note that a connection is dead; tell whether that taught a new limit."""
        now = _clock()
        if self._deaths and now - self._deaths[-1][1] < APART:
            return False
        self._deaths.append((idle, now))
        recent = [each for each, _ in self._deaths][-DEATHS:]
        shortest, longest = min(recent), max(recent)
        if len(recent) < DEATHS or shortest < longest * (1 - SPREAD):
            return False
        if self._survived > longest:  # others lived longer: it was something else
            self._survived = 0.0
            return False
        if self.limit is not None and shortest >= self.limit:
            return False
        self.limit = shortest
        return True
