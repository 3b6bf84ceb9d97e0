"""The order of service: a pool's idle slots, its room for more, its waiters."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
import typing as t
from collections import deque

from ..errors import TooManyWaiting
from .types import Claim, Queued

Slot = t.TypeVar("Slot", bound=Queued)

_clock = time.monotonic

# For one whose refusal could not be worded.
_REFUSED: t.Final = (
    "As many wait for a connection as POOLGUARD_MAX_WAITING allows, and this one was"
    " the youngest"
)


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


class FairQueue(t.Generic[Slot]):
    """The slots of one pool.

    A slot is a record. It is *open* from the moment it is given to a thread that will
    connect it until :meth:`free` takes it back without a connection; open slots are
    idle (here) or out (with a thread). The names ``maxsize``, ``use_lifo``,
    ``qsize``, ``empty`` and ``full`` are those of the queue that a QueuePool has in
    the same place, for code that looks at that.

    ``_lock`` protects the waiters and the number of open slots. No code connects,
    closes, asks or logs while holding it. It is re-entrant because a garbage
    collection inside may return a connection; ``_serving`` then leaves the serving to
    the call that was interrupted. The idle records change by single operations of a
    deque, and who adds one looks for waiters afterwards, while who begins to wait
    looks for idle records afterwards: one of the two sees the other.

    :param maxsize: how many idle connections are kept; 0 for any number.
    :param limit: how many slots may be open at a time; infinite for any number.
    :param make_record: makes a record without a connection.
    """

    def __init__(
        self,
        maxsize: int,
        limit: float,
        use_lifo: bool,
        make_record: t.Callable[[], Slot],
    ) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self.limit = limit
        self._make_record = make_record
        self._keep = maxsize or math.inf
        self.idle: deque[Slot] = deque()
        # The next idle record; IndexError if there is none.
        self.pop = self.idle.pop if use_lifo else self.idle.popleft
        # Records whose connection is gone. Used again, because ``record_info`` is to
        # outlive the connection.
        self._hollow: deque[Slot] = deque()
        # Every record that is here, out or being connected.
        self.records: set[Slot] = set()
        self.opened = 0
        # A heap of those who wait: the oldest claim, and of equals the first to ask.
        self.waiting: list[tuple[float, int, Waiter[Slot]]] = []
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._serving = self._again = False
        # Until then the server is known to have no room for one more connection.
        self.opens_none_until = 0.0

    # What a QueuePool's queue tells ------------------------------------------------

    @property
    def queue(self) -> deque[Slot]:
        """The idle connections."""
        return self.idle

    @queue.setter
    def queue(self, records: t.Iterable[Slot]) -> None:
        """Leave only these."""
        kept = list(records)
        self.opened -= len(self.idle) - len(kept)
        self.records -= set(self.idle) - set(kept)
        self.idle.clear()
        self.idle.extend(kept)

    def qsize(self) -> int:
        """Return the number of idle connections."""
        return len(self.idle)

    def empty(self) -> bool:
        """Tell whether no connection is idle."""
        return not self.idle

    def full(self) -> bool:
        """Tell whether one more that came back would be closed."""
        return len(self.idle) >= self._keep

    @property
    def spare(self) -> int:
        """The number of records without a connection that are kept."""
        return len(self._hollow)

    # Taking ------------------------------------------------------------------------

    def get_now(self) -> Slot | None:
        """Take a record if there is one, or room for one, and no thread waits."""
        record = None
        try:
            with self._lock:
                if not self.waiting:
                    record = self._grant()
            return record
        except BaseException:  # a signal's: no other thread knows of it
            if record is not None:
                self._restore(record)
            raise

    def enqueue(
        self, waiter: Waiter[Slot], most: float, refuse: t.Callable[[], BaseException]
    ) -> None:
        """Begin to wait. If this or a later step raises: :meth:`withdraw` it.

        :param most: how many may wait at a time. Beyond it the youngest claim is
            refused, which may be another one than this.
        :param refuse: makes the error for that one.
        """
        youngest = None
        entry = (waiter.claim.began_at, next(self._numbers), waiter)
        with self._lock:
            heapq.heappush(self.waiting, entry)
            self._serve()
            if len(self.waiting) > most:
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
        while not waiter.is_settled():
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

    def put(self, record: Slot) -> Slot | None:
        """Take a connected record back.

        :returns: a record that is one too many: close it, then :meth:`free` it.
        """
        # Nothing is called in between, so no asynchronous exception can come.
        record.returns += 1
        self.idle.append(record)
        if self.waiting:
            self.serve()
        return self._surplus() if len(self.idle) > self._keep else None

    def put_first(self, record: Slot) -> Slot | None:
        """Put an idle record back where the one is that has been idle the longest.

        :returns: a record that is one too many: another may have come back meanwhile.
        """
        self.idle.appendleft(record)
        if self.waiting:
            self.serve()
        return self._surplus() if len(self.idle) > self._keep else None

    def _surplus(self) -> Slot | None:
        try:
            return self.idle.popleft() if self.use_lifo else self.idle.pop()
        except IndexError:  # another thread just took it
            return None

    def free(self, record: Slot, keep: bool = True) -> None:
        """Take back a slot whose record has no connection.

        :param keep: for the next who connects, if there is room for it here.
        """
        with self._lock:
            self.opened -= 1
            record.returns += 1
            if keep and len(self._hollow) + len(self.idle) < self._keep:
                self._hollow.append(record)
            else:
                self.records.discard(record)
            self._serve()

    def serve(self) -> None:
        """Hand over what can be handed over."""
        with self._lock:
            self._serve()

    def open_none_until(self, when: float) -> None:
        """Open no further slot until then (0 for from now on), except the only one."""
        with self._lock:
            self.opens_none_until = when
            if not when:
                self._serve()

    # Under the lock ----------------------------------------------------------------

    def _pop(self) -> Slot | None:
        # Not by self.pop(): an exception just after it, before the record has a name
        # here, would lose it.
        idle = self.idle
        while idle:
            try:
                record = idle[-1 if self.use_lifo else 0]
                idle.remove(record)
            except (IndexError, ValueError):  # another thread just took it
                continue
            except BaseException:
                idle.appendleft(record)
                raise
            return record
        return None

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
        self.opened += 1
        try:
            if self._hollow:
                return self._hollow.pop()
            record = self._make_record()
            self.records.add(record)
        except BaseException:
            self.opened -= 1
            raise
        return record

    def _serve(self) -> None:
        if self._serving:
            self._again = True
            return
        self._serving = True
        try:
            while True:
                self._again = False
                while self.waiting:
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
