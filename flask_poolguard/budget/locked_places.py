"""The places of a budget that one process has locked, and how many it may."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping

from .allowance import MOST
from .auto_limit import AutoLimit
from .giving import wishes
from .layout import Row
from .pool_places import ANY
from .shared_file import BudgetError, BudgetFile

_clock = time.monotonic


class LockedPlaces:
    """The places that this process has locked in the budget's file.

    ``_claimed`` has all of them: a place is noted there before it is locked, so that of
    two threads one tries. It needs no lock: single operations of a dict change it.

    :param name: the file's.
    :param app: shown to others.
    :ivar limit: how many connections all processes together may have.
    """

    def __init__(self, state_dir: str | None, name: str, app: str) -> None:
        self._state_dir, self._name, self._app = state_dir, name, app
        # What the app has set: a number, or what the server allows.
        self.limit = self._number = MOST
        self._auto: AutoLimit | None = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._file: BudgetFile | None = None
        self._row: int | None = None
        self._claimed: dict[int, object] = {}
        self._free: deque[int] = deque()
        # Whether the server has been asked, if its answer is to count.
        self._is_known = False
        if self._auto is not None:
            self._auto.forked()

    def go_by(self, number: int | None, auto: AutoLimit | None = None) -> None:
        """Note how many places there are; of several numbers the smallest counts.

        :param number: None for what *auto* finds.
        """
        if not self.is_in_use():
            self._number, self._auto = MOST, None
        self._number = min(self._number, number or MOST)
        self._auto = self._auto if auto is None else auto.joined(self._auto)
        self.limit = self._number

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
            file = self._open_file()
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

    def _open_file(self) -> BudgetFile:
        file = self._file
        if file is None:
            file = self._file = BudgetFile.open(self._state_dir, self._name)
            self._row = file.join()
        return file

    def _release(self, place: int) -> None:
        if self._file is not None:
            self._file.unlock(place)
        self._claimed.pop(place, None)

    # A limit that the server sets ---------------------------------------------------

    def _may_grab(self, file: BudgetFile) -> bool:
        """Tell whether the server's answer lets this process have one more place.

        Until there is one, each process has a single place: its own connect tells its
        caller if the server is away. While places beyond a limit that fell are in use,
        there are as many fewer below it.
        """
        if self._auto is None:
            return True
        if not self._is_known:  # later each look learns it
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
            # Unless a garbage collection gave one back meanwhile.
            if held[index : index + 1] == [high]:
                held[index] = low
            else:
                low, high = high, low
            self._release(high)

    def _exchange(self, file: BudgetFile) -> int | None:
        try:
            file.check()
            return self._lock_one(file, range(self.limit))
        except (BudgetError, OSError) as error:
            self._lose(str(error))
            return None

    # What others wish for -----------------------------------------------------------

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

    def is_in_use(self) -> bool:
        """Tell whether a pool has it."""
        raise NotImplementedError

    def _lose(self, trouble: str) -> None:
        """Keep the budget no longer."""
        raise NotImplementedError
