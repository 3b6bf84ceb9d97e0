"""Ends of workers: what they had counted is kept, and their files are removed.

A worker that ends removes its own file. Another's that was killed is removed by the
first process that finds it. Either adds what the file shows to the totals of its app
first, under the lock of the folder, so that each file counts once. A scrape holds that
lock as well: no worker may move from those that live to those that have ended while it
reads both.

The lock is ``flock`` on the folder itself, which leaves no file behind. Who may read a
folder could hold that lock without end; where other users may, a private file in it is
locked instead.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass

from . import totals_file
from .decode import decode
from .directory import (
    StateDirError,
    candidates,
    is_orphan,
    is_state_name,
    trust,
    user_id,
)
from .file_format import MAX_FILE_SIZE, REGIONS_OFFSET, OtherVersion, unpack_head
from .locked_file import has_locks, is_locked, try_to_lock, unlink, unlock
from .plain import Damaged
from .process import boot_id
from .totals_file import Deployment

# How long to wait for another process that adds up or reads, which takes milliseconds.
PATIENCE: t.Final = 1.0
_PAUSE: t.Final = 0.002

_OPEN: t.Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


LOCK_NAME: t.Final = ".flask-poolguard.lock"
_READ_BY_OTHERS: t.Final = stat.S_IRGRP | stat.S_IROTH


def _open_lock(folder: str) -> int:
    """Return a descriptor of what stands for a folder's lock.

    :raises OSError: there is no room for it, or no folder.
    """
    fd = os.open(folder, _OPEN | os.O_DIRECTORY)
    if not os.fstat(fd).st_mode & _READ_BY_OTHERS:
        return fd
    try:
        flags = _OPEN | os.O_RDWR | os.O_CREAT
        return os.open(LOCK_NAME, flags, 0o600, dir_fd=fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(folder: str, seconds: float) -> Iterator[bool]:
    """Hold a folder's lock, if it is to be had.

    It is tried again and again, and not waited for: in a worker with greenlets that
    would stop all of them.

    :param seconds: how long to try; 0 for once.
    """
    try:
        fd = _open_lock(folder)
    except OSError:
        yield False
        return
    has_it, until = False, time.monotonic() + seconds
    try:
        with contextlib.suppress(OSError):  # this file system has no locks
            while not (has_it := try_to_lock(fd)) and time.monotonic() < until:
                time.sleep(_PAUSE)
        yield has_it
    finally:
        if has_it:
            # Not only closed: a child that was forked meanwhile would keep the lock.
            unlock(fd)
        os.close(fd)


def sweep(folder: str) -> None:
    """Remove the files of workers that ended without doing so themselves, once what
    they had counted is kept.

    The folder may be one of the user's own: files of other names are not ours.
    """
    if not any(_dead_names(folder)):
        _remove_orphans(folder)
        return
    with _locked(folder, PATIENCE) as has_it:
        if has_it:
            _sweep(folder)


def retire(fd: int, path: str, seconds: float) -> bool:
    """Remove this process's own file, once what it has counted is kept.

    :param fd: of the file.
    :param seconds: how long to wait for the folder's lock.
    :returns: False if that was not to be had; the file is still there then.
    """
    folder, name = os.path.split(path)
    with _locked(folder, seconds) as has_it:
        if has_it:
            _fold(folder, name, fd)
        return has_it


def _sweep(folder: str) -> int:
    """Fold in all dead files; return how many are gone. Called under the lock."""
    removed = 0
    for name in list(_dead_names(folder)):
        with contextlib.suppress(OSError):
            path = os.path.join(folder, name)
            fd = os.open(path, _OPEN)
            try:
                _fold(folder, name, fd)
            finally:
                os.close(fd)
            removed += not os.path.lexists(path)
    _remove_orphans(folder, with_drafts=True)
    return removed


def _remove_orphans(folder: str, with_drafts: bool = False) -> None:
    """Remove requests to workers that are gone, and drafts if no process writes one."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if is_orphan(folder, name) or (with_drafts and totals_file.is_draft(name)):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, name))


def _dead_names(folder: str) -> Iterator[str]:
    """Yield the names of files whose workers have ended."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if not is_state_name(name):
            continue
        try:
            fd = os.open(os.path.join(folder, name), _OPEN)
        except OSError:
            continue
        try:
            found = os.fstat(fd)
            is_own_file = stat.S_ISREG(found.st_mode) and found.st_uid == user_id()
            if is_own_file and _is_dead(fd):
                yield name
        except OSError:
            continue
        finally:
            os.close(fd)


def _is_dead(fd: int) -> bool:
    """Tell whether the worker of a file has ended.

    A child that was forked without hooks can keep the lock of a worker that is gone.
    Another host's worker, in a folder that hosts share, is judged by the lock alone.
    """
    if not is_locked(fd):
        return True
    try:
        which, _ = unpack_head(os.pread(fd, REGIONS_OFFSET, 0))
    except (Damaged, OtherVersion):
        return False
    return which.boot_id == boot_id() and not which.is_alive()


def _fold(folder: str, name: str, fd: int) -> None:
    """Add what a file shows to the totals of its app, and remove it. Called under the
    folder's lock.

    Killed in between, the next process finds the file's name among what is counted.
    """
    path = os.path.join(folder, name)
    try:
        if not os.path.samestat(os.lstat(path), os.fstat(fd)):
            return
    except OSError:  # another process was first
        return
    try:
        worker, _ = decode(_content(fd), path)
    except (OSError, Damaged, OtherVersion):
        unlink(path)
        return
    if not any(pool.connects or pool.checkouts for pool in worker.pools):
        unlink(path)
        return
    known = totals_file.read(folder, worker.process.app)
    if name not in known.folded:
        ended = known.plus(worker, name)
        try:
            totals_file.write(folder, ended)
        except OSError:
            unlink(path)  # which makes room; else what it had counted is lost
            with contextlib.suppress(OSError):
                totals_file.write(folder, ended)
    unlink(path)


def _content(fd: int) -> bytes:
    size = min(os.fstat(fd).st_size, MAX_FILE_SIZE)
    return os.pread(fd, size, 0)


@dataclass(frozen=True, slots=True)
class Standstill:
    """Folders in which no worker's file is folded in by another process.

    :ivar folders: those that can be read.
    :ivar locked: those of them of which the lock was to be had.
    """

    folders: tuple[str, ...]
    locked: tuple[str, ...]

    def sweep(self) -> int:
        """Fold in the files of workers that have ended; return how many are gone."""
        return sum(map(_sweep, self.locked))

    def has_dead(self) -> bool:
        """Tell whether there are files of workers that have ended."""
        return any(name for folder in self.locked for name in _dead_names(folder))

    def ended(self, app: str) -> list[Deployment]:
        """Return what the ended workers of an app's name have counted."""
        return [
            each
            for folder in self.folders
            for each in totals_file.read(folder, app).deployments
        ]


@contextlib.contextmanager
def standstill(configured: str | None) -> Iterator[Standstill]:
    """Keep workers from moving to those that have ended, for a moment.

    Where that cannot be had within a second, as a process that has it was stopped, the
    figures may count a worker that ends just now twice, or not at all.

    :param configured: ``POOLGUARD_STATE_DIR``.
    """
    folders, locked = [], []
    until = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        if has_locks():
            for folder in candidates(configured):
                try:
                    trust(folder)
                except StateDirError:
                    continue
                folders.append(folder)
                left = max(until - time.monotonic(), 0.0)
                if stack.enter_context(_locked(folder, left)):
                    locked.append(folder)
        yield Standstill(tuple(folders), tuple(locked))
