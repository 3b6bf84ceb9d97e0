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
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from . import process, writer
from .directory import StateDirError, candidates, trust, user_id
from .file_format import (
    FREE,
    IDLE,
    KEPT,
    MAX_FILE_SIZE,
    MAX_SLOTS,
    REGION,
    REGIONS_OFFSET,
    SLOTS_OFFSET,
    OtherVersion,
    Slot,
    region_size,
    unpack_document,
    unpack_head,
    unpack_size,
    unpack_slots,
)
from .plain import Damaged
from .status import Holder, IdleConnection, PoolStatus, Worker

# A writer needs a microsecond; who is caught half way so often is not writing.
_ATTEMPTS: t.Final = 20
_PAUSE_SECONDS: t.Final = 0.0005


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a part of the picture hidden.

    :ivar kind: ``"folder"``, ``"file"`` or ``"layout"`` (another version's file).
    :ivar pid: of the worker, as far as the file's name tells.
    """

    kind: t.Literal["folder", "file", "layout"]
    path: str
    reason: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A default folder's name that another user has taken. It hides nothing: this
    user's workers refuse it as well, and keep their files in another.
    """

    path: str
    owner: int


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, and where it was looked for."""

    folders: tuple[str, ...]
    workers: tuple[Worker, ...]
    problems: tuple[Problem, ...]
    taken: tuple[Taken, ...] = ()


class _Skip(Exception):
    """A file to be passed over: of a dead process, or of another app."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which apps' files to read; None is any."""

    app: str | None
    root_path: str | None

    def matches(self, app: str, root_path: str) -> bool:
        """Compare names and root paths.

        Where releases are switched by a symbolic link, gunicorn imports the app
        through the link and the ``flask`` command through what it points to.
        """
        if self.app not in (None, app):
            return False
        return self.root_path in (None, root_path) or (
            os.path.realpath(self.root_path or "") == os.path.realpath(root_path)
        )


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
    refused: dict[str, StateDirError] = {}
    if getattr(writer, "fcntl", None) is None:
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
            except _Skip:
                continue
            except (OtherVersion, Damaged) as error:
                kind: t.Literal["layout", "file"]
                kind = "layout" if isinstance(error, OtherVersion) else "file"
                problems.append(Problem(kind, path, str(error), _pid_in(name)))
                continue
            workers.append(worker)
            problems += [
                Problem("file", path, reason, worker.pid) for reason in reasons
            ]
    workers.sort(key=lambda worker: (worker.host, worker.pid))
    taken = () if configured is not None else _find_taken(refused, folders)
    hiding = set(refused).difference(each.path for each in taken)
    problems += [Problem("folder", each, str(refused[each])) for each in sorted(hiding)]
    return Search(tuple(folders), tuple(workers), tuple(problems), taken)


def _find_taken(
    refused: Mapping[str, StateDirError], folders: Sequence[str]
) -> tuple[Taken, ...]:
    """Return the folders that other users have made; none if that is all of them, as
    workers then have nowhere to keep a file.
    """
    taken = tuple(
        Taken(folder, error.owner)
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
        name
        for name in names
        if name.endswith(writer.SUFFIX) and not name.startswith(".")
    )


def _read(path: str, wanted: _Wanted) -> tuple[Worker, list[str]]:
    """Read one file; return what is wrong with single pools beside it.

    :raises _Skip: not a live worker's, or not one that is wanted.
    :raises Damaged: a live worker's, but unusable.
    :raises OtherVersion: a live worker's of another version.
    """
    fd = _open(path)
    try:
        if not writer.is_locked(fd):
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
                if error.about and not wanted.matches(*error.about):
                    raise _Skip from error
                raise
            which = worker.process
            if not wanted.matches(which.app, which.root_path) or not which.is_alive():
                raise _Skip
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


def decode(data: bytes, path: str) -> tuple[Worker, list[str]]:
    """Return what a file shows of its worker, and what is wrong with the pools that
    are left out.

    :raises Damaged: nothing in it can be used.
    :raises OtherVersion: another version wrote it.
    """
    read_at = time.monotonic()
    which, has_served = unpack_head(data)
    try:
        started_at = datetime.fromtimestamp(which.started_at, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Damaged("its head is garbage") from error
    pools: list[PoolStatus] = []
    updates: list[float] = []
    reasons: list[str] = []
    offset, end = REGIONS_OFFSET, len(data)
    if end < REGIONS_OFFSET:
        reasons.append("it is cut off")
    elif unpack_size(data) != end:
        reasons.append("its length is not what its head says")
        end = 0
    while offset < end:
        number = len(pools) + len(reasons)
        slots, hidden = REGION.unpack_from(data.ljust(offset + REGION.size), offset)
        if not 0 < slots <= MAX_SLOTS or offset + region_size(slots) > end:
            reasons.append(f"pool {number}: it is cut off, or garbage")
            break
        if not hidden:
            try:
                pool, updated_at = _pool(data, offset, slots, read_at)
            except Damaged as error:
                reasons.append(f"pool {number}: {error}")
            else:
                pools.append(pool)
                updates.append(updated_at)
        offset += region_size(slots)
    pools.sort(key=lambda pool: (pool.bind != "default", pool.bind))
    worker = Worker(
        pid=which.pid,
        host=which.host,
        started_at=started_at.isoformat(timespec="seconds"),
        alive=True,
        updated_seconds_ago=_age(max(updates), read_at) if updates else None,
        stopped=False,
        pools=tuple(pools),
        process=which,
        has_served=has_served,
        path=path,
        read_at=read_at,
    )
    return worker, reasons


def _pool(data: bytes, offset: int, slots: int, now: float) -> tuple[PoolStatus, float]:
    """Return a region's pool, and when anything happened in it last."""
    status, written_at = unpack_document(data, offset + REGION.size)
    found = unpack_slots(data, offset + SLOTS_OFFSET, slots)
    gone_by = max(now - written_at, 0.0)
    ages = {
        name: round(seconds + gone_by, 3)
        for name in _ELAPSING
        if (seconds := getattr(status, name)) is not None
    }
    if status.is_counted:
        ages |= _of_slots(status, found, now)
    opened = [each.since for each in found if each.state != FREE]
    return replace(status, **ages), max(written_at, *opened, 0.0)


_ELAPSING: t.Final = [
    each.name for each in fields(PoolStatus) if each.metadata.get("elapsing")
]


def _of_slots(
    status: PoolStatus, found: Sequence[Slot], now: float
) -> dict[str, t.Any]:
    """Return what follows from the single connections."""
    out = [each for each in found if each.state not in (FREE, IDLE)]
    out.sort(key=lambda slot: slot.since)
    idle = [each for each in found if each.state == IDLE]
    # Connections without a slot are counted while they are out, not while they idle.
    all_listed = not status.unlisted_checkouts
    overflow = None
    if all_listed and status.size is not None:
        above = len(out) + len(idle) - status.size
        overflow = max(0, above) if status.size else 0
    # What is kept on purpose is not held for too long.
    held = [each.since for each in out if each.state != KEPT]
    checkouts = sum(each.checkouts for each in found) + status.unlisted_checkouts
    return {
        "checked_out": len(out) + status.unlisted_out,
        "idle": len(idle) if all_listed else None,
        "overflow": overflow,
        "longest_held_seconds": (
            _age(held[0], now) if held and not status.unlisted_out else None
        ),
        "checkouts": checkouts,
        "holders": tuple(_holder(each, now) for each in out),
        "idle_connections": tuple(
            IdleConnection(_age(each.since, now), each.server_id) for each in idle
        ),
    }


def _holder(slot: Slot, now: float) -> Holder:
    return Holder(
        held_seconds=_age(slot.since, now),
        endpoint=slot.endpoint,
        site=slot.site,
        thread=slot.thread,
        server_id=slot.server_id,
        kept=slot.state == KEPT,
    )


def _age(since: float, now: float) -> float:
    """Return the seconds between two monotonic times, to a millisecond."""
    return round(max(now - since, 0.0), 3)


def _pid_in(name: str) -> int | None:
    """Return the pid with which the file's name begins."""
    pid = name.partition("-")[0]
    return int(pid) if pid.isdecimal() and len(pid) < 12 else None
