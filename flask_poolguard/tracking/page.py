"""One pool's part of the state file: a block of figures and a slot per connection."""

from __future__ import annotations

import math
import time
import typing as t
from collections import deque
from dataclasses import dataclass

from sqlalchemy.pool import ConnectionPoolEntry

from .layout import (
    BLOCK,
    FREE,
    IDLE,
    LEAKS,
    MAX_SLOTS,
    OUT,
    QUEUE,
    SLOT,
    SLOTS_OFFSET,
    UNKNOWN,
    USAGE,
    USE,
)
from .statefile import NoStateFile

if t.TYPE_CHECKING:
    from .holding import Holding
    from .usage import Usage

_monotonic = time.monotonic
_pack_slot = SLOT.pack

# For pools without an upper bound; what goes beyond is counted, but not listed.
_UNBOUNDED_SLOTS: t.Final = 256


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What does not change while a pool lives; None is unknown.

    :ivar url: without the password.
    :ivar counted: whether checkouts can be told apart (not with a StaticPool).
    :ivar in_memory: the database lives within the process, so that a forked child has a
        copy and shares nothing, and is gone with its last connection.
    """

    bind: str
    url: str
    pool_class: str
    size: int | None
    max_overflow: int | None
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


class _Slot:
    """Where a connection is shown, and how often its slot was handed out."""

    __slots__ = ("checkouts", "offset", "server_id")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.checkouts = 0
        self.server_id = -1


class PoolPage:
    """Writes one pool's region.

    A slot needs no lock: only the thread that has its record writes it, and finding
    a free one is a single operation on a deque. ``show_out`` and ``show_idle`` run
    with every checkout and checkin.
    """

    def __init__(self, file: NoStateFile, facts: PoolFacts) -> None:
        self._file = file
        self._write = file.write
        self._facts = facts
        slots = facts.slots()
        self._region = region = file.add_region(slots)
        self._queue = region and region + BLOCK.size
        self._usage = region and self._queue + QUEUE.size
        first = region and region + SLOTS_OFFSET
        self._free = deque(
            _Slot(first and first + number * SLOT.size) for number in range(slots)
        )
        blank = _pack_slot(FREE, FREE, 0, 0.0, -1, 0, 0, b"", FREE)
        self._write(first, blank * slots)
        self._slots: dict[ConnectionPoolEntry, _Slot] = {}
        # Ids of strings that are looked up with every checkout.
        self._sites: dict[tuple[str, int], int] = {}
        self._endpoints: dict[str, int] = {}
        self._sequence = self._queue_sequence = self._usage_sequence = 0
        self.show_waiting(0, math.nan)

    @property
    def connections(self) -> int:
        """The number of open connections that have a slot."""
        return len(self._slots)

    def show_connected(self, record: ConnectionPoolEntry, server_id: int) -> None:
        """Give the record a slot, if there is one left, on its way to its holder."""
        slot = self._slots.get(record)
        if slot is None:
            try:
                slot = self._slots[record] = self._free.popleft()
            except IndexError:
                return
        slot.server_id = server_id
        self._show(slot, OUT)

    def show_out(
        self, record: ConnectionPoolEntry, holding: Holding, thread_name: bytes
    ) -> bool:
        """Show who has the record's connection; False if it has no slot."""
        slot = self._slots.get(record)
        if slot is None:
            return False
        place = (holding.filename, holding.line)
        endpoint = holding.endpoint
        site_id = self._sites.get(place)
        if site_id is None:
            site_id = self._sites[place] = self._file.intern(holding.site())
        endpoint_id = self._endpoints.get(endpoint)
        if endpoint_id is None:
            endpoint_id = self._endpoints[endpoint] = self._file.intern(endpoint)
        slot.checkouts = checkouts = slot.checkouts + 1
        sequence = checkouts * 4 + OUT
        self._write(
            slot.offset,
            _pack_slot(
                sequence,
                OUT,
                checkouts,
                holding.taken_at,
                slot.server_id,
                endpoint_id,
                site_id,
                thread_name,
                sequence,
            ),
        )
        return True

    def show_idle(self, record: ConnectionPoolEntry) -> bool:
        """Show that the connection is in the pool; False if it has no slot."""
        slot = self._slots.get(record)
        if slot is None:
            return False
        checkouts = slot.checkouts
        sequence = checkouts * 4 + IDLE
        now = _monotonic()
        self._write(
            slot.offset,
            _pack_slot(
                sequence, IDLE, checkouts, now, slot.server_id, 0, 0, b"", sequence
            ),
        )
        return True

    def release(self, record: ConnectionPoolEntry) -> None:
        """Free the slot, if there is one, of a record without a connection."""
        slot = self._slots.pop(record, None)
        if slot is not None:
            slot.server_id = -1
            self._show(slot, FREE)
            self._free.append(slot)

    def _show(self, slot: _Slot, state: int) -> None:
        checkouts = slot.checkouts
        sequence = checkouts * 4 + state
        self._write(
            slot.offset,
            _pack_slot(
                sequence,
                state,
                checkouts,
                _monotonic(),
                slot.server_id,
                0,
                0,
                b"",
                sequence,
            ),
        )

    def show_waiting(self, number: int, since: float) -> None:
        """Write the queue; the caller sees to it that calls do not overlap.

        :param since: of the first, in monotonic seconds; NaN for nobody.
        """
        self._queue_sequence = sequence = self._queue_sequence + 1
        self._write(self._queue, QUEUE.pack(sequence, number, since, sequence))

    def show_usage(self, usage: Usage) -> None:
        """Write what the pool was asked for; the caller sees to it that calls do not
        overlap.
        """
        self._usage_sequence = sequence = self._usage_sequence + 1
        self._write(
            self._usage,
            USAGE.pack(
                sequence,
                *(getattr(usage, name) for name in USE),
                usage.waited,
                usage.longest_wait,
                *usage.demand,
                sequence,
            ),
        )

    def show_figures(
        self,
        counts: t.Iterable[int],
        leaks: dict[tuple[str, str], int],
        recycle_seconds: float | None,
        recycle_source: str,
        server_limit: float | None,
        learned_limit: float | None,
    ) -> None:
        """Write the block; the caller sees to it that calls do not overlap."""
        facts, intern = self._facts, self._file.intern
        # Kept apart: a collection may write the block again in the middle of this.
        self._sequence = sequence = self._sequence + 1
        named: list[int] = []
        for (endpoint, site), count in leaks.items():
            named += (intern(endpoint), intern(site), count)
        self._file.write(
            self._region,
            BLOCK.pack(
                sequence,
                intern(facts.bind),
                intern(facts.url),
                intern(facts.pool_class),
                intern(recycle_source),
                UNKNOWN if facts.size is None else facts.size,
                UNKNOWN if facts.max_overflow is None else facts.max_overflow,
                math.nan if recycle_seconds is None else recycle_seconds,
                math.nan if server_limit is None else server_limit,
                math.nan if learned_limit is None else learned_limit,
                facts.counted,
                facts.age_based,
                *counts,
                _monotonic(),
                *named,
                *(0,) * (3 * LEAKS - len(named)),
                sequence,
            ),
        )
