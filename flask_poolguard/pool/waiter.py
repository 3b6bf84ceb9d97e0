"""A thread or greenlet that waits for a slot, and how it is woken."""

from __future__ import annotations

import threading
import typing as t

from .slots import Slot
from .types import Claim


class Waiter(t.Generic[Slot]):
    """A thread or greenlet that waits for a record."""

    __slots__ = ("_wakeup", "claim", "error", "grant")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.grant: Slot | None = None
        self.error: BaseException | None = None
        # Held until it is served: of all primitives that can wait, the cheapest.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()

    def is_settled(self) -> bool:
        """Tell whether it got a record or an error."""
        return self.grant is not None or self.error is not None

    def settle(self, grant: Slot | None, error: BaseException | None = None) -> None:
        """Hand over what it waits for, or why it waits in vain, and wake it."""
        self.grant, self.error = grant, error
        self.wake()

    def wake(self) -> None:
        """Wake the waiter; idempotent."""
        if self._wakeup.locked():
            self._wakeup.release()

    def sleep(self, seconds: float) -> bool:
        """Wait to be served; tell whether that happened in time."""
        return self._wakeup.acquire(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX))
