"""The places that one process has of a budget, without a lock."""

from __future__ import annotations

import contextlib
import math
import os
import time
import typing as t
import weakref

from .allowance import MOST
from .locked_places import LockedPlaces
from .pool_places import ANY, PoolPlaces
from .shared_file import BudgetError

if t.TYPE_CHECKING:
    from ..pool import FairQueue, GuardedRecord

    Queue = FairQueue[GuardedRecord]

_clock = time.monotonic

# After so many looks at which a place was nowhere, it is on its way to no pool.
_LOST_AFTER: t.Final = 20
# Seconds after a wish for which no place is taken that no thread waits for: what was
# given to another process would be taken back, to be given again at its next wish.
CALM: t.Final = 60.0


class OwnPlaces(LockedPlaces):
    """The places that this process has, in its pools and free.

    No lock protects them: a garbage collection may give a connection back at any
    point, and the lock that it then needs may be held by a thread that waits for this
    one. A place is in one of three collections (free here, a pool's, lent), and moves
    from one to the next by single operations of a deque or list. ``_claimed`` has all
    of them; what it has and none of the others, an asynchronous exception left over,
    and :meth:`settle` frees it.

    :ivar epoch: another one in a forked child.
    """

    def _begin(self) -> None:
        super()._begin()
        self.epoch = object()
        self._parts: weakref.WeakSet[PoolPlaces] = weakref.WeakSet()
        self._is_member = False
        self._is_kept, self._trouble = True, ""
        self._refused_until = 0.0
        self._wished_at = -math.inf
        # What was claimed and nowhere at the last looks, by its claim, and how often.
        self._lost: dict[object, int] = {}
        self._owed = 0

    def forked(self) -> None:
        """Leave the parent's places to the parent."""
        if self._pid != os.getpid():
            self._begin()

    def add(self, part: PoolPlaces) -> None:
        """Note one more pool."""
        self.forked()
        self._parts.add(part)

    def is_in_use(self) -> bool:
        """Tell whether a pool has it."""
        return bool(self._parts)

    @property
    def kept_limit(self) -> int | None:
        """How many places there are; None if they are not kept to, or not known."""
        return self.limit if self._is_kept and self.limit < MOST else None

    def is_in(self, epoch: object) -> bool:
        """Tell whether an epoch began in this process."""
        self.forked()
        return epoch is self.epoch

    def put_back(self, place: int) -> None:
        """Take a place back: another process may have it, unless it is a worker's
        first.
        """
        self._free.append(place)
        self._refused_until = 0.0
        self._shed()

    def draw_ahead(self) -> int | None:
        """Return a place for a connection that no thread waits for, ``ANY`` for a
        budget that is not kept; None if a process could miss it.

        It wishes for none, and leaves one free for a checkout.
        """
        self.forked()
        if not self._is_kept:
            return ANY
        now = _clock()
        try:
            file = self._open_file()
            wished_at = max(file.wished_at(), self._wished_at)
            if now - wished_at < CALM:
                return None
            with contextlib.suppress(IndexError):
                return self._free.popleft()
            taken = sum(file.holders(self.limit).values()) + len(self._claimed)
            place = self._grab(now) if taken + 1 < self.limit else None
        except (BudgetError, OSError) as error:
            self._lose(str(error))
            place = ANY
        if place is not None:  # from now on it may have to give one
            self._wake_thread()
        return place

    def own(self) -> tuple[int, str]:
        """Return how many places this process has, and its app."""
        return len(self._claimed) if self._pid == os.getpid() else 0, self._app

    def pays(self) -> bool:
        """Tell whether to close a connection that comes back, and count it."""
        owed = self._owed
        self._owe(max(owed - 1, 0))
        return owed > 0

    def _owe(self, connections: int) -> None:
        """Let so many be closed when they come back, for another process."""
        self._owed = connections
        for part in list(self._parts):
            part.owes = connections

    def _queues(self) -> list[Queue]:
        found = (part.queue_ref() for part in list(self._parts))
        return [queue for queue in found if queue is not None]

    def settle(self) -> None:
        """Free what is claimed and nowhere, because an asynchronous exception came
        between; what is so at one look may be on its way.
        """
        for place in list(self._free):
            if place >= self.limit:
                with contextlib.suppress(ValueError):  # it was just taken
                    self._free.remove(place)
                    self._release(place)
        known = set(self._free)
        for queue in self._queues():
            queue.settle_places()
        for part in list(self._parts):
            known |= {*part.held, *part.lent, *part.borrowed}
        lost = {}
        for place, claim in list(self._claimed.items()):
            if place in known:
                continue
            lost[claim] = self._lost.get(claim, 0) + 1
            if lost[claim] > _LOST_AFTER:
                self._release(place)
        self._lost = lost

    def _wake_thread(self) -> None:
        """Let the budget's thread look."""
        raise NotImplementedError

    def _shed(self) -> None:
        """Free the places that no pool has, but for a worker's first."""
        while self._free and len(self._claimed) > (1 if self._is_member else 0):
            with contextlib.suppress(IndexError):
                self._release(self._free.pop())

    def _lose(self, trouble: str) -> None:
        self._is_kept, self._trouble = False, trouble
        self._owe(0)
