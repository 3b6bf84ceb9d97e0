"""Learns the idle time after which something on the network ends connections."""

from __future__ import annotations

import contextlib
import time
import typing as t
from collections import deque
from dataclasses import dataclass

_clock = time.monotonic

# So many deaths in a row, at idle times that differ by no more than this share of the
# longest, at moments that lie so many seconds apart.
DEATHS: t.Final = 3
SPREAD: t.Final = 0.25
APART: t.Final = 2.0


@dataclass(slots=True)
class _Moment:
    """The deaths that were noticed at about the same time.

    :ivar is_of_server: all sessions ended, because the server did.
    """

    began_at: float
    shortest: float
    longest: float
    is_of_server: bool = False


class IdleDeaths:
    """The idle times at which connections were found dead, and at which alive.

    A server that restarts ends connections of all ages, or many of one age at one
    moment: neither teaches anything. A moment is judged when it is over, so that all
    that it brought is known.

    Its methods are called by any thread, without a lock: what two threads tell at
    once at worst counts as one.

    :ivar limit: the shortest of the idle times that taught; None if none did.
    """

    def __init__(self) -> None:
        # The last of them may not be over.
        self._moments: deque[_Moment] = deque(maxlen=DEATHS + 1)
        self._survived = 0.0
        self.limit: float | None = None

    def survived(self, idle: float) -> None:
        """Note that a connection is alive after so many seconds of idling."""
        if idle > self._survived:
            self._survived = idle

    def died(self, idle: float) -> None:
        """Note that a connection is dead."""
        last = self._last()
        if last is None:
            self._moments.append(_Moment(_clock(), idle, idle))
        else:
            last.shortest = min(last.shortest, idle)
            last.longest = max(last.longest, idle)

    def server_is_away(self) -> None:
        """Note that the server takes no connections: what dies now dies of that."""
        last = self._last()
        if last is not None:
            last.is_of_server = True

    def forget(self) -> None:
        """Forget the deaths so far: something else may explain them."""
        self._moments.clear()

    def conclude(self) -> bool:
        """Tell whether the moments that are over teach a new limit."""
        if len(self._moments) < DEATHS or self._last() is not None:
            return False
        moments = list(self._moments)[-DEATHS:]
        shortest = min(each.shortest for each in moments)
        longest = max(each.longest for each in moments)
        alike = shortest >= longest * (1 - SPREAD)
        outlived = self._survived * (1 - SPREAD) > longest
        if outlived or any(each.is_of_server for each in moments):
            self._survived = 0.0
            self.forget()
            return False
        if not alike or (self.limit is not None and shortest >= self.limit):
            return False
        self.limit = shortest
        return True

    def _last(self) -> _Moment | None:
        """Return the moment that is not over, None if there is none."""
        with contextlib.suppress(IndexError):
            last = self._moments[-1]
            if _clock() - last.began_at < APART:
                return last
        return None
