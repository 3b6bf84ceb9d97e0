"""The number of this process, however it was forked."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable

import pytest

from flask_poolguard.pool import current_pid, pid
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child

pytestmark = pytest.mark.filterwarnings(MAY_DEADLOCK)

FORKS = [os.fork, fork_without_hooks]


def test_it_is_the_kernels() -> None:
    assert current_pid() == os.getpid()


@pytest.mark.parametrize("fork", FORKS, ids=["with hooks", "without"])
def test_a_child_has_its_own(fork: Callable[[], int]) -> None:
    assert current_pid() == os.getpid()

    def ask() -> tuple[int, int, int]:
        grandchild = in_child(lambda: current_pid() - os.getpid())
        return current_pid(), os.getpid(), grandchild

    told, own, grandchild = in_child(ask, fork=fork)
    assert told == own != os.getpid()
    assert grandchild == 0
    assert current_pid() == os.getpid()


def test_a_child_that_has_not_asked_knows_none() -> None:
    assert current_pid() == pid.known_pid[0]
    assert in_child(lambda: pid.known_pid[0], fork=fork_without_hooks) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no such page")
def test_linux_has_the_page_that_makes_it_cheap() -> None:
    assert isinstance(pid.known_pid, memoryview)


def test_a_kernel_that_follows_no_advice_is_asked_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An emulator may take any advice and follow none."""

    class Page(mmap.mmap):
        def madvise(self, *_: int) -> None:
            """Say that it is done."""

    monkeypatch.setattr("flask_poolguard.pool.pid.mmap.mmap", Page)
    asked = pid._make_page()
    assert not isinstance(asked, memoryview)
    assert in_child(lambda: asked[0] - os.getpid(), fork=fork_without_hooks) == 0
