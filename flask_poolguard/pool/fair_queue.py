"""The order of service: the threads that wait for a slot, and which gets one."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
import typing as t

from ..errors import TooManyWaiting
from .places import UNLIMITED, Places
from .slots import Slot, Slots
from .types import Claim
from .waiter import Waiter

_clock = time.monotonic

# For one whose refusal could not be worded.
_REFUSED: t.Final = "As many wait already as POOLGUARD_MAX_WAITING allows"


class FairQueue(Slots[Slot]):
    """The slots of one pool, and the threads that wait for one.

    ``_lock`` protects the waiters and the number of open slots. No code connects,
    closes, asks or logs while holding it. It is re-entrant because a garbage
    collection inside may return a connection; ``_serving`` then leaves the serving to
    the call that was interrupted. The idle records change by single operations of a
    deque, and who adds one looks for waiters afterwards, while who begins to wait
    looks for idle records afterwards: one of the two sees the other. A record may lie
    idle while others wait if an older thread is expected to ask for it at once.
    """

    def __init__(
        self,
        maxsize: int,
        limit: float,
        use_lifo: bool,
        make_record: t.Callable[[], Slot],
        places: Places = UNLIMITED,
    ) -> None:
        # A heap of those who wait: the oldest claim, and of equals the first to ask.
        self.waiting: list[tuple[float, int, Waiter[Slot]]] = []
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._serving = self._again = False
        # Until then the server is known to have no room for one more connection.
        self.opens_none_until = 0.0
        # How many slots are being connected for no thread: one at most.
        self.ahead = 0
        super().__init__(maxsize, limit, use_lifo, make_record, places)

    # Taking ------------------------------------------------------------------------

    def get_now(self, began_at: float = math.inf) -> Slot | None:
        """Take a record if there is one, or room for one, and no older thread waits.

        :param began_at: of the claim, if any thread waits.
        """
        record = None
        try:
            with self._lock:
                if not self.waiting or began_at < self.waiting[0][0]:
                    record = self._grant()
            return record
        except BaseException:  # a signal's: no other thread knows of it
            if record is not None:
                self._restore(record)
            raise

    def lacks(self, idle: int) -> bool:
        """Tell whether a slot may be opened for no thread, so that so many are idle.

        Not beyond what is kept, nor while a thread waits or the server is full; the
        last slot only while another is idle, or none is in use: who needs it waits.
        """
        return (
            len(self.idle) < idle
            and not (self.waiting or self.ahead)
            and self.opened < min(self._keep, self.limit)
            and (self.opened + 1 < self.limit or not self.opened or bool(self.idle))
            and _clock() >= self.opens_none_until
        )

    def reserve(self, idle: int) -> Slot | None:
        """Open a slot for no thread; None if none is lacking, or there is no place. The
        caller sets ``ahead`` to 0 once it is idle or free.
        """
        record = None
        try:
            with self._lock:
                if self.lacks(idle):
                    record = self._open(ahead=True)
                    self.ahead = 0 if record is None else 1
            return record
        except BaseException:  # as above
            self.ahead = 0
            if record is not None:
                self._restore(record)
            raise

    def enqueue(
        self, waiter: Waiter[Slot], most: float, refuse: t.Callable[[], BaseException]
    ) -> None:
        """Begin to wait. If this or a later step raises: :meth:`withdraw` it.

        :param most: how many may wait at a time, besides for a slot that is opened
            ahead. Beyond it the youngest claim is refused, perhaps another than this.
        :param refuse: makes the error for that one.
        """
        youngest = None
        entry = (waiter.claim.began_at, next(self._numbers), waiter)
        with self._lock:
            heapq.heappush(self.waiting, entry)
            self._serve()
            if len(self.waiting) > most + self.ahead:
                youngest = max(self.waiting)[2]
                self._remove(youngest)
        if youngest is not None:
            # An exception meanwhile is this thread's own, perhaps not the youngest's.
            error: BaseException = TooManyWaiting(_REFUSED, code="3o7r")
            try:
                error = refuse()
            finally:  # it is out of the line: tell it anyway
                youngest.settle(None, error)

    def wait(self, waiter: Waiter[Slot], until: float) -> Slot | None:
        """Wait for a record until a monotonic time; None if that passed.

        After None the waiter still waits: wait again, or :meth:`withdraw` it.

        :raises BaseException: what the waiter was told, or an asynchronous exception.
        """
        while waiter.grant is None and waiter.error is None:
            now = _clock()
            pause = self.opens_none_until - now
            if now >= until:
                return None
            if waiter.sleep(min(until - now, pause) if pause > 0 else until - now):
                break
            if pause > 0:  # there may be room by now
                self.serve()
        if waiter.error is not None:
            raise waiter.error
        return waiter.grant

    def withdraw(self, waiter: Waiter[Slot]) -> Slot | None:
        """Stop to wait; returns the record if one was handed over just now."""
        with self._lock:
            self._serve()  # rather than let it go while one is kept for another
            self._remove(waiter)
            return waiter.grant

    def fail(self, claim: Claim, error: BaseException) -> bool:
        """Wake the thread of this claim with an error; False if it does not wait."""
        with self._lock:
            for _, _, waiter in self.waiting:
                if waiter.claim is claim:
                    self._remove(waiter)
                    waiter.settle(None, error)
                    return True
        return False

    def claims(self) -> list[Claim]:
        """Return the claims of all who wait."""
        with self._lock:
            return [waiter.claim for _, _, waiter in self.waiting]

    # Giving back -------------------------------------------------------------------

    def put(self, record: Slot, began_at: float = math.inf) -> Slot | None:
        """Take a connected record back.

        :param began_at: of a thread that is expected to ask again at once. While all
            who wait began later, none of them is woken; the next call that serves
            them ends that.
        :returns: a record that is one too many: close it, then :meth:`free` it.
        """
        # Nothing is called in between, so no asynchronous exception can come.
        record.returns += 1
        self.idle.append(record)
        if self.waiting and not (began_at < math.inf and self._is_first(began_at)):
            self.serve()
        return self._surplus() if len(self.idle) > self._keep else None

    def put_first(self, record: Slot) -> Slot | None:
        """Put an idle record back where the one is that has been idle the longest.

        :returns: a record that is one too many: another may have come back meanwhile.
        """
        self.idle.appendleft(record)
        if self.waiting:
            self.serve()
        return self.take_surplus()

    def free(self, record: Slot, keep: bool = True) -> None:
        """Take back a slot whose record has no connection.

        :param keep: for the next who connects, if there is room for it here.
        """
        with self._lock:
            self.opened -= 1
            record.returns += 1
            self.places.give()
            if keep and len(self._hollow) + len(self.idle) < self._keep:
                self._hollow.append(record)
            else:
                self.records.discard(record)
            self._serve()

    def serve(self) -> None:
        """Hand over what can be handed over."""
        with self._lock:
            self._serve()

    def settle_places(self) -> None:
        """Give back places that a signal's exception left without a slot."""
        with self._lock:
            self.places.settle(self.opened)

    def open_none_until(self, when: float) -> None:
        """Open no further slot until then (0 for from now on), except the only one."""
        with self._lock:
            self.opens_none_until = when
            if not when:
                self._serve()

    def _is_first(self, began_at: float) -> bool:
        """Tell whether all who wait began later, and nothing has to be closed."""
        try:
            return began_at < self.waiting[0][0] and len(self.idle) <= self._keep
        except IndexError:  # none waits any more
            return False

    # Under the lock ----------------------------------------------------------------

    def _grant(self) -> Slot | None:
        record = self._pop()
        if record is not None:
            return record
        if self.opened >= self.limit:
            return None
        if self.opens_none_until and self.opened:
            now = _clock()
            if now < self.opens_none_until:
                return None
            # One at a time tries; how that ends decides on the others.
            self.opens_none_until = now + 1
        return self._open()

    def _serve(self) -> None:
        if self._serving:
            self._again = True
            return
        self._serving = True
        try:
            while True:
                self._again = False
                while self.waiting and (self.idle or self.opened < self.limit):
                    record = self._grant()
                    if record is None:
                        break
                    waiter = self.waiting[0][2]
                    try:
                        # First, and without a call: no signal's exception can come
                        # between, and who has it gives it back if need be.
                        waiter.grant = record
                        heapq.heappop(self.waiting)
                        waiter.wake()
                    except BaseException:
                        self._remove(waiter)
                        waiter.wake()
                        raise
                if not self._again:
                    break
        finally:
            self._serving = False

    def _restore(self, record: Slot) -> None:
        """Take back what was granted to no thread."""
        if record.dbapi_connection is None:
            self.free(record)
        else:
            self.idle.appendleft(record)
            self.serve()

    def _remove(self, waiter: Waiter[Slot]) -> None:
        # A garbage collection in here must not serve from the list that is replaced.
        before, self._serving = self._serving, True
        try:
            rest = [entry for entry in self.waiting if entry[2] is not waiter]
            heapq.heapify(rest)
            self.waiting = rest
        finally:
            self._serving = before
        if self._again:
            self._serve()
