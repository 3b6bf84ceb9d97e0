"""One pool's part of the state file: a block of figures and a slot per connection."""

from __future__ import annotations

import math
import time
import typing as t
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.pool import ConnectionPoolEntry

from .layout import (
    BLOCK,
    FREE,
    IDLE,
    LEAKS,
    MAX_SLOTS,
    MAX_STRING,
    NAMES,
    OBSTACLES,
    OUT,
    QUEUE,
    SLOT,
    SLOTS_OFFSET,
    UNKNOWN,
    USAGE,
    USE,
)
from .mapping import NOWHERE, View
from .writer import NoStateFile

if t.TYPE_CHECKING:
    from ..pool import Obstacle
    from .usage import Usage

_monotonic = time.monotonic
_pack_slot = SLOT.pack

# For pools without an upper bound; what goes beyond is counted, but not listed.
_UNBOUNDED_SLOTS: t.Final = 256


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What does not change while a pool lives; None is unknown.

    :ivar url: without the password.
    :ivar pool_timeout: in seconds; None also for no limit.
    :ivar counted: whether checkouts can be told apart (not with a StaticPool).
    :ivar in_memory: the database lives within the process, so that a forked child has a
        copy and shares nothing, and is gone with its last connection.
    """

    bind: str
    url: str
    pool_class: str
    size: int | None
    max_overflow: int | None
    pool_timeout: float | None = None
    counted: bool = True
    age_based: bool = False
    is_async: bool = False
    in_memory: bool = False

    def slots(self) -> int:
        """Return how many connections at a time are worth a slot.

        Twice the pool's limit, because those that are out when the pool is disposed
        of do not count for the pool that takes its place.
        """
        if self.size is None or self.max_overflow is None or self.max_overflow < 0:
            return _UNBOUNDED_SLOTS
        return min(max(2 * (self.size + self.max_overflow), 2), MAX_SLOTS)


# Lines whose numbers are known; emptied when there are more, as an app may compile code
# at run time.
_MOST_SITES: t.Final = 4096


def _ignore() -> None:
    """Do nothing."""


class ShownCheckout(t.Protocol):
    """A checkout, as far as it is shown.

    :ivar place: the line of the app that took it, one object for each line.
    :ivar taken_at: in monotonic seconds.
    """

    taken_at: float
    endpoint: str

    @property
    def place(self) -> t.Hashable: ...

    def site(self) -> str:
        """Return ``file:line`` of it."""


class _Slot:
    """Where a connection is shown, and how often its slot was handed out.

    :ivar record: a weak reference to the connection's record, None for a free slot.
    """

    __slots__ = ("checkouts", "place", "record", "server_id")

    def __init__(self, offset: int) -> None:
        self.place = slice(offset, offset + SLOT.size)
        self.checkouts = 0
        self.server_id = -1
        self.record: weakref.ref[ConnectionPoolEntry] | None = None


class PoolSection:
    """Writes one pool's region.

    A slot needs no lock: only the thread that has its record writes it, and finding
    a free one is a single operation on a deque. ``show_out`` and ``show_idle`` run
    with every checkout and checkin.

    :param lost: called when a record was collected with its connection, as those of a
        pool that was not disposed of properly (``Engine.dispose(close=False)``).
    """

    def __init__(
        self, file: NoStateFile, facts: PoolFacts, lost: Callable[[], None]
    ) -> None:
        self._file = file
        self._facts = facts
        self._lost = lost
        slots = facts.slots()
        self._view: View
        region, self._view = file.add_region(slots)
        queue = region + BLOCK.size
        usage = queue + QUEUE.size
        names = usage + USAGE.size
        first = region + SLOTS_OFFSET
        self._block = slice(region, queue)
        self._queue = slice(queue, usage)
        self._usage = slice(usage, names)
        self._names = slice(names, first)
        self._free = deque(_Slot(first + each * SLOT.size) for each in range(slots))
        blank = _pack_slot(FREE, FREE, 0, 0.0, -1, 0, 0, b"", FREE)
        self._view[first : first + SLOT.size * slots] = blank * slots
        # By the record's id: a record that was abandoned is not to live on in here.
        self._slots: dict[int, _Slot] = {}
        # Ids of strings that are looked up with every checkout.
        self._sites: dict[t.Hashable, int] = {}
        self._endpoints: dict[str, int] = {}
        self._sequence = self._queue_sequence = self._usage_sequence = 0
        self._names_sequence = 0
        self._shown_names: tuple[str, ...] = ()
        self.show_waiting((), (), None)
        self._region = region
        # Not before a thread that may be about to write has let go of this section.
        finalizer = weakref.finalize(self, file.free_region, region)
        finalizer.atexit = False

    def publish(self) -> None:
        """Let other processes see the region, once all of it is written."""
        self._file.show_region(self._region)

    def close(self) -> None:
        """Write nothing more, and let other processes see the region no more."""
        self._view = NOWHERE
        self._file.hide_region(self._region)
        # These lead back here: without them the region is free at once, not only with
        # the next garbage collection.
        self._slots.clear()
        self._free.clear()
        self._lost = _ignore

    @property
    def connections(self) -> int:
        """The number of open connections that have a slot."""
        return len(self._slots)

    def show_connected(self, record: ConnectionPoolEntry, server_id: int) -> None:
        """Give the record a slot, if there is one left, on its way to its holder."""
        key = id(record)
        slot = self._slots.get(key)
        if slot is None:
            try:
                slot = self._slots[key] = self._free.popleft()
            except IndexError:
                return
            slot.record = weakref.ref(record, lambda _: self._lose(key))
        slot.server_id = server_id
        self._show(slot, OUT)

    def show_out(
        self,
        record: ConnectionPoolEntry,
        checkout: ShownCheckout,
        thread_name: bytes,
        state: int = OUT,
    ) -> bool:
        """Show who has the record's connection; False if it has no slot.

        :param state: ``OUT``, or ``KEPT`` if it outlives its scope on purpose.
        """
        slot = self._slots.get(id(record))
        if slot is None:
            return False
        place, endpoint = checkout.place, checkout.endpoint
        site_id = self._sites.get(place)
        if site_id is None:
            if len(self._sites) >= _MOST_SITES:
                self._sites.clear()
            site_id = self._sites[place] = self._file.intern(checkout.site())
        endpoint_id = self._endpoints.get(endpoint)
        if endpoint_id is None:
            endpoint_id = self._endpoints[endpoint] = self._file.intern(endpoint)
        if state == OUT:
            slot.checkouts += 1
        checkouts = slot.checkouts
        sequence = checkouts * 8 + state
        self._view[slot.place] = _pack_slot(
            sequence,
            state,
            checkouts,
            checkout.taken_at,
            slot.server_id,
            endpoint_id,
            site_id,
            thread_name,
            sequence,
        )
        return True

    def show_idle(self, record: ConnectionPoolEntry) -> bool:
        """Show that the connection is in the pool; False if it has no slot."""
        slot = self._slots.get(id(record))
        if slot is None:
            return False
        self._show(slot, IDLE)
        return True

    def release(self, record: ConnectionPoolEntry) -> None:
        """Free the slot, if there is one, of a record without a connection."""
        self._release(id(record))

    def _lose(self, key: int) -> None:
        if self._release(key):
            self._lost()

    def _release(self, key: int) -> bool:
        slot = self._slots.pop(key, None)
        if slot is None:
            return False
        slot.record, slot.server_id = None, -1
        self._show(slot, FREE)
        self._free.append(slot)
        return True

    def _show(self, slot: _Slot, state: int) -> None:
        checkouts = slot.checkouts
        sequence = checkouts * 8 + state
        now = _monotonic()
        self._view[slot.place] = _pack_slot(
            sequence, state, checkouts, now, slot.server_id, 0, 0, b"", sequence
        )

    def show_waiting(
        self,
        waiting: Sequence[float],
        connecting: Sequence[float],
        obstacle: Obstacle | None,
    ) -> None:
        """Write the queue; the caller sees to it that calls do not overlap.

        :param waiting: since when each waits for others, in monotonic seconds.
        :param connecting: since when each is being connected, likewise.
        """
        self._queue_sequence = sequence = self._queue_sequence + 1
        kind, since = 0, math.nan
        if obstacle is not None:
            kind, since = 1 + OBSTACLES.index(obstacle.kind.value), obstacle.since
        self._view[self._queue] = QUEUE.pack(
            sequence,
            len(waiting),
            min(waiting, default=math.nan),
            len(connecting),
            min(connecting, default=math.nan),
            kind,
            since,
            sequence,
        )

    def show_usage(self, usage: Usage) -> None:
        """Write what the pool was asked for; the caller sees to it that calls do not
        overlap.
        """
        self._usage_sequence = sequence = self._usage_sequence + 1
        self._view[self._usage] = USAGE.pack(
            sequence,
            *(getattr(usage, name) for name in USE),
            usage.waited,
            usage.longest_wait,
            *usage.demand,
            sequence,
        )

    def show_figures(
        self,
        counts: t.Iterable[int],
        leaks: dict[tuple[str, str], int],
        recycle_seconds: float | None,
        recycle_source: str,
        server_limit: float | None,
        learned_limit: float | None,
        held_warning: float | None,
    ) -> None:
        """Write the block; the caller sees to it that calls do not overlap."""
        facts, intern = self._facts, self._file.intern
        self._show_names(facts.bind, facts.url, recycle_source)
        # Kept apart: a collection may write the block again in the middle of this.
        self._sequence = sequence = self._sequence + 1
        named: list[int] = []
        for (endpoint, site), count in leaks.items():
            named += (intern(endpoint), intern(site), count)
        self._view[self._block] = BLOCK.pack(
            sequence,
            intern(facts.pool_class),
            UNKNOWN if facts.size is None else facts.size,
            UNKNOWN if facts.max_overflow is None else facts.max_overflow,
            math.nan if recycle_seconds is None else recycle_seconds,
            math.nan if server_limit is None else server_limit,
            math.nan if learned_limit is None else learned_limit,
            math.nan if facts.pool_timeout is None else facts.pool_timeout,
            math.nan if held_warning is None else held_warning,
            facts.counted,
            facts.age_based,
            *counts,
            _monotonic(),
            *named,
            *(0,) * (3 * LEAKS - len(named)),
            sequence,
        )

    def _show_names(self, *names: str) -> None:
        if names != self._shown_names:
            self._shown_names = names
            self._names_sequence = sequence = self._names_sequence + 1
            fields: list[int | bytes] = []
            for name in names:
                data = name.encode("utf-8", "replace")[:MAX_STRING]
                fields += (len(data), data)
            self._view[self._names] = NAMES.pack(sequence, *fields, sequence)
