"""The file that the processes of a host share a budget through.

What counts in it are locks, not bytes: whoever has locked byte ``PLACES + n`` has place
*n*, and the kernel frees that when the process ends, however it ends. They are POSIX
record locks: a forked child has none of its parent's, and the kernel tells who has one.
The process must keep its one descriptor of the file, because closing any frees all.

Besides, each process that takes part has a row, which it has locked: what it wishes for
and what it could give. That is for fairness only, so a torn or old row does no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import threading
import typing as t
from collections import Counter
from collections.abc import Iterable, Iterator

from ..state.directory import StateDirError, candidates, trust, usable, user_id
from ..state.locked_file import has_locks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment] # a module elsewhere

# How many processes have a row; more can take places, but get none out of turn.
ROWS: t.Final = 256
# Far behind the rows; a lock needs no byte that exists.
PLACES: t.Final = 1 << 20

_MAGIC: t.Final = b"poolguard budget 1\n".ljust(64, b"\0")
# In a table of their own, so that one look tells that no process wishes for a place.
_ASKED: t.Final = struct.Struct("=d")
_NO_WISHES: t.Final = bytes(ROWS * _ASKED.size)
_ROW: t.Final = struct.Struct("=d?II47s")
_ROWS_AT: t.Final = len(_MAGIC) + len(_NO_WISHES)
_SIZE: t.Final = _ROWS_AT + ROWS * _ROW.size
# As C's struct flock on Linux and macOS lays it out is found by trying.
_LINUX_FLOCK: t.Final = struct.Struct("hhqqi4x")
_DARWIN_FLOCK: t.Final = struct.Struct("qqihh")


class BudgetError(Exception):
    """A budget cannot be kept; the message says why."""


class Row(t.NamedTuple):
    """What one process says of itself; times in monotonic seconds, the same for all.

    :ivar asked_at: since when it has wished for a place; 0 if it does not.
    :ivar seen_at: when it wrote this; one that is stopped does not.
    :ivar is_first: it has no place at all.
    :ivar used: its open connections.
    :ivar idle: those of them that nobody uses.
    :ivar app: its app's name.
    """

    asked_at: float
    seen_at: float
    is_first: bool
    used: int
    idle: int
    app: str


# By device and inode. Two ways to one file would share its locks, so there is one. No
# file is ever closed again, which would free what is locked in it.
_open_files: dict[tuple[int, int], BudgetFile] = {}


class BudgetFile:
    """One process's way to the file.

    A child that is forked may go on with it, and has none of its parent's places.
    ``_lock`` protects which bytes this process has locked; it is re-entrant, because a
    garbage collection inside may give a connection back.

    :ivar path: where it is.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._own: set[int] = set()
        self._pid = os.getpid()

    @classmethod
    def open(cls, state_dir: str | None, name: str) -> BudgetFile:
        """Open the file in the first folder that is usable, made if need be.

        :param state_dir: ``POOLGUARD_STATE_DIR``.
        :param name: the file's.
        :raises BudgetError: there is no such folder, or the file is not to be trusted.
        """
        if not has_locks():
            raise BudgetError("this platform has no record locks")
        reasons: list[str] = []
        try:
            for folder in usable(state_dir, reasons):
                path = os.path.join(folder, name)
                return cls._at(path, os.O_RDWR | os.O_CREAT)
        except (OSError, StateDirError) as error:
            raise BudgetError(str(error)) from error
        raise BudgetError("; ".join(reasons))

    @classmethod
    def find(cls, state_dir: str | None, name: str) -> BudgetFile | None:
        """Return the file if a process of this user has made it, to look into it.

        :param state_dir: ``POOLGUARD_STATE_DIR``.
        """
        for folder in candidates(state_dir) if has_locks() else ():
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError, StateDirError, BudgetError):
                trust(folder)
                return cls._at(path, os.O_RDWR)
        return None

    @classmethod
    def _at(cls, path: str, flags: int) -> BudgetFile:
        fd = _open(path, flags)
        found = os.fstat(fd)
        key = found.st_dev, found.st_ino
        known = _open_files.setdefault(key, cls(fd, path))
        if known._pid != os.getpid():  # a forked child's: the parent's locks stay
            known._begin()
        return known

    def is_there(self) -> bool:
        """Tell whether others that open the path find this very file."""
        try:
            found, own = os.lstat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    # Places ------------------------------------------------------------------------

    def take(self, place: int) -> bool:
        """Take a place unless another process has it.

        :raises OSError: the kernel has no more locks.
        """
        return self._take(PLACES + place)

    def free(self, place: int) -> None:
        """Let others have a place of this process."""
        with self._lock:
            self._own.discard(PLACES + place)
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, PLACES + place)

    def holders(self, most: int) -> Counter[int]:
        """Return how many of the first places each process has, by its pid."""
        found = Counter(pid for pid, _ in self._locks(PLACES, most))
        own = sum(PLACES <= each < PLACES + most for each in list(self._own))
        if own and self._pid == os.getpid():
            found[self._pid] = own
        return found

    # Rows --------------------------------------------------------------------------

    def join(self) -> int | None:
        """Take a row; None if there is none left."""
        for number in range(ROWS):
            if self._take(number):
                self.write(number, Row(0.0, 0.0, False, 0, 0, ""))
                return number
        return None

    def write(self, number: int, row: Row) -> None:
        """Write this process's own row.

        :raises OSError: the disk is full.
        """
        app = row.app.encode()[:47].decode(errors="ignore").encode()
        packed = _ROW.pack(*row[1:-1], app)
        os.pwrite(self._fd, packed, _ROWS_AT + number * _ROW.size)
        asked = _ASKED.pack(row.asked_at)
        os.pwrite(self._fd, asked, len(_MAGIC) + number * _ASKED.size)

    def is_wished_for(self) -> bool:
        """Tell whether a process, perhaps this one, wishes for a place, or did when it
        ended.
        """
        return os.pread(self._fd, len(_NO_WISHES), len(_MAGIC)) != _NO_WISHES

    def rows(self) -> dict[int, Row]:
        """Return the rows of all processes, by pid."""
        data = os.pread(self._fd, _SIZE, 0)
        found = {}
        own = [(self._pid, each) for each in list(self._own) if each < ROWS]
        if self._pid != os.getpid():
            own = []
        for pid, number in [*self._locks(0, ROWS), *own]:
            try:
                (asked,) = _ASKED.unpack_from(data, len(_MAGIC) + number * _ASKED.size)
                row = _ROW.unpack_from(data, _ROWS_AT + number * _ROW.size)
            except struct.error:  # it was cut off
                continue
            seen_at, is_first, used, idle, app = row
            name = app.rstrip(b"\0").decode(errors="replace")
            found[pid] = Row(asked, seen_at, is_first, used, idle, name)
        return found

    # Locks -------------------------------------------------------------------------

    def _take(self, start: int) -> bool:
        if self._pid != os.getpid():  # in a forked child
            self._begin()
        with self._lock:
            if start in self._own:
                return False
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
            except (BlockingIOError, PermissionError):  # POSIX allows either
                return False
            self._own.add(start)
            return True

    def _locks(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """Give each byte of a range that another process has locked, with its pid."""
        # The kernel names any lock in a range, and not the first: what is before and
        # behind it is asked for as well.
        ranges = [(start, start + count)]
        while ranges:
            begin, end = ranges.pop()
            found = _lock_within(self._fd, begin, end - begin)
            if found is None:
                continue
            offset, length, pid = found
            first = max(offset, begin)
            last = end if length == 0 else min(offset + length, end)
            for each in range(first, last):
                yield pid, each - start
            ranges += [
                each for each in ((begin, first), (last, end)) if each[0] < each[1]
            ]


def _lock_within(fd: int, start: int, length: int) -> tuple[int, int, int] | None:
    """Return start, length and owner of a lock of another process's in a range."""
    if os.uname().sysname == "Darwin":
        asked = _DARWIN_FLOCK.pack(start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
        answer = _DARWIN_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        begins, size, pid, kind, _ = answer
    else:
        asked = _LINUX_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        answer = _LINUX_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        kind, _, begins, size, pid = answer
    return None if kind == fcntl.F_UNLCK else (begins, size, pid)


def file_name(parts: Iterable[t.Any]) -> str:
    """Return the name of the file of the budget that these parts tell from others."""
    text = "\0".join(map(str, parts))
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.budget"


def _open(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    # Not closed where it is refused: it may be open here already, and locked.
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != user_id():
        raise BudgetError(f"{path} is not a file of this user's")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BudgetError(f"{path} is open to others; chmod 0600 it")
    if found.st_size < _SIZE:
        # Zeros are rows that say nothing. Two that do this at a time write the same.
        os.ftruncate(fd, _SIZE)
        os.pwrite(fd, _MAGIC, 0)
    elif os.pread(fd, len(_MAGIC), 0) != _MAGIC:
        raise BudgetError(f"{path} is not a budget of this release; remove it")
    return fd
