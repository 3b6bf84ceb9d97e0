"""A request from one process to another to replace its connections.

``<pid>-<random>.recycle`` lies beside the worker's state file and holds a JSON object
of bind and number. The worker looks for it with each round of its housekeeper and
answers in its state file. No signal is sent: it would end a process that does not
expect it. The file goes with the worker's own, so that two requests never have to
agree on who takes it away.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
import typing as t
from collections.abc import Mapping

from ..log_lines import warn
from .directory import request_path, user_id

# Stands for every bind.
ALL: t.Final = "*"

# Far more than all binds that a state file has room for.
_MAX_SIZE: t.Final = 32 * 1024


class RequestError(Exception):
    """A request cannot be read, or is none; the message says why."""


def new_number() -> int:
    """Return the number of a request: the microseconds of the monotonic clock.

    All processes of a host share that clock and it never goes back, so a worker that
    has answered a later request has answered the earlier ones as well.
    """
    return time.monotonic_ns() // 1000


def number_for(request: Mapping[str, int], bind: str) -> int:
    """Return the number of the last request for a bind, 0 for none."""
    return max(request.get(bind, 0), request.get(ALL, 0))


def ask(state_path: str, bind: str, number: int) -> None:
    """Ask the worker with this state file to replace a bind's connections.

    Other requests for it are kept, unless they are written in the same moment: look
    again, until it has answered.

    :param bind: ``ALL`` for every one.
    :raises OSError: the file cannot be written.
    """
    path = request_path(state_path)
    request: dict[str, int] = {}
    with contextlib.suppress(OSError, RequestError):
        request = read(path)
    if request.get(bind, 0) >= number:
        return
    data = json.dumps({**request, bind: number}, ensure_ascii=False).encode()
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    hidden = os.path.join(folder, f".{stem}.{secrets.token_hex(4)}{suffix}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(hidden, flags, 0o600)
    try:
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(hidden, path)
    except BaseException:
        os.unlink(hidden)
        raise


def read(path: str) -> dict[str, int]:
    """Return the numbers in a request by bind, and believe nothing.

    :raises OSError: it is not there, or cannot be read.
    :raises RequestError: it is not what :func:`ask` writes.
    """
    # Looked at first: merely opening a device may do something.
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise RequestError("it is not a plain file")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise RequestError("it is not a plain file")
        if found.st_uid != user_id():
            raise RequestError(f"it belongs to user {found.st_uid}, not to {user_id()}")
        if found.st_size > _MAX_SIZE:
            raise RequestError(f"it has {found.st_size} bytes, more than any request")
        data = os.read(fd, _MAX_SIZE)
    finally:
        os.close(fd)
    try:
        request = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError("it is not JSON") from error
    if not isinstance(request, dict):
        raise RequestError("it is no JSON object")
    # A number from the future would count as the answer to requests to come.
    latest = new_number()
    for number in request.values():
        if type(number) is not int or not 0 < number <= latest:
            raise RequestError("its numbers are garbage")
    return request


class Inbox:
    """Looks for requests to one worker; costs one ``stat`` while there is none."""

    def __init__(self) -> None:
        self._seen: object = None
        self._warned = False

    def look(self, state_path: str) -> Mapping[str, int]:
        """Return the request since the last look, empty if there is none.

        What is no request is ignored, the first time with a warning.
        """
        path = request_path(state_path)
        try:
            found = os.lstat(path)
        except OSError:
            return {}
        seen = found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
        if seen == self._seen:
            return {}
        self._seen = seen
        try:
            return read(path)
        except FileNotFoundError:
            return {}
        except (OSError, RequestError) as error:
            if isinstance(error, OSError):  # which may pass: no descriptor left
                self._seen = None
            if not self._warned:
                self._warned = True
                warn(
                    "recycle_request_ignored",
                    "The request to replace connections in %s is ignored: %s. Only"
                    " `flask pool recycle` writes such files; remove it.",
                    path,
                    error.strerror if isinstance(error, OSError) else error,
                )
            return {}


__all__ = ["ALL", "Inbox", "RequestError", "ask", "new_number", "number_for", "read"]
