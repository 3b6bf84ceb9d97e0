"""The places of one pool's slots."""

from __future__ import annotations

import contextlib
import typing as t
import weakref
from collections import deque

from ..pool import Places

if t.TYPE_CHECKING:
    from ..pool import FairQueue, GuardedRecord

    Queue = FairQueue[GuardedRecord]


class Source(t.Protocol):
    """Where places come from, and go to: the budget.

    :ivar epoch: another one in a forked child.
    """

    epoch: object

    @property
    def kept_limit(self) -> int | None:
        """How many places there are; None if they are not kept to."""

    def draw(self) -> int | None:
        """Return a place, ``ANY`` for a budget that is not kept, None for none."""

    def draw_ahead(self) -> int | None:
        """Return the like for a connection that no thread waits for."""

    def is_in(self, epoch: object) -> bool:
        """Tell whether that began in this process."""

    def put_back(self, place: int) -> None:
        """Take a place back."""

    def tidy(self, held: list[int]) -> None:
        """Exchange places beyond the limit for others, in place."""

    def add(self, part: PoolPlaces) -> None:
        """Note one more pool."""

    def pays(self) -> bool:
        """Count a connection that is closed for another process."""

    def join(self) -> None:
        """Keep one place for this process."""

    def refusal(self) -> str:
        """Return who has the places, if all are taken; else ""."""


class PoolPlaces(Places):
    """The places of one pool's queue.

    They change by single operations of a list, under the queue's lock; what an
    asynchronous exception leaves over there, the budget's thread settles.

    :ivar held: a place per open slot, in no order.
    :ivar lent: those of connections that left the pool and live.
    :ivar borrowed: those of connections that never were in it.
    :ivar queue_ref: gives the queue, None once that is gone.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._epoch = source.epoch
        self.held: list[int] = []
        self.lent: deque[int] = deque()
        self.borrowed: deque[int] = deque()
        self.queue_ref: t.Callable[[], Queue | None] = lambda: None

    def belong_to(self, queue: Queue) -> None:
        """Note the queue whose slots take these places."""
        self.queue_ref = weakref.ref(queue)
        self._source.add(self)

    @property
    def limit(self) -> int | None:
        """How many there are for all processes; None if they are not kept to."""
        return self._source.kept_limit

    def take(self) -> bool:
        """Take a place for a slot that is about to be opened, if there is one."""
        return self._hold(self._source.draw())

    def take_ahead(self) -> bool:
        """Take one for a slot that no thread waits for, if there is one to spare."""
        return self._hold(self._source.draw_ahead())

    def _hold(self, place: int | None) -> bool:
        if place is not None:
            self.held.append(place)
        return place is not None

    def give(self) -> None:
        """Give back the place of a slot that has no connection any more."""
        with contextlib.suppress(IndexError):
            self._put_back(self.held.pop(), self._epoch)

    def settle(self, opened: int) -> None:
        """Give back what no slot has, of which so many are open."""
        while len(self.held) > opened:
            self.give()
        self._source.tidy(self.held)

    def pays(self) -> bool:
        """Tell whether to close a connection that comes back, and count it."""
        return self._source.pays()

    def join(self) -> None:
        """Keep one place for this process, which is a worker, while it lives."""
        self._source.join()

    def borrow(self) -> bool:
        """Take a place for a connection that is no slot's; False if there is none."""
        place = self._source.draw()
        if place is None:
            return False
        self.borrowed.append(place)
        return True

    def give_back(self) -> None:
        """Give back what was borrowed."""
        with contextlib.suppress(IndexError):
            self._put_back(self.borrowed.pop(), self._epoch)

    def lend(self, connection: object) -> None:
        """Let a connection that left the pool keep its place for as long as it lives.

        The slot gives back another one, or none: ``ANY`` stands for that.
        """
        with contextlib.suppress(IndexError, TypeError):  # it may have no references
            place = self.held.pop()
            self.held.append(ANY)
            self.lent.append(place)
            end = weakref.finalize(connection, self._end_loan, place, self._epoch)
            end.atexit = False

    def _end_loan(self, place: int, epoch: object) -> None:
        with contextlib.suppress(ValueError):
            self.lent.remove(place)
            self._put_back(place, epoch)

    def _put_back(self, place: int, epoch: object) -> None:
        # A child's queue may still be given what its parent had.
        if place != ANY and self._source.is_in(epoch):
            self._source.put_back(place)

    def refusal(self) -> str:
        """Return who has the places, for the error of a thread that got none."""
        return self._source.refusal()


# Stands for a place where the budget is not kept, and belongs to no process.
ANY: t.Final = -1
