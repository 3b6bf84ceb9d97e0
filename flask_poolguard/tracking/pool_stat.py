"""The figures of a pool of this process, from memory: those of ``guard.stat()``."""

from __future__ import annotations

import time
import typing as t
from dataclasses import replace

from ..state.status import PoolStatus

if t.TYPE_CHECKING:
    from .pool_tracker import PoolTracker

Stat = dict[str, int | float | None]

# Fields of PoolStatus. First what is so now, then what was counted since the start.
_NAMES: t.Final = (
    "size",
    "max_overflow",
    "checked_out",
    "idle",
    "overflow",
    "waiting",
    "connecting",
    "longest_held_seconds",
    "peak_checked_out",
    "checkouts",
    "connects",
    "timeouts",
    "unavailable",
    "leaks",
)


def stat_of(tracker: PoolTracker) -> Stat:
    """Return the figures of a pool, from memory."""
    status = t.cast(PoolStatus, own_status(tracker))
    return {name: getattr(status, name) for name in _NAMES}


def own_status(tracker: PoolTracker, patience: float = -1.0) -> PoolStatus | None:
    """Return all that is known of a pool of this process, from memory.

    :param patience: how many seconds to wait for a thread that counts in the pool; -1.0
        for as long as it takes. Without success the answer is None.
    """
    tracker.forked()  # does nothing but after a fork that ran no hooks (uWSGI)
    lock = tracker.figures.lock
    if not lock.acquire(timeout=patience):
        return None
    try:
        status = tracker.figures.status()
        if status.is_counted:
            status = replace(status, **_of_connections(tracker, status.size))
    finally:
        lock.release()
    return status


def _of_connections(tracker: PoolTracker, size: int | None) -> dict[str, t.Any]:
    """Return what another process learns from the slots of the state file."""
    counts, region = tracker.figures.counts, tracker.figures.region
    listed, idle, checkouts = (
        (0, 0, 0)
        if region is None  # before its first event
        else (region.connections, region.idle, region.checkouts)
    )
    # A connection without a slot is counted while it is out, not while it idles.
    all_listed = not counts["unlisted_checkouts"]
    overflow = None
    if all_listed and size is not None:
        overflow = max(0, listed - size) if size else 0
    held = [each.taken_at for each in list(tracker.out.values()) if not each.is_kept]
    longest = max(time.monotonic() - min(held), 0.0) if held else 0.0
    return {
        "checked_out": listed - idle + counts["unlisted_out"],
        "idle": idle if all_listed else None,
        "overflow": overflow,
        "longest_held_seconds": round(longest, 3),
        "checkouts": (
            checkouts + counts["unlisted_checkouts"] + counts["earlier_checkouts"]
        ),
    }
