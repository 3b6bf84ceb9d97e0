"""One pool's part of the state file: its document, and a slot per connection."""

from __future__ import annotations

import time
import typing as t
import weakref
from collections import deque
from collections.abc import Callable

from sqlalchemy.pool import ConnectionPoolEntry

from .file_format import (
    FREE,
    FREE_SLOT,
    HISTORY_OFFSET,
    IDLE,
    KEPT,
    OUT,
    REGION,
    SLOT,
    SLOTS_OFFSET,
    encode_endpoint,
    encode_site,
    pack_document,
    pack_history,
)
from .history import History
from .memory_map import NOWHERE, View
from .status import PoolStatus
from .writer import NoStateFile

_monotonic = time.monotonic
_pack_slot = SLOT.pack

# Lines and endpoints of which the bytes are known; emptied when there are more, as an
# app may compile code at run time.
_MOST_TEXTS: t.Final = 4096


def _ignore() -> None:
    """Do nothing."""


class ShownCheckout(t.Protocol):
    """A checkout, as far as it is shown.

    :ivar callsite: the line of the app that took it, one object for each line.
    :ivar taken_at: in monotonic seconds.
    """

    taken_at: float
    endpoint: str

    @property
    def callsite(self) -> t.Hashable: ...

    def site(self) -> str:
        """Return ``file:line`` of it."""


class _Slot:
    """Where a connection is shown, and how often its slot was handed out.

    :ivar record: a weak reference to the connection's record, None for a free slot.
    :ivar state: as it is shown.
    """

    __slots__ = ("checkouts", "place", "record", "server_id", "state")

    def __init__(self, offset: int) -> None:
        self.place = slice(offset, offset + SLOT.size)
        self.checkouts = 0
        self.server_id = -1
        self.state = FREE
        self.record: weakref.ref[ConnectionPoolEntry] | None = None


class PoolRegion:
    """Writes one pool's region.

    A slot needs no lock: only the thread that has its record writes it, and finding
    a free one is a single operation on a deque. ``show_out`` and ``show_idle`` run
    with every checkout and checkin.

    :param slots: how many connections at a time can be shown.
    :param lost: called when a record was collected with its connection, as those of a
        pool that was not disposed of properly (``Engine.dispose(close=False)``).
    """

    def __init__(self, file: NoStateFile, slots: int, lost: Callable[[], None]) -> None:
        self._file = file
        self._lost = lost
        self._view: View
        self._offset, self._view = file.add_region(slots)
        self._document = self._offset + REGION.size
        first = self._offset + SLOTS_OFFSET
        self._all = tuple(_Slot(first + each * SLOT.size) for each in range(slots))
        self._free = deque(self._all)
        self._view[first : first + SLOT.size * slots] = FREE_SLOT * slots
        # By the record's id: a record that was abandoned is not to live on in here.
        self._slots: dict[int, _Slot] = {}
        # What is looked up with every checkout, as bytes.
        self._sites: dict[t.Hashable, bytes] = {}
        self._endpoints: dict[str, bytes] = {}
        # Not before a thread that may be about to write has let go of this region.
        finalizer = weakref.finalize(self, file.free_region, self._offset)
        finalizer.atexit = False

    def publish(self) -> None:
        """Let other processes see the region, once all of it is written."""
        self._file.show_region(self._offset)

    def close(self) -> None:
        """Write nothing more, and let other processes see the region no more."""
        self._view = NOWHERE
        self._file.hide_region(self._offset)
        # These lead back here: without them the region is free at once, not only with
        # the next garbage collection.
        self._slots.clear()
        self._free.clear()
        self._all = ()
        self._lost = _ignore

    @property
    def connections(self) -> int:
        """The number of open connections that have a slot."""
        return len(self._slots)

    @property
    def idle(self) -> int:
        """The number of those that are in the pool."""
        return sum(each.state == IDLE for each in list(self._slots.values()))

    @property
    def checkouts(self) -> int:
        """The number of checkouts of connections that had a slot."""
        return sum(each.checkouts for each in self._all)

    def show_status(self, status: PoolStatus) -> bool:
        """Write the document; the caller sees to it that calls do not overlap.

        :returns: False if it is too long.
        """
        if self._view is NOWHERE:
            return True
        data = pack_document(status, _monotonic())
        if data is None:
            return False
        self._view[self._document : self._document + len(data)] = data
        return True

    def show_history(self, history: History) -> None:
        """Write the minutes; the caller sees to it that calls do not overlap."""
        if self._view is not NOWHERE:
            data = pack_history(history, _monotonic())
            first = self._offset + HISTORY_OFFSET
            self._view[first : first + len(data)] = data

    def number_of(self, record: ConnectionPoolEntry) -> int | None:
        """Return the number of a record's slot; None if it has none."""
        slot = self._slots.get(id(record))
        if slot is None:
            return None
        first = self._offset + SLOTS_OFFSET
        return (slot.place.start - first) // SLOT.size

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
        self._show(slot, OUT, _monotonic())

    def show_out(
        self, record: ConnectionPoolEntry, checkout: ShownCheckout, thread_name: bytes
    ) -> bool:
        """Count a checkout, and show who has the record's connection; False if it has
        no slot.
        """
        slot = self._slots.get(id(record))
        if slot is None:
            return False
        slot.checkouts += 1
        self._show_checkout(slot, OUT, checkout, thread_name)
        return True

    def show_kept(
        self, record: ConnectionPoolEntry, checkout: ShownCheckout, thread_name: bytes
    ) -> None:
        """Show that the record's connection outlives its scope on purpose."""
        slot = self._slots.get(id(record))
        if slot is not None:
            self._show_checkout(slot, KEPT, checkout, thread_name)

    def show_idle(self, record: ConnectionPoolEntry, now: float) -> bool:
        """Show that the connection is in the pool; False if it has no slot.

        :param now: in monotonic seconds.
        """
        slot = self._slots.get(id(record))
        if slot is None:
            return False
        self._show(slot, IDLE, now)
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
        self._show(slot, FREE, _monotonic())
        self._free.append(slot)
        return True

    def _show(self, slot: _Slot, state: int, now: float) -> None:
        slot.state = state
        checkouts = slot.checkouts
        sequence = checkouts * 8 + state
        self._view[slot.place] = _pack_slot(
            sequence, state, checkouts, now, slot.server_id, b"", b"", b"", sequence
        )

    def _show_checkout(
        self, slot: _Slot, state: int, checkout: ShownCheckout, thread_name: bytes
    ) -> None:
        callsite, endpoint = checkout.callsite, checkout.endpoint
        shown_site = self._sites.get(callsite)
        if shown_site is None:
            shown_site = _remember(self._sites, callsite, encode_site(checkout.site()))
        shown_endpoint = self._endpoints.get(endpoint)
        if shown_endpoint is None:
            encoded = encode_endpoint(endpoint)
            shown_endpoint = _remember(self._endpoints, endpoint, encoded)
        slot.state = state
        checkouts = slot.checkouts
        sequence = checkouts * 8 + state
        self._view[slot.place] = _pack_slot(
            sequence,
            state,
            checkouts,
            checkout.taken_at,
            slot.server_id,
            shown_endpoint,
            shown_site,
            thread_name,
            sequence,
        )


K = t.TypeVar("K", bound=t.Hashable)


def _remember(known: dict[K, bytes], name: K, data: bytes) -> bytes:
    if len(known) >= _MOST_TEXTS:
        known.clear()
    known[name] = data
    return data
