"""The folder of the state files: its place, and whether it can be trusted."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
import typing as t
from collections.abc import Iterator

FOLDER: t.Final = "flask-poolguard"

# Of a worker's state file, and of what others ask of that worker.
SUFFIX: t.Final = ".state"
REQUEST_SUFFIX: t.Final = ".recycle"


# What is written here, and so may be taken away: ``<pid>-<random>`` and what follows.
# A request that was being written has a hidden name with a random part of its own.
_WORKER: t.Final = r"[0-9]+-[0-9a-f]{8}"
_STATE: t.Final = re.compile(rf"{_WORKER}{re.escape(SUFFIX)}")
_REQUEST: t.Final = re.compile(
    rf"(?:({_WORKER})|\.({_WORKER})\.[0-9a-f]{{8}}){re.escape(REQUEST_SUFFIX)}"
)


class StateDirError(Exception):
    """A folder is not usable; the message says which and why.

    :ivar owner: whose it is, as far as that could be seen.
    """

    def __init__(self, message: str, owner: int | None = None) -> None:
        super().__init__(message)
        self.owner = owner


def request_path(state_path: str) -> str:
    """Return where the requests to the worker with this state file are."""
    return state_path.removesuffix(SUFFIX) + REQUEST_SUFFIX


def is_orphan(folder: str, name: str) -> bool:
    """Tell whether a file is a request, finished or not, to a worker that is gone."""
    found = _REQUEST.fullmatch(name)
    if found is None:
        return False
    worker = found[1] or found[2]
    return not os.path.lexists(os.path.join(folder, worker + SUFFIX))


def is_state_name(name: str) -> bool:
    """Tell whether a file has the name of a worker's state file."""
    return _STATE.fullmatch(name) is not None


def user_id() -> int:
    """Return the user that this process runs as, or 0 where there are none."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def candidates(configured: str | None) -> list[str]:
    """Return the folders in which this user's workers may keep their files.

    A worker writes to the first that works. A reader looks into all of them, because
    its environment is not the worker's: a service has no ``XDG_RUNTIME_DIR``.
    """
    if configured is not None:
        return [configured]
    folders = []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):
        folders.append(os.path.join(runtime, FOLDER))
    logind = f"/run/user/{user_id()}"
    if os.path.isdir(logind):
        folders.append(os.path.join(logind, FOLDER))
    if os.path.isdir("/dev/shm"):  # noqa: S108 (a per-user folder, checked by trust)
        folders.append(f"/dev/shm/{FOLDER}-{user_id()}")  # noqa: S108 (checked by trust)
    with contextlib.suppress(FileNotFoundError):  # none of them is writable
        folders.append(os.path.join(tempfile.gettempdir(), f"{FOLDER}-{user_id()}"))
    return list(dict.fromkeys(folders))


def trust(folder: str) -> None:
    """Refuse a folder through which another user could feed us files.

    :raises StateDirError: not a folder, another user's, or writable by others.
    """
    try:
        found = os.lstat(folder)
    except OSError as error:
        raise StateDirError(f"{folder}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        reason = f"{folder} is not a folder (or a symbolic link to one)"
        raise StateDirError(reason, found.st_uid)
    if found.st_uid != user_id():
        reason = f"{folder} belongs to user {found.st_uid}, not to {user_id()}"
        raise StateDirError(reason, found.st_uid)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"{folder} is writable by others; chmod 0700 it"
        raise StateDirError(reason, found.st_uid)


def usable(configured: str | None, reasons: list[str]) -> Iterator[str]:
    """Give the folders in which files can be made, making them if need be.

    :param reasons: takes, for each folder that is not usable, why.
    """
    for folder in candidates(configured):
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror}")
            continue
        try:
            trust(folder)
        except StateDirError as error:
            reasons.append(str(error))
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            yield folder
        else:
            reasons.append(f"{folder}: not writable")
