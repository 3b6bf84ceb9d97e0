"""The identity of a process: a pid alone is reused."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
import typing as t


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


def whoami() -> dict[str, t.Any]:
    """Return this process's identity, as the header of its state file."""
    parent = os.getppid()
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_at": time.time(),
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
        "start_ticks": start_ticks(os.getpid()),
        "parent_pid": parent,
        "parent_start_ticks": start_ticks(parent),
        "command": os.path.basename(sys.argv[0]) if sys.argv else "",
    }


def is_same_process(header: dict[str, t.Any]) -> bool:
    """Tell whether the pid in a header still means the process that wrote it.

    Where that cannot be known (another container, no ``/proc``), the file's lock
    alone decides, so the answer is True.
    """
    recorded = header.get("start_ticks")
    if recorded is None or header.get("pid_namespace") != pid_namespace():
        return True
    return bool(start_ticks(int(header["pid"])) == recorded)
