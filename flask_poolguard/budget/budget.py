"""One process's part of a budget: its places, and the thread that looks for more.

A place is taken before a connection is opened, and freed once that is closed. A
checkout of an open connection has nothing to do with it.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import typing as t
from collections.abc import Mapping
from dataclasses import replace

from ..log_lines import warn
from ..pool import close_longest_idle
from .giving import Giving, part_of
from .layout import Row
from .own_places import OwnPlaces
from .pool_places import ANY
from .queues import close_longest, idle_in, waiting_since, wants
from .shared_file import BudgetError
from .standing import standing_in

if t.TYPE_CHECKING:
    from .queues import Queue
    from .shared_file import BudgetFile

_clock = time.monotonic

# Seconds between two looks: of a process in which a thread waits for a place, of one
# that may have to give one, and of any other.
_WISHING: t.Final = 0.05
_GIVING: t.Final = 0.1
_AT_REST: t.Final = 1.0
# Where all have some, a busy process gives one at most so often: rows are a moment old,
# so more would go to and fro.
_EVENS_EVERY: t.Final = 0.15


class Budget(OwnPlaces):
    """The places of this process, and the thread that looks for more.

    ``_look_lock`` keeps two looks from overlapping; it is only ever tried.
    """

    def _begin(self) -> None:
        self._look_lock = threading.Lock()
        self._wake = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_starting = False
        self._asked_at = self._looked_at = self._evens_at = 0.0
        super()._begin()

    # What pools and workers ask ----------------------------------------------------

    def draw(self) -> int | None:
        """Return a place for a connection that is about to be opened, ``ANY`` for a
        budget that is not kept; None if there is none.

        Then the thread of this budget looks for one, and serves those who wait when it
        has it.
        """
        self.forked()
        if not self._is_kept:
            return ANY
        with contextlib.suppress(IndexError):
            return self._free.popleft()
        now = _clock()
        place = self._grab(now) if now >= self._refused_until else None
        if place is None:
            self._refused_until = now + _WISHING
            self._wished_at = now
        # While there is a wish it looks often enough by itself.
        is_new = place is None and not self._asked_at
        if is_new or place == ANY or self._thread is None:
            self._wake_thread()
        return place

    def join(self) -> None:
        """Keep one place for this process, which is a worker, while it lives.

        To be called every second or so: it looks, if the budget's thread cannot.
        """
        self.forked()
        if not self._is_member:
            self._is_member = True
            self._wake_thread()
        elif _clock() - self._looked_at > 2 * _AT_REST:
            self.look()

    def refusal(self) -> str:
        """Return who has the places, if all are taken; else ""."""
        file = self._file
        if file is None or not self._is_kept:
            return ""
        standing = standing_in(file, self.limit, self.own())
        if self.limit < self._number:
            standing = replace(standing, told=file.allowed().told)
        return str(standing) if standing.is_used_up else ""

    # The thread --------------------------------------------------------------------

    def look(self) -> float:
        """Take what is wished for, give what others wish for; return in how many
        seconds to look again.
        """
        if self._pid != os.getpid() or not self._look_lock.acquire(blocking=False):
            return _AT_REST
        try:
            return self._look()
        finally:
            self._looked_at = _clock()
            self._look_lock.release()

    def _look(self) -> float:
        self._tell_trouble()
        if not self._is_kept:
            return _AT_REST
        queues = self._queues()
        others = None
        if self._file is not None:
            self._ask_server(self._file)
            others = self._rows_of_others(self._file)
        self.settle()
        waits = self._serve(queues, others)
        self._give(queues, others or {})
        if waits:
            return _WISHING
        return _GIVING if len(self._claimed) > 1 else _AT_REST

    def _ask_server(self, file: BudgetFile) -> None:
        if self._auto is not None:
            is_short = bool(self._asked_at)
            self._auto.tend(file, self._connections, self._wake_thread, is_short)
            self._learn_limit(file)

    def _serve(
        self, queues: list[Queue], others: Mapping[int, Row] | None = None
    ) -> bool:
        """Take places for those who wait, the longest first; tell whether one still
        does.
        """
        while True:
            wanting = sorted(filter(wants, queues), key=waiting_since)
            now = _clock()
            # A wish is looked for here, and needs no second search with each release.
            self._refused_until = now + 2 * _WISHING if wanting else 0.0
            if wanting:
                since = min(now, waiting_since(wanting[0]))
            elif self._is_member and not self._claimed:
                since = self._asked_at or now
            else:
                # In this order: who begins to wait meanwhile either is seen here, or
                # sees no wish and wakes this thread again.
                self._asked_at = 0.0
                if any(map(wants, queues)):
                    continue
                self._shed()
                self._publish(now, queues, waits=False)
                return False
            place = None if self._free else self._grab(since, bool(wanting), others)
            if place is not None and place != ANY:
                self._free.append(place)
            has_one = bool(self._free)
            self._asked_at = 0.0 if has_one else since
            self._publish(now, queues, waits=bool(wanting))
            if not has_one or not wanting:
                if wanting:
                    self._close_elsewhere(queues, wanting)
                return bool(wanting)
            before = len(self._free)
            for queue in wanting:
                queue.serve()
            if len(self._free) >= before:  # those who waited are gone
                return False

    def _close_elsewhere(self, queues: list[Queue], wanting: list[Queue]) -> None:
        """Close an idle connection of another pool of this process."""
        others = [each for each in queues if each not in wanting and each.idle]
        if others:
            _start("poolguard-giver", close_longest_idle, others)

    def _give(self, queues: list[Queue], others: Mapping[int, Row]) -> None:
        giving, now = Giving(), _clock()
        if others and self._row is not None:
            rows = {**others, self._row: self._own_row(now, queues, waits=True)}
            since = min(map(waiting_since, queues), default=math.inf)
            giving = part_of(self._row, rows, since, now)
            if giving.returned and now < self._evens_at and _all_have_one(rows):
                giving = giving._replace(returned=0)
        if giving.returned:
            self._evens_at = now + _EVENS_EVERY
        excess = len(self._beyond())
        if excess:  # the server's limit fell, or others want more of it
            idle = min(sum(len(each.idle) for each in queues), excess)
            giving = Giving(
                giving.idle + idle, giving.returned + excess - idle, giving.spare
            )
        if giving.returned or self._owed:
            self._owe(giving.returned)
        for _ in range(giving.spare):
            with contextlib.suppress(IndexError):
                self._release(self._free.pop())
        if giving.idle:
            # In a thread of its own: a line may hold a goodbye up for ever.
            _start("poolguard-giver", close_longest, queues, giving.idle)

    def _tell_trouble(self) -> None:
        file = self._file
        if file is not None and self._is_kept and not file.is_there():
            self._lose(f"{file.path} was removed or replaced, or is closed")
        trouble, self._trouble = self._trouble, ""
        if trouble:
            warn(
                "budget_not_kept",
                "POOLGUARD_BUDGET is not kept by this process, which opens connections"
                " up to the sizes of its pools: %s.",
                trouble,
            )
            for queue in self._queues():
                queue.serve()

    # Rows --------------------------------------------------------------------------

    def _own_row(self, now: float, queues: list[Queue], waits: bool) -> Row:
        idle, spare = idle_in(queues, now), len(self._free)
        used = max(len(self._claimed) - spare, 0)
        asked, limit = self._asked_at, self.limit
        return Row(asked, now, waits, used, idle, spare, limit, self._app)

    def _publish(self, now: float, queues: list[Queue], waits: bool) -> None:
        if self._file is None or self._row is None:
            return
        try:
            self._file.write(self._row, self._own_row(now, queues, waits))
        except BudgetError as error:
            self._lose(str(error))
        except OSError:
            return

    def _wake_thread(self) -> None:
        if self._thread is None and not self._is_starting:
            self._is_starting = True  # to start one lets other greenlets run
            try:
                # Made here: gevent has patched threading by now, if it does at all.
                self._wake = threading.Lock()
                self._thread = _start("poolguard-budget", _run, self, self._wake)
            finally:
                self._is_starting = False
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def is_over(self) -> bool:
        """Free all places if no pool is left that could use them, and tell whether that
        is so.
        """
        if self._parts:
            return False
        self._is_member = False
        for place in list(self._claimed):
            self._release(place)
        self._free.clear()
        return not self._parts


def _all_have_one(rows: Mapping[int, Row]) -> bool:
    return all(row.places for row in rows.values() if row.asked_at)


def _start(
    name: str, run: t.Callable[..., object], *args: t.Any
) -> threading.Thread | None:
    thread = threading.Thread(target=run, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # none can be started: join() looks then
        return None
    return thread


def _run(budget: Budget, wake: t.Any) -> None:
    pause, epoch = 0.0, budget.epoch
    while budget.epoch is epoch:
        wake.acquire(timeout=pause)
        try:
            pause = budget.look()
            if budget.is_over():
                budget._thread = None
                if budget.is_over():  # no pool has come meanwhile
                    return
        except Exception:
            warn("guard_failed", "A look at the budget failed", exc_info=True)
            pause = _AT_REST
