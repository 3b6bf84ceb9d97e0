"""One value for all who ask for it at about the same time."""

from __future__ import annotations

import threading
import time
import typing as t
import weakref
from collections.abc import Callable

from ..pool import after_fork_in_child, after_late_patch

# However many people watch, the state files are read so often.
KEPT_SECONDS: t.Final = 0.5
# So long who asks waits for another who makes it, in seconds. It takes milliseconds,
# unless a folder does not answer; the app would miss threads that wait for that.
PATIENCE: t.Final = 2.0

T = t.TypeVar("T")


class NotMadeInTime(Exception):
    """The value is still being made for another who asked before."""


_all: weakref.WeakSet[SharedValue[t.Any]] = weakref.WeakSet()


class SharedValue(t.Generic[T]):
    """Makes a value for the first who asks, and gives the same to those who ask soon
    after it was made, or while it is made.

    :param make: makes it; what that raises, each gets who asks.
    """

    def __init__(
        self, make: Callable[[], T], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self._clock = make, clock
        # Protects the value; held while it is made, which reads a few files.
        self.lock = threading.Lock()
        self._made: tuple[float, T] | None = None
        _all.add(self)

    def get(self) -> T:
        """Return the value.

        :raises NotMadeInTime: another who makes it needs too long.
        """
        lock = self.lock
        if not lock.acquire(timeout=PATIENCE):
            raise NotMadeInTime
        try:
            if self._made is None or self._clock() - self._made[0] >= KEPT_SECONDS:
                self._made = None  # also if there is no new one
                value = self._make()
                self._made = self._clock(), value
            return self._made[1]
        finally:
            lock.release()


@after_late_patch
@after_fork_in_child
def _renew_locks() -> None:
    for each in list(_all):
        # A thread of the parent's may have been making it.
        each.lock = threading.Lock()
