"""One pool's part of the state file: a block of figures and a slot per connection."""

from __future__ import annotations

import math
import time
import typing as t
from collections import deque
from dataclasses import dataclass

from sqlalchemy.pool import ConnectionPoolEntry

from .layout import BLOCK, FREE, IDLE, LEAKS, MAX_SLOTS, OUT, SLOT, UNKNOWN
from .statefile import NoStateFile

if t.TYPE_CHECKING:
    from .ledger import Holding

_monotonic = time.monotonic

# For pools without an upper bound; what goes beyond is counted, but not listed.
_UNBOUNDED_SLOTS: t.Final = 256


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What does not change while a pool lives; None is unknown.

    :ivar url: without the password.
    :ivar counted: whether checkouts can be told apart (not with a StaticPool).
    """

    bind: str
    url: str
    pool_class: str
    size: int | None
    max_overflow: int | None
    counted: bool = True
    age_based: bool = False
    is_async: bool = False

    def slots(self) -> int:
        """Return how many connections at a time are worth a slot."""
        if self.size is None or self.max_overflow is None or self.max_overflow < 0:
            return _UNBOUNDED_SLOTS
        return min(max(self.size + self.max_overflow, 1), MAX_SLOTS)


class PoolPage:
    """Writes one pool's region.

    A slot needs no lock: only the thread that has its record writes it, and finding
    a free one is a single operation on a deque.
    """

    def __init__(self, file: NoStateFile, facts: PoolFacts) -> None:
        self._file = file
        self._facts = facts
        slots = facts.slots()
        self._region = file.add_region(slots)
        self._free = deque(range(slots))
        self._slots: dict[ConnectionPoolEntry, int] = {}
        self._checkouts = [0] * slots
        self._sites: dict[tuple[str, int], int] = {}
        self._sequence = 0

    def has_slot(self, record: ConnectionPoolEntry) -> bool:
        """Tell whether this record's connection is listed."""
        return record in self._slots

    def show_connecting(self, record: ConnectionPoolEntry) -> None:
        """Give the record a slot, if there is one left, on its way to its holder."""
        if record not in self._slots:
            try:
                self._slots[record] = self._free.popleft()
            except IndexError:
                return
        self._write(record, OUT, -1)

    def show_out(
        self, record: ConnectionPoolEntry, holding: Holding, server_id: int, name: bytes
    ) -> None:
        """Show who has the record's connection."""
        slot = self._slots.get(record)
        if slot is None:
            return
        place = (holding.filename, holding.line)
        site = self._sites.get(place)
        if site is None:
            site = self._sites[place] = self._file.intern(holding.site())
        self._checkouts[slot] = checkouts = self._checkouts[slot] + 1
        sequence = checkouts * 4 + OUT
        self._file.write(
            self._region and self._region + BLOCK.size + slot * SLOT.size,
            SLOT.pack(
                sequence,
                OUT,
                checkouts,
                holding.taken_at,
                server_id,
                self._file.intern(holding.endpoint),
                site,
                name,
                sequence,
            ),
        )

    def show_idle(self, record: ConnectionPoolEntry, server_id: int) -> None:
        """Show that the record's connection is in the pool."""
        self._write(record, IDLE, server_id)

    def release(self, record: ConnectionPoolEntry) -> None:
        """Free the slot of a record that has no connection any more."""
        if record in self._slots:
            self._write(record, FREE, -1)
            self._free.append(self._slots.pop(record))

    def _write(self, record: ConnectionPoolEntry, state: int, server_id: int) -> None:
        slot = self._slots.get(record)
        if slot is not None:
            checkouts = self._checkouts[slot]
            sequence = checkouts * 4 + state
            self._file.write(
                self._region and self._region + BLOCK.size + slot * SLOT.size,
                SLOT.pack(
                    sequence,
                    state,
                    checkouts,
                    _monotonic(),
                    server_id,
                    0,
                    0,
                    b"",
                    sequence,
                ),
            )

    def show_figures(
        self,
        counts: t.Iterable[int],
        leaks: dict[tuple[str, str], int],
        waiting_since: float,
        recycle_seconds: float | None,
        recycle_source: str,
        server_limit: float | None,
    ) -> None:
        """Write the block; the caller sees to it that calls do not overlap."""
        facts, intern = self._facts, self._file.intern
        self._sequence += 1
        named: list[int] = []
        for (endpoint, site), count in leaks.items():
            named += (intern(endpoint), intern(site), count)
        self._file.write(
            self._region,
            BLOCK.pack(
                self._sequence,
                intern(facts.bind),
                intern(facts.url),
                intern(facts.pool_class),
                intern(recycle_source),
                UNKNOWN if facts.size is None else facts.size,
                UNKNOWN if facts.max_overflow is None else facts.max_overflow,
                math.nan if recycle_seconds is None else recycle_seconds,
                math.nan if server_limit is None else server_limit,
                facts.counted,
                facts.age_based,
                *counts,
                waiting_since,
                _monotonic(),
                *named,
                *(0,) * (3 * LEAKS - len(named)),
                self._sequence,
            ),
        )
