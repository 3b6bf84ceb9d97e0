"""Writes to a state file: through mapped memory where that is safe.

A write to a mapped page takes a tenth of a ``pwrite`` and does not let go of Python's
lock, which in a crowded process means waiting for it again, with a connection in hand.
But a mapped page that is not there any more kills the process with SIGBUS. So a file is
mapped only on a tmpfs, where the space that was reserved for it stays its own. What is
left is that a user cuts it off: the file is read-only to all, so that takes the
same user's or root's will, either of whom can kill the process anyway.
"""

from __future__ import annotations

import mmap
import os
import typing as t
from collections.abc import Callable


class View(t.Protocol):
    """What bytes are written to, in one step, at their place in the file."""

    def __setitem__(self, place: slice, data: bytes, /) -> None: ...


class Nowhere:
    """The null object."""

    def __setitem__(self, place: slice, data: bytes, /) -> None:
        """Do nothing."""


class Written:
    """A file on a disk, or of an unknown kind.

    :param write: writes bytes at an offset.
    """

    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self._write = write

    def __setitem__(self, place: slice, data: bytes, /) -> None:
        """Write the bytes."""
        self._write(place.start, data)


class Map(mmap.mmap):
    """The file's own memory, shared with its readers."""


NOWHERE: t.Final = Nowhere()


def map_file(fd: int, size: int) -> Map | None:
    """Map a file whose space is reserved; None where that is not safe."""
    try:
        return Map(fd, size) if _is_in_memory(fd) else None
    except (OSError, ValueError):
        return None


def _is_in_memory(fd: int) -> bool:
    """Tell whether a file lies on a tmpfs, by proc_pid_mountinfo(5)."""
    if not hasattr(os, "posix_fallocate"):  # then its space may not be reserved
        return False
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            if before.split()[2] == number:
                return after.split()[0] == "tmpfs"
    return False
