"""All slots of a pool: idle ones, those without a connection, and room for more."""

from __future__ import annotations

import math
import typing as t
from collections import deque

from .places import Places
from .types import Queued

Slot = t.TypeVar("Slot", bound=Queued)


class Slots(t.Generic[Slot]):
    """The slots of one pool.

    A slot is a record. It is *open* from the moment it is given to a thread that will
    connect it until it is taken back without a connection; open slots are idle (here)
    or out (with a thread). The names ``maxsize``, ``use_lifo``, ``qsize``, ``empty``
    and ``full`` are those of the queue that a QueuePool has in the same place, for
    code that looks at that.

    What is open is counted under the lock of the :class:`.fair_queue.FairQueue`. The
    idle records need none: they change by single operations of a deque.

    :param maxsize: how many idle connections are kept; 0 for any number.
    :param limit: how many slots may be open at a time; infinite for any number.
    :param make_record: makes a record without a connection.
    :param places: each slot that is open has one.
    :ivar idle: records that have a connection, the one that came back last at the end.
    :ivar pop: takes the next idle record; IndexError if there is none.
    :ivar records: every record that is here, out or being connected.
    :ivar opened: how many slots are open.
    """

    def __init__(
        self,
        maxsize: int,
        limit: float,
        use_lifo: bool,
        make_record: t.Callable[[], Slot],
        places: Places,
    ) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self.limit = limit
        self._make_record = make_record
        self.places = places
        places.belong_to(self)
        self._keep = maxsize or math.inf
        self.idle: deque[Slot] = deque()
        self.pop = self.idle.pop if use_lifo else self.idle.popleft
        # Records whose connection is gone. Used again, because ``record_info`` is to
        # outlive the connection.
        self._hollow: deque[Slot] = deque()
        self.records: set[Slot] = set()
        self.opened = 0

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

    def resize(self, maxsize: int, limit: float) -> None:
        """Keep so many idle connections, and open so many slots, from now on.

        Each number is read by itself, so this needs no lock. What is idle beyond them
        is left to :meth:`take_surplus`, what waits to the next that serves.
        """
        self.maxsize = maxsize
        self._keep = maxsize or math.inf
        self.limit = limit

    def take_surplus(self) -> Slot | None:
        """Take an idle record that is one too many; None if there is none."""
        return self._surplus() if len(self.idle) > self._keep else None

    # Taking ------------------------------------------------------------------------

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

    def _surplus(self) -> Slot | None:
        try:
            return self.idle.popleft() if self.use_lifo else self.idle.pop()
        except IndexError:  # another thread just took it
            return None

    def _open(self, ahead: bool = False) -> Slot | None:
        """Return a record that is to be connected, None if there is no place for one.

        Called under the queue's lock.

        :param ahead: no thread waits for it.
        """
        if not (self.places.take_ahead() if ahead else self.places.take()):
            return None
        self.opened += 1
        try:
            if self._hollow:
                return self._hollow.pop()
            record = self._make_record()
            self.records.add(record)
        except BaseException:
            self.opened -= 1
            self.places.give()
            raise
        return record
