"""The places that one process has of a budget, without a lock."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
import weakref
from collections import deque
from collections.abc import Iterable, Mapping

from .auto_limit import MOST, AutoLimit
from .giving import wishes
from .layout import Row
from .pool_places import ANY, PoolPlaces
from .shared_file import BudgetError, BudgetFile

if t.TYPE_CHECKING:
    from ..pool import FairQueue, GuardedRecord

    Queue = FairQueue[GuardedRecord]

_clock = time.monotonic

# After so many looks at which a place was nowhere, it is on its way to no pool.
_LOST_AFTER: t.Final = 20


class OwnPlaces:
    """The places that this process has, and may have.

    No lock protects them: a garbage collection may give a connection back at any
    point, and the lock that it then needs may be held by a thread that waits for this
    one. A place is in one of three collections (free here, a pool's, lent), and moves
    from one to the next by single operations of a deque or list. ``_claimed`` has all
    of them; what it has and none of the others, an asynchronous exception left over,
    and :meth:`settle` frees it.

    :param name: the file's.
    :param app: shown to others.
    :ivar limit: how many connections all processes together may have.
    :ivar epoch: another one in a forked child.
    """

    def __init__(self, state_dir: str | None, name: str, app: str) -> None:
        self._state_dir, self._name, self._app = state_dir, name, app
        # What the app has set: a number, or what the server allows.
        self.limit = self._number = MOST
        self._auto: AutoLimit | None = None
        self._begin()

    def go_by(self, number: int | None, auto: AutoLimit | None = None) -> None:
        """Note how many places there are; of several numbers the smallest counts.

        :param number: None for what *auto* finds.
        """
        if not self._parts:
            self._number, self._auto = MOST, None
        self._number = min(self._number, number or MOST)
        self._auto = self._auto if auto is None else auto.joined(self._auto)
        self.limit = self._number

    def _begin(self) -> None:
        self.epoch = object()
        self._pid = os.getpid()
        self._parts: weakref.WeakSet[PoolPlaces] = weakref.WeakSet()
        self._file: BudgetFile | None = None
        self._row: int | None = None
        self._claimed: dict[int, object] = {}
        self._free: deque[int] = deque()
        self._is_member = False
        self._is_kept, self._trouble = True, ""
        self._refused_until = 0.0
        # What was claimed and nowhere at the last looks, by its claim, and how often.
        self._lost: dict[object, int] = {}
        self._owed = 0
        # Whether the server has been asked, if its answer is to count.
        self._is_known = False

    def forked(self) -> None:
        """Leave the parent's places to the parent."""
        if self._pid != os.getpid():
            if self._auto is not None:
                self._auto.forked()
            self._begin()

    def add(self, part: PoolPlaces) -> None:
        """Note one more pool."""
        self.forked()
        self._parts.add(part)

    def is_in_use(self) -> bool:
        """Tell whether a pool has it."""
        return bool(self._parts)

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

    def _grab(
        self,
        since: float,
        waits: bool = True,
        others: Mapping[int, Row] | None = None,
    ) -> int | None:
        """Lock a place that no older wish comes before; None if there is none, ``ANY``
        if the budget cannot be kept.

        :param since: since when a thread has waited for it.
        :param others: what :meth:`_rows_of_others` has returned a moment ago.
        """
        try:
            file = self._file
            if file is None:
                file = self._file = BudgetFile.open(self._state_dir, self._name)
                self._row = file.join()
            file.check()
            if not self._may_grab(file):
                return None
            rows = self._rows_of_others(file) if others is None else others
            first = self._left_to_others(rows, since, waits)
            number = self.limit - first
            # Elsewhere than others begin, so that few meet one that is taken; but with
            # the lowest while there is no limit, because there may be one soon.
            begin = self._pid if self.limit < MOST else 0
            places = (first + (each + begin) % number for each in range(number))
            return self._lock_one(file, places)
        except (BudgetError, OSError) as error:
            self._lose(str(error))
            return ANY

    def _lock_one(self, file: BudgetFile, places: Iterable[int]) -> int | None:
        """Lock the first of these that is free, and note it."""
        for place in places:
            claim = object()
            if self._claimed.setdefault(place, claim) is not claim:
                continue
            if file.lock(place):
                return place
            del self._claimed[place]
        return None

    # A limit that the server sets ---------------------------------------------------

    def _may_grab(self, file: BudgetFile) -> bool:
        """Tell whether the server's answer lets this process have one more place.

        Until there is one, each process has a single place: its own connect tells its
        caller if the server is away. While places beyond a limit that fell are in use,
        there are as many fewer below it.
        """
        if self._auto is None:
            return True
        self._learn_limit(file)
        if not self._is_known:
            return not self._claimed
        limit = self.limit
        if not self._beyond() and not file.is_taken_from(limit, MOST):
            return True
        return sum(file.holders(MOST).values()) + len(self._claimed) < limit

    def _learn_limit(self, file: BudgetFile) -> None:
        if self._auto is not None:
            allowed = self._auto.number_in(file)
            self._is_known = allowed is not None
            self.limit = min(allowed or MOST, self._number)

    def _beyond(self) -> list[int]:
        """Return the places of this process that are beyond the limit."""
        return [each for each in list(self._claimed) if each >= self.limit]

    def _connections(self) -> int:
        """Count the connections of all processes."""
        file = self._file
        if file is None:
            return 0
        taken = sum(file.holders(MOST).values()) + len(self._claimed)
        spare = sum(row.spare for _, row in file.rows().values()) + len(self._free)
        return max(taken - spare, 0)

    def tidy(self, held: list[int]) -> None:
        """Exchange a pool's places beyond the limit for free ones below it, and let
        those that are left be given back first. Called under the queue's lock.
        """
        file = self._file
        if file is None or max(held, default=0) < self.limit:
            return
        held.sort()
        for index in range(len(held) - 1, -1, -1):
            high = held[index]
            low = self._exchange(file) if high >= self.limit else None
            if low is None:
                return
            held[index] = low
            self._release(high)

    def _exchange(self, file: BudgetFile) -> int | None:
        try:
            file.check()
            return self._lock_one(file, range(self.limit))
        except (BudgetError, OSError) as error:
            self._lose(str(error))
            return None

    # Rows --------------------------------------------------------------------------

    def _rows_of_others(self, file: BudgetFile) -> dict[int, Row]:
        """Return the rows of the other processes; none while none of them wishes."""
        if not file.is_wished_for():
            return {}
        return {number: row for number, (_, row) in file.rows().items()}

    def _left_to_others(
        self, others: Mapping[int, Row], since: float, waits: bool
    ) -> int:
        """Return how many of the first places are left to older wishes: one that goes
        by a smaller limit cannot use the others.
        """
        if not others:
            return 0
        own = -1 if self._row is None else self._row
        places, now = len(self._claimed), _clock()
        row = Row(since, now, waits, places, 0, 0, self.limit, "")
        rows = {**others, own: row}
        order = wishes(rows, now)
        older = order[: order.index(own)]
        return min(max((rows[each].limit for each in older), default=0), self.limit)

    def _shed(self) -> None:
        """Free the places that no pool has, but for a worker's first."""
        while self._free and len(self._claimed) > (1 if self._is_member else 0):
            with contextlib.suppress(IndexError):
                self._release(self._free.pop())

    def _release(self, place: int) -> None:
        if self._file is not None:
            self._file.unlock(place)
        self._claimed.pop(place, None)

    def _lose(self, trouble: str) -> None:
        self._is_kept, self._trouble = False, trouble
        self._owe(0)
