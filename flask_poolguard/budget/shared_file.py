"""The file that the processes of a host share a budget through.

What counts in it are locks, not bytes: the process that has locked byte ``PLACES + n``
has place *n*, and the kernel frees that when the process ends, however it ends. They
are POSIX record locks: a forked child has none of its parent's, and the kernel tells
which process has one. That must keep its descriptor of the file, because closing any
frees them all.

Besides, each process that takes part has a row, which it has locked: what it wishes for
and what it could give. That is for fairness only, so a torn or old row does no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
import typing as t
from collections import Counter
from collections.abc import Iterable, Iterator

from ..state.directory import FOLDER, StateDirError, trust, usable, user_id
from ..state.locked_file import has_locks
from . import layout
from .layout import ROWS, Allowed, Row
from .record_locks import locked_by_others

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment] # a module elsewhere

# Far behind the rows; a lock needs no byte that exists.
PLACES: t.Final = 1 << 20

_Key = tuple[int, int]


class BudgetError(Exception):
    """A budget cannot be kept; the message says why."""


# By device and inode. Two ways to one file would share its locks, so there is one.
_open_files: dict[_Key, BudgetFile] = {}


class BudgetFile:
    """One process's way to the file, which it never closes.

    It needs no lock: which bytes are locked is for the kernel to know, and for the one
    :class:`.budget.Budget` that uses it.

    :ivar path: where it is.
    """

    def __init__(self, fd: int, key: _Key, path: str) -> None:
        self._fd, self._key = fd, key
        self.path = path

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
        for folder in _folders(state_dir):
            for usable_folder in usable(folder, reasons):
                path = os.path.join(usable_folder, name)
                try:
                    return cls._at(path, os.O_CREAT)
                except OSError as error:
                    raise BudgetError(f"{path}: {error.strerror}") from error
        raise BudgetError("; ".join(reasons))

    @classmethod
    def find(cls, state_dir: str | None, name: str) -> BudgetFile | None:
        """Return the file if a process of this user has made it, to look into it.

        :param state_dir: ``POOLGUARD_STATE_DIR``.
        """
        for folder in _folders(state_dir) if has_locks() else ():
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError, StateDirError, BudgetError):
                trust(folder)
                return cls._at(path, 0)
        return None

    @classmethod
    def _at(cls, path: str, flags: int) -> BudgetFile:
        with contextlib.suppress(OSError):
            known = _open_files.get(_key_of(os.lstat(path)))
            if known is not None and known._is_open():
                return known
        fd = _open(path, flags)
        key = _key_of(os.fstat(fd))
        # One whose descriptor the app closed has lost its locks.
        file = _open_files[key] = cls(fd, key, path)
        return file

    def is_there(self) -> bool:
        """Tell whether others that open the path find this very file."""
        try:
            return _key_of(os.lstat(self.path)) == self._key and self._is_open()
        except OSError:
            return False

    def _is_open(self) -> bool:
        """Tell whether the descriptor is still of this file: the app may have closed
        all, and its number may be that of another file by now.
        """
        try:
            return _key_of(os.fstat(self._fd)) == self._key
        except OSError:
            return False

    def check(self) -> None:
        """Look whether the descriptor is still of this file.

        :raises BudgetError: it was closed.
        """
        if not self._is_open():
            raise BudgetError(f"the descriptor of {self.path} was closed")

    # Places ------------------------------------------------------------------------

    def lock(self, place: int) -> bool:
        """Lock a place unless another process has; one that is locked here stays so.

        :meth:`check` first: many places may be tried after it.

        :raises OSError: the kernel has no more locks.
        """
        return self._lock(PLACES + place)

    def unlock(self, place: int) -> None:
        """Let others have a place. Does nothing if it is not this process's."""
        with contextlib.suppress(OSError):
            if self._is_open():
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, PLACES + place)

    def is_taken_from(self, place: int, end: int) -> bool:
        """Tell whether another process has a place of a range."""
        locks = self._locks(PLACES + place, max(end - place, 0))
        return next(locks, None) is not None

    def holders(self, limit: int) -> Counter[int]:
        """Return how many of the first places other processes have, by their pids; 0
        stands for processes of other containers.
        """
        return Counter(pid for pid, _ in self._locks(PLACES, limit))

    # Rows --------------------------------------------------------------------------

    def join(self) -> int | None:
        """Take a row; None if there is none left.

        :raises BudgetError: the descriptor was closed.
        """
        self.check()
        return next((each for each in range(ROWS) if self._lock(each)), None)

    def write(self, number: int, row: Row) -> None:
        """Write this process's own row.

        :raises BudgetError: the descriptor was closed.
        :raises OSError: the disk is full.
        """
        self.check()
        os.pwrite(self._fd, layout.pack_row(row), layout.row_at(number))
        os.pwrite(self._fd, layout.pack_wish(row), layout.wish_at(number))
        if row.asked_at:
            os.pwrite(self._fd, layout.pack_time(row.seen_at), layout.WISHED_AT)

    def wished_at(self) -> float:
        """Return when a process last wished for a place, in monotonic seconds; 0 for
        never, or before the machine was started.
        """
        found = layout.unpack_time(os.pread(self._fd, 8, layout.WISHED_AT))
        return found if 0 < found <= time.monotonic() else 0.0

    def is_wished_for(self) -> bool:
        """Tell whether a process, perhaps this one, wishes for a place, or did when it
        ended.
        """
        none = layout.NO_WISHES
        return os.pread(self._fd, len(none), layout.WISHES_AT) != none

    def rows(self) -> dict[int, tuple[int, Row]]:
        """Return pid and row of each other process, by the row's number."""
        data = os.pread(self._fd, layout.SIZE, 0)
        found = {}
        for pid, number in self._locks(0, ROWS):
            row = layout.unpack_row(data, number)
            if row is not None:
                found[number] = pid, row
        return found

    # What the server allows --------------------------------------------------------

    def allowed(self) -> Allowed:
        """Return what the server allows, as far as a process of this host knows."""
        data = os.pread(self._fd, layout.ALLOWED_SIZE, layout.ALLOWED_AT)
        return layout.unpack_allowed(data)

    def write_asked(self, asked_at: float) -> None:
        """Let all processes know that the server is being asked.

        :param asked_at: in seconds since 1970.
        :raises BudgetError: the descriptor was closed.
        :raises OSError: the disk is full.
        """
        self.check()
        os.pwrite(self._fd, layout.pack_time(asked_at), layout.ALLOWED_AT)

    def write_allowed(self, allowed: Allowed) -> None:
        """Let all processes know it.

        :raises BudgetError: the descriptor was closed.
        :raises OSError: the disk is full.
        """
        self.check()
        os.pwrite(self._fd, layout.pack_allowed(allowed), layout.ALLOWED_AT)

    # Locks -------------------------------------------------------------------------

    def _lock(self, start: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True

    def _locks(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """Give each byte of a range that another process has locked, with its pid."""
        for pid, number in locked_by_others(self._fd, start, start + count):
            yield pid, number - start


def file_name(parts: Iterable[t.Any]) -> str:
    """Return the name of the file of the budget that these parts tell from others."""
    # With the format: another release's file is another one.
    text = "\0".join(map(str, (layout.MAGIC, *parts)))
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.budget"


def _folders(state_dir: str | None) -> list[str]:
    """Return the folders for the file, in an order that is the same in all processes.

    State files may lie in a folder that comes and goes with a login; what all
    processes have to share may not.
    """
    if state_dir is not None:
        return [state_dir]
    name = f"{FOLDER}-{user_id()}"
    shared = "/dev/shm"  # noqa: S108 (a per-user folder, checked by trust)
    first = [os.path.join(shared, name)] if os.path.isdir(shared) else []
    with contextlib.suppress(FileNotFoundError):  # none of them is writable
        first.append(os.path.join(tempfile.gettempdir(), name))
    return first


def _key_of(found: os.stat_result) -> _Key:
    return found.st_dev, found.st_ino


def _open(path: str, flags: int) -> int:
    flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    try:
        _make_fit(fd, path)
    except BaseException:
        if _key_of(os.fstat(fd)) not in _open_files:  # else this frees its locks
            os.close(fd)
        raise
    return fd


def _make_fit(fd: int, path: str) -> None:
    """Refuse a file that is not one of these, and fill one that is new."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != user_id():
        raise BudgetError(f"{path} is not a file of this user's")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BudgetError(f"{path} is open to others; chmod 0600 it")
    if found.st_size < layout.SIZE:
        # Zeros are rows that say nothing. Several may do this at a time: they write the
        # same, and none sees the whole size before the head is there.
        os.pwrite(fd, layout.MAGIC, 0)
        os.ftruncate(fd, layout.SIZE)
    elif os.pread(fd, len(layout.MAGIC), 0) != layout.MAGIC:
        raise BudgetError(f"{path} is not a budget of this release; remove it")
