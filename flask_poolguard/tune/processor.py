"""How busy this machine's processors are."""

from __future__ import annotations

import os

# Ticks of all cores together: those in which they did something, and all.
Times = tuple[int, int]


def machine_times() -> Times | None:
    """Read ``/proc/stat`` (proc(5)); None where there is none.

    Waiting for a disk is no work; ``guest`` is contained in ``user`` already.
    """
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(each) for each in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    if len(ticks) < 5:
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def busy_share(before: Times | None, after: Times | None) -> float | None:
    """Return the share of all cores' time between two moments that was used."""
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
