"""Do something as another local user, one without any rights."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support import not_tested
from tests.support.forking import in_child

T = TypeVar("T")

# Of no account, so that nothing of this machine is his.
UID = 12345


def _become_other() -> None:
    os.setgroups([])
    os.setgid(UID)
    os.setuid(UID)


def _need_root() -> None:
    if os.geteuid() != 0:
        not_tested.skip_test("Only root can start a process as another user.")


def as_other(work: Callable[[], T]) -> T:
    """Do something in a process of another user's, and return what it returned."""

    def do() -> T:
        _become_other()
        return work()

    _need_root()
    return in_child(do)


def error_of_other(work: Callable[[], object]) -> str:
    """Return which error another user gets, "" if he gets none."""

    def do() -> str:
        try:
            work()
        except OSError as error:
            return type(error).__name__
        return ""

    return as_other(do)


@contextmanager
def locked_by_other(path: str | Path) -> Iterator[None]:
    """Let another user hold the lock of a file or folder that he may read."""
    _need_root()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_other()
            fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
            os.write(writer, b"y")
            signal.pause()
        finally:
            os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"y", "he could not lock it"
        yield
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """Give a folder to which all users find their way, of mode 0755."""
    with tempfile.TemporaryDirectory(prefix="poolguard-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
