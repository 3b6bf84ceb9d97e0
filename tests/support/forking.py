"""Fork for a moment, and learn what the child found."""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

# What a child may take; one that waits for a lock would wait for ever.
CHILD_SECONDS = 20.0
# A child that is forked without hooks while another thread is about to take the
# interpreter's lock stands still in CPython itself: in take_gil(), whose condition
# variable is held by a thread that is not there any more. So it may be tried again:
# what stands still for a reason of ours does so each time.
ATTEMPTS = 3
# Python 3.12 warns of every fork while threads run, which is what is tested here.
MAY_DEADLOCK = "ignore:This process .* is multi-threaded:DeprecationWarning"


class ChildError(AssertionError):
    """The child raised, or did not come to an end."""


def fork_without_hooks() -> int:
    """Fork as a server written in C does: Python runs no hook of `os`."""
    # PyDLL keeps the interpreter's lock, which the child then has as well.
    return int(ctypes.PyDLL(None).fork())


def in_child(work: Callable[[], T], *, fork: Callable[[], int] = os.fork) -> T:
    """Run a function in a forked child and return what it returned.

    :raises ChildError: with the child's traceback, or because it took too long.
    """
    answer = b""
    for _ in range(ATTEMPTS if fork is fork_without_hooks else 1):
        answer = answer or _ask_child(work, fork)
    if not answer:
        raise ChildError(f"The child said nothing within {CHILD_SECONDS:g} s")
    kind, value = pickle.loads(answer)  # noqa: S301 (written by our own child)
    if kind == "error":
        raise ChildError(value)
    result: T = value
    return result


def _ask_child(work: Callable[[], Any], fork: Callable[[], int]) -> bytes:
    """Return what a child writes, nothing if it does not come to an end."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        _run(work, writer)
    os.close(writer)
    try:
        return _read_all(reader)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run(work: Callable[[], Any], writer: int) -> None:
    """Do the work and end the child, which must never run the tests' own ends."""
    try:
        try:
            answer = pickle.dumps(("result", work()))
        except BaseException:
            answer = pickle.dumps(("error", traceback.format_exc()))
        os.write(writer, answer)
    finally:
        os._exit(0)


def _read_all(reader: int) -> bytes:
    data = b""
    poller = select.poll()  # select() knows the first 1,024 descriptors only
    poller.register(reader, select.POLLIN)
    while poller.poll(CHILD_SECONDS * 1000):
        more = os.read(reader, 65536)
        if not more:
            return data
        data += more
    return b""
