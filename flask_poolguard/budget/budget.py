"""One process's part of a budget: its places, and the thread that looks for more.

A place is taken before a connection is opened, and freed once that is closed. A
checkout of an open connection has nothing to do with it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
import typing as t
import weakref
from collections.abc import Iterable

from ..pool import Places, after_fork_in_child, close_longest_idle
from .giving import Giving, part_of, wishes
from .shared_file import BudgetError, BudgetFile, Row, file_name
from .standing import standing_in

if t.TYPE_CHECKING:
    from ..pool import FairQueue, GuardedRecord

    Queue = FairQueue[GuardedRecord]

logger = logging.getLogger("flask_poolguard")

_clock = time.monotonic

# Seconds between two looks: of a process that wishes for a place, of one that may have
# to give one, and of any other.
_WISHING: t.Final = 0.05
_GIVING: t.Final = 0.1
_AT_REST: t.Final = 1.0
# A connection that was given back less than so many seconds ago is not idle: under load
# it is taken again at once, and would else go to and fro between processes, closed and
# opened each time.
IDLE: t.Final = 0.1


class PoolPlaces(Places):
    """The places of one pool's queue.

    ``count`` changes under the queue's lock, like the number of open slots.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.count = 0
        self.queue_ref: t.Callable[[], Queue | None] = lambda: None

    def belong_to(self, queue: Queue) -> None:
        """Note the queue whose slots take these places."""
        self.queue_ref = weakref.ref(queue)
        self._budget.add(self)

    def take(self) -> bool:
        """Take a place for a slot that is about to be opened, if there is one."""
        if self._budget.take():
            self.count += 1
            return True
        return False

    def give(self) -> None:
        """Give back the place of a slot that has no connection any more."""
        self.count -= 1
        self._budget.trim()

    def pays(self) -> bool:
        """Tell whether a connection that comes back is to be closed, and count it."""
        return self._budget.pays()

    def join(self) -> None:
        """Keep one place for this process, which is a worker, while it lives."""
        self._budget.join()

    def borrow(self) -> bool:
        """Take a place for a connection that is no slot's; False if there is none."""
        return self._budget.borrow()

    def give_back(self) -> None:
        """Give back what was borrowed."""
        self._budget.give_back()

    def refusal(self) -> str:
        """Return who has the places, for the error of a thread that got none."""
        return self._budget.refusal()


class Budget:
    """The places that this process has, and may have, of one budget.

    ``_lock`` protects them. It is taken within a queue's lock, so no queue is called
    under it; and it is re-entrant, because a garbage collection inside may give a
    connection back.

    :param name: the file's.
    :param most: how many connections all processes together may have.
    :param app: shown to others.
    """

    def __init__(self, state_dir: str | None, name: str, most: int, app: str) -> None:
        self._state_dir, self._name = state_dir, name
        self.most, self._app = most, app
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._parts: weakref.WeakSet[PoolPlaces] = weakref.WeakSet()
        self._file: BudgetFile | None = None
        self._row: int | None = None
        # Those that this process has locked. Some may have no slot: a worker's first,
        # and what was just found for a thread that waits.
        self._places: list[int] = []
        self._is_member = False
        self._is_kept, self._trouble = True, ""
        self._asked_at = self._refused_until = 0.0
        self._lent = self._owed = 0

    def forked(self) -> None:
        """Leave the parent's places to the parent."""
        if self._pid != os.getpid():
            self._begin()

    # What queues and workers ask ---------------------------------------------------

    def add(self, part: PoolPlaces) -> None:
        """Note one more pool."""
        self.forked()
        with self._lock:
            self._parts.add(part)

    def join(self) -> None:
        """Keep one place for this process, which is a worker, while it lives."""
        self.forked()
        with self._lock:
            if not self._is_member:
                self._is_member = True
                self._wake_thread()

    def take(self) -> bool:
        """Tell whether one more slot may be opened.

        If not, the thread of this budget looks for a place, and serves those who wait
        when it has one.
        """
        self.forked()
        with self._lock:
            if not self._is_kept or self._used() < len(self._places):
                return True
            now = _clock()
            if now < self._refused_until:
                return False
            if self._grab(now):
                if self._thread is None:
                    self._wake_thread()
                return True
            self._wake_thread()
            if self._has_lost():
                return True
            self._refused_until = now + _WISHING
            if not self._asked_at:
                self._asked_at = now
                self._publish(now)
            return False

    def borrow(self) -> bool:
        """Take a place for a connection that is no slot's; False if there is none."""
        with self._lock:
            if self._asked_at or not self.take():
                return False
            self._lent += 1
            return True

    def give_back(self) -> None:
        """Give back what was borrowed."""
        with self._lock:
            self._lent = max(self._lent - 1, 0)
            self._trim()

    def trim(self) -> None:
        """Free the places that no slot has, but for a worker's first."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._trim()

    def pays(self) -> bool:
        """Tell whether to close a connection that comes back, and count it."""
        with self._lock:
            if self._owed <= 0:
                return False
            self._owe(self._owed - 1)
            return True

    def _owe(self, connections: int) -> None:
        """Let so many connections be closed when they come back: another process gets
        their places.
        """
        with self._lock:
            self._owed = connections
            for part in self._parts:
                part.owes = connections

    def refusal(self) -> str:
        """Return who has the places, if that keeps threads waiting; else ""."""
        file = self._file
        if not self._asked_at or file is None:
            return ""
        return str(standing_in(file, self.most))

    # The thread --------------------------------------------------------------------

    def look(self) -> float:
        """Take what is wished for, give what others wish for; return in how many
        seconds to look again.
        """
        if self._pid != os.getpid():
            return _AT_REST
        self._tell_trouble()
        queues = self._serve_wishes()
        giving = self._reckon(queues)
        self._owe(giving.returned)
        if giving.idle:
            # In a thread of its own: a line may hold a goodbye up for ever.
            _start("poolguard-giver", _close, queues, giving.idle)
        if self._asked_at:
            return _WISHING
        return _GIVING if self._used() > 1 else _AT_REST

    def _serve_wishes(self) -> list[Queue]:
        """Take places for those who wait, the longest first; return all queues."""
        while True:
            queues = self._count_anew()
            wanting = sorted(filter(_wants, queues), key=_waiting_since)
            with self._lock:
                now = _clock()
                self._refused_until = 0.0
                before = self._used()
                is_wished = bool(wanting) or (self._is_member and not self._places)
                has_one = is_wished and (before < len(self._places) or self._grab(now))
                if has_one or not is_wished:
                    self._asked_at = 0.0
                elif not self._asked_at:
                    self._asked_at = now
                if not wanting:
                    self._trim()
                self._publish(now)
            if not wanting or not has_one:
                return queues
            for queue in wanting:
                queue.serve()
            if self._used() == before:  # those who waited are gone
                return queues

    def _count_anew(self) -> list[Queue]:
        """Return all queues, with their slots counted: a signal's exception may have
        come between a place and its slot.
        """
        with self._lock:
            parts = list(self._parts)
        queues = []
        for part in parts:
            queue = part.queue_ref()
            if queue is not None:
                queue.count_places()
                queues.append(queue)
        return queues

    def _reckon(self, queues: list[Queue]) -> Giving:
        with self._lock:
            file, now = self._file, _clock()
            if file is None or not self._is_kept or self._used() < 2:
                return Giving(0, 0)
            if not file.is_wished_for():
                return Giving(0, 0)
            own = self._own_row(now)
        rows = {**file.rows(), self._pid: own}
        since = min(map(_waiting_since, queues), default=math.inf)
        return part_of(self._pid, rows, since, now)

    def _tell_trouble(self) -> None:
        with self._lock:
            file = self._file
            if file is not None and self._is_kept and not file.is_there():
                self._lose(f"{file.path} was removed or replaced")
            trouble, self._trouble = self._trouble, ""
        if trouble:
            logger.warning(
                "POOLGUARD_BUDGET is not kept by this process, which opens connections"
                " up to the sizes of its pools: %s.",
                trouble,
            )
            for queue in self._count_anew():
                queue.serve()

    # Under the lock ----------------------------------------------------------------

    def _used(self) -> int:
        return sum(part.count for part in self._parts) + self._lent

    def _wake_thread(self) -> None:
        if self._thread is None:
            reference = weakref.ref(self)
            self._thread = _start("poolguard-budget", _run, reference, self._wake)
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def _has_lost(self) -> bool:
        return not self._is_kept

    def _lose(self, trouble: str) -> None:
        self._is_kept, self._trouble = False, trouble
        self._asked_at = 0.0
        self._owe(0)

    def _grab(self, now: float) -> bool:
        """Lock one more place unless an older wish comes first, or there is none."""
        try:
            if self._file is None:
                self._file = BudgetFile.open(self._state_dir, self._name)
                self._row = self._file.join()
            if self._comes_after_others(self._file, now):
                return False
            # Elsewhere than others begin, so that few meet one that is taken.
            first = self._places[-1] + 1 if self._places else self._pid
            for number in range(self.most):
                place = (first + number) % self.most
                if self._file.take(place):
                    self._places.append(place)
                    return True
        except (BudgetError, OSError) as error:
            self._lose(str(error))
        return False

    def _comes_after_others(self, file: BudgetFile, now: float) -> bool:
        if not file.is_wished_for():
            return False
        own = Row(self._asked_at or now, now, not self._places, 0, 0, "")
        rows = {**file.rows(), self._pid: own}
        return wishes(rows, now)[0] != self._pid

    def _trim(self) -> None:
        kept = max(self._used(), 1 if self._is_member else 0)
        while len(self._places) > kept:
            place = self._places.pop()
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.free(place)

    def _own_row(self, now: float) -> Row:
        idle = 0
        for part in self._parts:
            queue = part.queue_ref()
            if queue is not None:
                # By the pool's clock, which tests let jump.
                idle += sum(now - each.idle_since >= IDLE for each in list(queue.idle))
        used, is_first = self._used(), not self._places
        return Row(self._asked_at, now, is_first, used, idle, self._app)

    def _publish(self, now: float) -> None:
        if self._file is not None and self._row is not None and self._is_kept:
            with contextlib.suppress(OSError):
                self._file.write(self._row, self._own_row(now))


def _wants(queue: Queue) -> bool:
    return bool(queue.waiting) and queue.opened < queue.limit


def _waiting_since(queue: Queue) -> float:
    try:
        claim: t.Any = queue.waiting[0][2].claim
    except IndexError:
        return math.inf
    return float(getattr(claim, "asked_at", claim.began_at))


def _close(queues: list[Queue], count: int) -> None:
    for _ in range(count):
        if not close_longest_idle(queues):
            return


def _start(name: str, run: t.Callable[..., None], *args: t.Any) -> threading.Thread:
    thread = threading.Thread(target=run, args=args, name=name, daemon=True)
    with contextlib.suppress(RuntimeError):  # none can be started at a process's end
        thread.start()
    return thread


def _run(reference: weakref.ref[Budget], wake: t.Any) -> None:
    pause = 0.0
    while True:
        wake.acquire(timeout=pause)
        budget = reference()
        if budget is None:
            return
        try:
            pause = budget.look()
        except Exception:
            logger.warning("A look at the budget failed", exc_info=True)
            pause = _AT_REST
        del budget


_all: weakref.WeakSet[Budget] = weakref.WeakSet()
_by_name: weakref.WeakValueDictionary[tuple[str | None, str], Budget] = (
    weakref.WeakValueDictionary()
)


def find_budget(
    state_dir: str | None, parts: Iterable[object], most: int, app: str
) -> Budget:
    """Return this process's budget of these parts; pools with equal ones share it.

    :param state_dir: ``POOLGUARD_STATE_DIR``.
    :param parts: what tells it from others: its name, the server, the user.
    :param most: how many connections; of several, the smallest counts.
    :param app: the app's name, shown to others.
    """
    name = file_name(parts)
    budget = _by_name.get((state_dir, name))
    if budget is None:
        budget = _by_name[state_dir, name] = Budget(state_dir, name, most, app)
    budget.most = min(budget.most, most)
    return budget


@after_fork_in_child
def _after_fork_in_child() -> None:
    for budget in list(_all):
        budget.forked()
