"""Files that are locked for as long as their worker lives: made, told dead, removed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable

from .directory import SUFFIX, StateDirError, request_path, usable

try:
    import fcntl
except ImportError:  # Windows: no locks, so no state files
    fcntl = None  # type: ignore[assignment] # a module elsewhere


def has_locks() -> bool:
    """Tell whether this platform can lock files."""
    return fcntl is not None


def create_in_first(
    configured: str | None, head: bytes, sweep: Callable[[str], None]
) -> tuple[int, str]:
    """Make a file in the first folder that has room for it.

    :param head: what it begins with; it is no longer than that.
    :param sweep: removes from a folder what is left of workers that have ended.
    :returns: its descriptor and path.
    :raises StateDirError: there is no such folder; the message says why of each.
    """
    name = f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
    reasons: list[str] = []
    for folder in usable(configured, reasons):
        sweep(folder)
        try:
            return _create(folder, name, head), os.path.join(folder, name)
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror}")
    raise StateDirError("; ".join(reasons))


def _create(folder: str, name: str, head: bytes) -> int:
    hidden = os.path.join(folder, f".{name}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    # Only this descriptor may write to it, so that no slip of a user's cuts it
    # off while it is mapped.
    fd = os.open(hidden, flags, 0o400)
    try:
        # Space is reserved at once: a later write cannot find it missing.
        reserve(fd, 0, len(head))
        os.pwrite(fd, head, 0)
        # Locked before it gets its name: a named file without a lock is dead.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(hidden, os.path.join(folder, name))
    except OSError:
        os.unlink(hidden)
        os.close(fd)
        raise
    return fd


def unlink(path: str) -> None:
    """Remove a state file, and what was asked of its worker."""
    for each in (path, request_path(path)):
        with contextlib.suppress(OSError):
            os.unlink(each)


def reserve(fd: int, offset: int, size: int) -> None:
    """Let a file grow, filled with zeros.

    :raises OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, size)
    else:  # macOS
        os.pwrite(fd, bytes(size), offset)


def try_to_lock(fd: int) -> bool:
    """Lock a file or folder for this process alone, unless another has done so.

    :raises OSError: this file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let go of a lock, also of that of children that have inherited it."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def is_locked(fd: int) -> bool:
    """Tell whether a live worker holds this file."""
    try:
        # Shared, so that two readers do not take each other for the worker.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
