"""Notice threads and child processes that a test leaves behind."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from dataclasses import dataclass

from tests.support import forked_python
from tests.support.private_server import PrivateServer
from tests.support.processes import children_of, command_of
from tests.support.waiting import wait_until

# Servers that live longer than one test.
_expected: list[PrivateServer] = []
# Python's own helper processes stay by design.
PYTHON_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The threads and children that were there at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]


def expect(server: PrivateServer) -> None:
    """Let a server outlive the tests that use, stop and restart it."""
    _expected.append(server)


def snapshot() -> Snapshot:
    """Return what is there now."""
    return Snapshot(frozenset(threading.enumerate()), frozenset(_children()))


def wait_for_none(before: Snapshot, *, seconds: float = 2.0) -> list[str]:
    """Give what a test started time to end; describe what did not.

    :param seconds: how long to wait at most.
    """
    if not _since(before):
        return []
    # Executors end their threads when they are collected.
    gc.collect()
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not _since(before), seconds=seconds)
    return _since(before)


def _children() -> set[int]:
    children = children_of(os.getpid())
    for server in _expected:
        children -= server.process_ids()
    # It stays; each of its children goes with the one command that it oversees.
    nurseries = forked_python.nursery_pids()
    return (children - nurseries).union(*map(children_of, nurseries))


def _since(before: Snapshot) -> list[str]:
    threads = [
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if thread not in before.threads and thread.is_alive() and not thread.daemon
    ]
    commands = {pid: command_of(pid) for pid in _children() - before.children}
    processes = [
        f"process {pid}: {command}"
        for pid, command in commands.items()
        if command and not any(helper in command for helper in PYTHON_HELPERS)
    ]
    return sorted(threads + processes)
