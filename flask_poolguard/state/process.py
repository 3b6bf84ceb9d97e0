"""The identity of a process: a pid alone is reused."""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import dataclass


def boot_id() -> str:
    """Return what tells one boot of one machine from another, or the host's name."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return socket.gethostname()


def pid_namespace() -> str:
    """Return the container's own numbering of processes, or ``""`` if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def start_ticks(pid: int) -> str | None:
    """Return when the process started, in the kernel's ticks; None if it is gone.

    Field 22 of ``/proc/PID/stat`` (proc(5)); the second field may hold spaces.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def is_stopped(pid: int, namespace: str) -> bool:
    """Tell whether a process is stopped by a signal, or by a debugger.

    Field 3 of ``/proc/PID/stat`` (proc(5)).

    :param namespace: the pid's; of another container's process nothing is known.
    """
    if namespace != pid_namespace():
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def age_seconds(pid: int) -> float | None:
    """Return how long the process of this number has been running here.

    :returns: None if there is none, or only its remains (a zombie, which has closed
        everything); infinite if the system does not say.
    """
    if os.name != "posix":  # there, signal 0 is not harmless
        return math.inf
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # it is another user's, and its /proc may be hidden
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        # Not /proc/uptime, which LXC replaces with the container's.
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    except (OSError, IndexError, ValueError, AttributeError):
        return math.inf
    return None if fields[0] in "ZX" else max(age, 0.0)


def is_same_path(one: str, other: str) -> bool:
    """Compare root paths.

    Where releases are switched by a symbolic link, gunicorn imports the app through the
    link and the ``flask`` command through what it points to.
    """
    return one == other or os.path.realpath(one) == os.path.realpath(other)


@dataclass(frozen=True, slots=True)
class Process:
    """Which process of which app; the head of its state file.

    :ivar started_at: when it began the file, in seconds since the epoch.
    :ivar start_ticks: when the process started, in the kernel's ticks.
    :ivar parent_pid: as it was when the file was begun.
    :ivar threads: how many threads its server lets answer requests; None is unknown, or
        any number.
    """

    pid: int
    host: str
    started_at: float
    boot_id: str
    pid_namespace: str
    start_ticks: str | None
    parent_pid: int
    parent_start_ticks: str | None
    app: str
    root_path: str
    threads: int | None = None

    def is_alive(self) -> bool:
        """Tell whether it is of this boot, and its pid still means the same process.

        Where that cannot be known (another container, no ``/proc``), the lock of its
        file alone decides, so the answer is True. An inherited file descriptor can
        keep the lock of a worker that is long dead.
        """
        if self.boot_id != boot_id():
            return False
        if self.start_ticks is None or self.pid_namespace != pid_namespace():
            return True
        return start_ticks(self.pid) == self.start_ticks

    def is_child_of(self, other: Process) -> bool:
        """Tell whether a process that lives was forked from another one."""
        return (
            self.parent_pid == other.pid
            and self.parent_start_ticks == other.start_ticks
            and self.start_ticks is not None
            and self.pid_namespace == other.pid_namespace
        )


def this_process(app: str, root_path: str, threads: int | None = None) -> Process:
    """Return which process this is.

    :param app: the name of the app that it serves.
    :param threads: how many are to answer requests, if that is known.
    """
    pid, parent = os.getpid(), os.getppid()
    return Process(
        pid=pid,
        host=socket.gethostname(),
        started_at=time.time(),
        boot_id=boot_id(),
        pid_namespace=pid_namespace(),
        start_ticks=start_ticks(pid),
        parent_pid=parent,
        parent_start_ticks=start_ticks(parent),
        app=app,
        root_path=root_path,
        threads=threads,
    )
