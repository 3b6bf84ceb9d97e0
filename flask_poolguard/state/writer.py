"""A worker's own state file.

What changes with every checkout is written through a :class:`.memory_map.View`, the
rest with ``pwrite``.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass

from ..log_lines import warn
from . import memory_map
from .directory import StateDirError
from .ended_workers import retire, sweep
from .file_format import (
    FREE_SLOT,
    HIDDEN_OFFSET,
    MAX_FILE_SIZE,
    REGION,
    REGIONS_OFFSET,
    SERVED,
    SERVED_OFFSET,
    SIZE_OFFSET,
    SLOTS_OFFSET,
    STARTED,
    pack_head,
    pack_size,
    region_size,
)
from .locked_file import create_in_first, has_locks, reserve, unlink
from .process import Process


@dataclass(frozen=True, slots=True)
class _Region:
    """A pool's part of the file."""

    offset: int
    slots: int
    memory: memory_map.Map | None


class NoStateFile:
    """The null object: nothing is shown to other processes."""

    path: str = ""

    def add_region(self, slots: int) -> tuple[int, memory_map.View]:
        """Return a place that nothing is written to."""
        return 0, memory_map.NOWHERE

    def show_region(self, offset: int) -> None:
        """Do nothing."""

    def hide_region(self, offset: int) -> None:
        """Do nothing."""

    def free_region(self, offset: int) -> None:
        """Do nothing."""

    def show_served(self) -> None:
        """Do nothing."""

    def show_started(self) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""

    def remove(self, patience: float = 0.0) -> None:
        """Do nothing."""


class StateFile(NoStateFile):
    """One worker's file, locked as long as the worker lives.

    ``_lock`` protects the regions, which grow in number. It is held during their
    first writes, which go to memory. It is re-entrant because a garbage collection
    inside may return a connection.

    :raises StateDirError: no usable folder, or no room in it.
    """

    def __init__(self, folder: str | None, process: Process) -> None:
        if not has_locks():
            raise StateDirError("this platform has no file locks")
        try:
            head = pack_head(process)
        except ValueError as error:
            raise StateDirError(str(error)) from error
        self._lock = threading.RLock()
        self._pid = os.getpid()
        # By offset. What is free is changed by single operations of a dict only.
        self._regions: dict[int, _Region] = {}
        self._free: dict[int, _Region] = {}
        self._size = REGIONS_OFFSET
        self._fd, self.path = create_in_first(folder, head, sweep)
        self._is_open = True
        self._is_full = False
        self._maps: list[memory_map.Map] = []
        # For an app that is collected before its process ends. The descriptor is
        # closed nowhere else in its own process: a thread may be about to write, and
        # the number might by then be another file's.
        self._finalizer = weakref.finalize(
            self, _finish, self._fd, self.path, os.getpid()
        )
        self._finalizer.atexit = False

    def add_region(self, slots: int) -> tuple[int, memory_map.View]:
        """Make room for one more pool, hidden until :meth:`show_region` is called.

        :returns: the offset of its region, and what to write it through; where there
            is no room, what is written is lost.
        """
        with self._lock:
            if not self._is_open:
                return 0, memory_map.NOWHERE
            region = self._reuse(slots)
            if region is None and self._has_room(slots):
                region = self._append(slots)
            if region is None:
                return 0, memory_map.NOWHERE
            # Not kept with the region: a ring of references would let the file wait
            # for the garbage collector.
            view = region.memory or memory_map.Written(self._write)
            return region.offset, view

    def _reuse(self, slots: int) -> _Region | None:
        """Return the smallest free region with so many slots, blank and hidden."""
        fit = [each for each in list(self._free.values()) if each.slots >= slots]
        if not fit:
            return None
        region = min(fit, key=lambda each: each.slots)
        del self._free[region.offset]
        # Not a byte of the earlier pool is to show, nor its slots to count.
        self._write(region.offset, _blank(region.slots))
        return region

    def _has_room(self, slots: int) -> bool:
        """Tell whether the file can grow by a region; the first time that it cannot is
        logged.
        """
        has_room = self._size + region_size(slots) <= MAX_FILE_SIZE
        if not has_room and not self._is_full:
            self._is_full = True
            warn(
                "pool_not_shown",
                "Other processes see the first %d pools of this app only.",
                len(self._regions),
            )
        return has_room

    def _append(self, slots: int) -> _Region | None:
        """Let the file grow by a hidden region; None if it cannot be written to."""
        offset = self._size
        try:
            reserve(self._fd, offset, region_size(slots))
        except OSError as error:
            self._give_up(error)
            return None
        self._size += region_size(slots)
        self._write(offset, _blank(slots))
        self._write(SIZE_OFFSET, pack_size(self._size))
        found = memory_map.map_file(self._fd, self._size)
        if found is not None:
            self._maps.append(found)
        region = self._regions[offset] = _Region(offset, slots, found)
        return region

    def show_region(self, offset: int) -> None:
        """Let readers see a region, all of which is written."""
        self._mark(offset, b"\0")

    def hide_region(self, offset: int) -> None:
        """Let readers see a region no more; its pool may still write to it."""
        self._mark(offset, b"\1")

    def free_region(self, offset: int) -> None:
        """Hide a region that is not written to any more, and let another pool have it.

        Takes no lock: a garbage collection calls it, which may happen anywhere.
        """
        self._mark(offset, b"\1")
        region = self._regions.get(offset)
        if region is not None:
            self._free[offset] = region

    def _mark(self, offset: int, hidden: bytes) -> None:
        region = self._regions.get(offset)
        # In a child that has not left its parent's file yet, it is the parent's.
        if region is not None and self._pid == os.getpid():
            self._write(region.offset + HIDDEN_OFFSET, hidden)

    def _write(self, offset: int, data: bytes) -> None:
        if self._is_open:
            try:
                os.pwrite(self._fd, data, offset)
            except OSError as error:
                self._give_up(error)

    def show_served(self) -> None:
        """Tell that this process answers requests."""
        self._write(SERVED_OFFSET, bytes([SERVED]))

    def show_started(self) -> None:
        """Tell that a server has started this process to answer requests."""
        self._write(SERVED_OFFSET, bytes([STARTED]))

    def abandon(self) -> None:
        """Close the parent's file in a child, which keeps the parent's lock."""
        self._is_open = False
        if self._finalizer.detach():
            os.close(self._fd)
            for each in self._maps:  # they keep the lock as well
                each.close()

    def remove(self, patience: float = 0.0) -> None:
        """Take the file away, once what it has counted is kept for metrics.

        :param patience: seconds to wait for other processes that do so; what does not
            succeed until then is left to the next that finds the file, if its worker
            ends now.
        """
        if self._is_open:
            self._is_open = False
            if not retire(self._fd, self.path, patience) and not patience:
                unlink(self.path)

    def _give_up(self, error: OSError) -> None:
        warn(
            "worker_not_shown",
            "%s cannot be written any more (%s): other processes no longer see this"
            " worker's pools. The app goes on.",
            self.path,
            error.strerror,
        )
        self.remove()


def _finish(fd: int, path: str, pid: int) -> None:
    """Let go of a file; the process that made it takes it away as well, if it can at
    once. A file that is let go of is one of a worker that has ended.
    """
    if os.getpid() == pid:
        retire(fd, path, 0.0)
    os.close(fd)


def _blank(slots: int) -> bytes:
    """Return the bytes of a hidden region."""
    return REGION.pack(slots, True).ljust(SLOTS_OFFSET, b"\0") + FREE_SLOT * slots
