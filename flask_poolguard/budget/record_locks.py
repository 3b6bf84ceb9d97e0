"""POSIX record locks: which bytes of a file other processes have locked."""

from __future__ import annotations

import os
import struct
import sys
import typing as t
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment] # a module elsewhere

# C's struct flock.
_LINUX_FLOCK: t.Final = struct.Struct("hhqqi4x")
_DARWIN_FLOCK: t.Final = struct.Struct("qqihh")


def locked_by_others(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give each byte of a range that another process has locked, after its pid.

    The kernel names any lock in a range, and not the first: what is before and behind
    it is asked for as well.
    """
    ranges = [(start, end)]
    while ranges:
        begin, end = ranges.pop()
        found = _lock_within(fd, begin, end - begin) if begin < end else None
        if found is None:
            continue
        offset, length, pid = found
        first = max(offset, begin)
        last = end if length == 0 else min(offset + length, end)
        for each in range(first, last):
            yield pid, each
        ranges += [(begin, first), (last, end)]


def _lock_within(fd: int, start: int, length: int) -> tuple[int, int, int] | None:
    """Return start, length and owner of a lock of another process's in a range."""
    if sys.platform == "darwin":
        asked = _DARWIN_FLOCK.pack(start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
        answer = _DARWIN_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        begins, size, pid, kind, _ = answer
    else:
        asked = _LINUX_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        answer = _LINUX_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        kind, _, begins, size, pid = answer
    return None if kind == fcntl.F_UNLCK else (begins, size, pid)
