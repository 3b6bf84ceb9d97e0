"""Lets equal log lines that come in a storm be logged once, and counted.

The first is logged at once. Equal ones within ``WINDOW`` are counted, and the count is
told when that is over: by the housekeeper's next round, by the next line of any kind,
or at the end of the process.
"""

from __future__ import annotations

import os
import threading
import time
import typing as t
from collections.abc import Hashable
from dataclasses import dataclass

_Line = t.TypeVar("_Line")

# Seconds within which lines count as one storm.
WINDOW: t.Final = 10.0
# Seconds between two looks at what is over.
_LOOK_EVERY: t.Final = 1.0
# So many kinds of lines are told apart; the oldest gives way to one more.
MOST_KINDS: t.Final = 256


@dataclass(frozen=True, slots=True)
class Count(t.Generic[_Line]):
    """What was not logged of a storm.

    :ivar line: the first of its lines, which was.
    :ivar more: how many more there were.
    """

    line: _Line
    more: int
    seconds: float


class _Storm(t.Generic[_Line]):
    __slots__ = ("began_at", "line", "more")

    def __init__(self, line: _Line, now: float) -> None:
        self.line, self.began_at, self.more = line, now, 0

    def count(self, now: float) -> Count[_Line]:
        return Count(self.line, self.more, now - self.began_at)


class Storms(t.Generic[_Line]):
    """Counts lines by what makes them equal.

    ``_lock`` protects the table and its counts. It is re-entrant because a garbage
    collection inside may give a connection back, and log that. A forked child begins
    with an empty table: what its parent counted is the parent's to tell.
    """

    # The tests let it jump.
    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew; what was counted is not told."""
        self._lock = threading.RLock()
        self._storms: dict[Hashable, _Storm[_Line]] = {}
        self._next_look = 0.0
        self._pid = os.getpid()

    def admit(self, key: Hashable, line: _Line) -> tuple[bool, list[Count[_Line]]]:
        """Tell whether a line is to be logged, and what is to be told before it.

        :param key: the same for all lines that are equal.
        """
        if self._pid != os.getpid():
            self.reset()
        now = self.clock()
        with self._lock:
            over = self._take_over(now) if now >= self._next_look else []
            storm = self._storms.get(key)
            if storm is not None:
                storm.more += 1
                return False, over
            if len(self._storms) >= MOST_KINDS:
                oldest = self._storms.pop(next(iter(self._storms)))
                over += [oldest.count(now)] if oldest.more else []
            self._storms[key] = _Storm(line, now)
        return True, over

    def take_over(self, is_end: bool = False) -> list[Count[_Line]]:
        """Return what is to be told of storms that are over, or last on.

        :param is_end: of all, because the process ends.
        """
        if self._pid != os.getpid():
            self.reset()
        now = self.clock()
        with self._lock:
            return self._take_over(now, 0.0 if is_end else WINDOW)

    def _take_over(self, now: float, window: float = WINDOW) -> list[Count[_Line]]:
        self._next_look = now + _LOOK_EVERY
        over = []
        for key, storm in list(self._storms.items()):
            if now - storm.began_at < window:
                continue
            if storm.more:  # it may last on: its next lines are counted again
                over.append(storm.count(now))
                storm.began_at, storm.more = now, 0
            else:
                self._storms.pop(key, None)
        return over
