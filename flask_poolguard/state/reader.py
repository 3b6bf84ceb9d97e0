"""Reads the state files of this user's live workers; trusts none of them.

A file may be half written, truncated, or garbage, and the folder may hold anything.
Files are read, never mapped: a mapped file that shrinks kills the reader (SIGBUS).
"""

from __future__ import annotations

import os
import stat
import time
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from . import locked_file, process
from .decode import decode
from .directory import SUFFIX, StateDirError, candidates, trust, user_id
from .file_format import MAX_FILE_SIZE, OtherVersion
from .plain import Damaged
from .search import LeftOut, Problem, Search, TakenFolder
from .status import Worker

# A writer needs a microsecond; who is caught half way so often is not writing.
_ATTEMPTS: t.Final = 20
_PAUSE_SECONDS: t.Final = 0.0005


class _Skip(Exception):
    """A file to be passed over: of a dead process, or of another app.

    :ivar left_out: the live worker whose it is.
    """

    def __init__(self, left_out: LeftOut | None = None) -> None:
        self.left_out = left_out


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which apps' files to read; None is any."""

    app: str | None
    root_path: str | None

    def why_not(self, app: str, root_path: str) -> t.Literal["app", "path"] | None:
        """Return what keeps an app from being meant, None if it is."""
        if self.app not in (None, app):
            return "app"
        if self.root_path is None or process.is_same_path(self.root_path, root_path):
            return None
        return "path"


def read_workers(
    configured: str | None, app: str | None = None, root_path: str | None = None
) -> Search:
    """Read the files of this user's live workers, by pid.

    :param configured: ``POOLGUARD_STATE_DIR``.
    :param app: only this app's, by its name, as its workers wrote it.
    :param root_path: only those of an app with this root path, likewise.
    """
    wanted = _Wanted(app, root_path)
    folders = candidates(configured)
    workers: list[Worker] = []
    problems: list[Problem] = []
    left_out: list[LeftOut] = []
    refused: dict[str, StateDirError] = {}
    if not locked_file.has_locks():
        reason = "this platform has no file locks, so workers keep no state files"
        return Search(tuple(folders), (), (Problem("folder", folders[0], reason),))
    for folder in folders:
        try:
            names = _list(folder)
        except StateDirError as error:
            refused[folder] = error
            continue
        for name in names:
            path = os.path.join(folder, name)
            try:
                worker, reasons = _read(path, wanted)
            except _Skip as skipped:
                if skipped.left_out is not None:
                    left_out.append(skipped.left_out)
                continue
            except OtherVersion as error:
                about = error.about and error.about[1]
                problems.append(
                    Problem("layout", path, str(error), _pid_in(name), about)
                )
                continue
            except Damaged as error:
                problems.append(Problem("file", path, str(error), _pid_in(name)))
                continue
            workers.append(worker)
            problems += [
                Problem("file", path, reason, worker.pid) for reason in reasons
            ]
    workers.sort(key=lambda worker: (worker.host, worker.pid))
    taken = () if configured is not None else _find_taken(refused, folders)
    hiding = set(refused).difference(each.path for each in taken)
    problems += [Problem("folder", each, str(refused[each])) for each in sorted(hiding)]
    return Search(
        tuple(folders), tuple(workers), tuple(problems), taken, tuple(left_out)
    )


def _find_taken(
    refused: Mapping[str, StateDirError], folders: Sequence[str]
) -> tuple[TakenFolder, ...]:
    """Return the folders that other users have made; none if that is all of them, as
    workers then have nowhere to keep a file.
    """
    taken = tuple(
        TakenFolder(folder, error.owner)
        for folder, error in refused.items()
        if error.owner is not None and error.owner != user_id()
    )
    return () if len(taken) == len(folders) else taken


def read_own(path: str) -> Worker | None:
    """Read this process's own file, None if that cannot be done just now.

    A pool that is caught half way through a write is left out. Before a child that ran
    no fork hooks has a file of its own, the path is its parent's, which is not read.
    """
    try:
        fd = _open(path)
    except (_Skip, Damaged):
        return None
    try:
        found, _ = decode(_content(fd), path)
    except (OSError, Damaged, OtherVersion):
        return None
    finally:
        os.close(fd)
    return found if found.pid == os.getpid() else None


def _list(folder: str) -> list[str]:
    """Return the names of the state files in a folder, none if it is not there.

    :raises StateDirError: the folder cannot be trusted, or not be read.
    """
    try:
        trust(folder)
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except StateDirError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    except OSError as error:
        raise StateDirError(f"{folder}: {error.strerror}") from error
    return sorted(
        name for name in names if name.endswith(SUFFIX) and not name.startswith(".")
    )


def _read(path: str, wanted: _Wanted) -> tuple[Worker, list[str]]:
    """Read one file; return what is wrong with single pools beside it.

    :raises _Skip: not a live worker's, or not one that is wanted.
    :raises Damaged: a live worker's, but unusable.
    :raises OtherVersion: a live worker's of another version.
    """
    fd = _open(path)
    try:
        if not locked_file.is_locked(fd):
            raise _Skip
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            try:
                worker, reasons = decode(_content(fd), path)
            except Damaged:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            except OtherVersion as error:
                reason = wanted.why_not(*error.about) if error.about else None
                if error.about and reason is not None:
                    pid = _pid_in(os.path.basename(path))
                    raise _Skip(LeftOut(pid, *error.about, reason, ())) from error
                raise
            which = worker.process
            if not which.is_alive():
                raise _Skip
            reason = wanted.why_not(which.app, which.root_path)
            if reason is not None:
                raise _Skip(LeftOut.of(worker, reason))
            if not reasons:
                break
        stopped = process.is_stopped(which.pid, which.pid_namespace)
        return replace(worker, stopped=stopped), reasons
    except OSError as error:
        raise Damaged(str(error.strerror)) from error
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """Open a file that another process of this user wrote, and nothing else.

    ``O_NONBLOCK`` keeps a FIFO from blocking, ``O_NOFOLLOW`` refuses a symbolic link.

    :raises _Skip: it is gone, or not a plain file.
    :raises Damaged: it cannot be read, or is another user's.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        # Looked at first: merely opening a device may do something.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise _Skip
        fd = os.open(path, flags)
    except FileNotFoundError as error:
        raise _Skip from error
    except OSError as error:
        raise Damaged(f"it cannot be opened: {error.strerror}") from error
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == user_id():
        return fd
    os.close(fd)
    if not stat.S_ISREG(found.st_mode):
        raise _Skip
    raise Damaged(f"it belongs to user {found.st_uid}, not to {user_id()}")


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > MAX_FILE_SIZE:
        raise Damaged(f"it has {size} bytes, more than any state file")
    parts, offset = [], 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _pid_in(name: str) -> int | None:
    """Return the pid with which the file's name begins."""
    pid = name.partition("-")[0]
    return int(pid) if pid.isdecimal() and len(pid) < 12 else None
