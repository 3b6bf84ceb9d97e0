"""Closes idle connections of a pool: needed no more, gone, outdated, disposed of.

A record is taken out of the idle ones first: another thread may hand it out meanwhile,
and whichever removes it from the deque has it.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import time
import typing as t
import weakref

from .idle_filler import filling_thread
from .types import FIT

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .fair_queue import FairQueue
    from .idle_limits import IdleLimits
    from .slot import GuardedRecord
    from .types import CloseReason

_clock = time.monotonic

# A goodbye is one small packet; the end of a process is not to wait for more.
_GOODBYE_SECONDS: t.Final = 1.0


class PoolOfProcess(t.Protocol):
    """A guarded pool, as far as the end of its process needs it."""

    _pid: int
    _pool: FairQueue[GuardedRecord]


_open_pools: weakref.WeakSet[PoolOfProcess] = weakref.WeakSet()


def close_idle(
    queue: FairQueue[GuardedRecord], record: GuardedRecord, reason: CloseReason
) -> None:
    """Close a record that was taken out of the idle ones."""
    try:
        record.close_because(reason)
    finally:
        queue.free(record, reason != "overflow")


def close_longest_idle(queues: Iterable[FairQueue[GuardedRecord]]) -> bool:
    """Close the connection of several pools that has been idle for longest; False if
    none is idle.
    """
    idle = [(each.idle_since, queue, each) for queue in queues for each in queue.idle]
    for _, queue, record in sorted(idle, key=lambda each: each[0]):
        try:
            queue.idle.remove(record)
        except ValueError:  # another thread has just taken it
            continue
        close_idle(queue, record, "idle")
        return True
    return False


def close_unfit(
    queue: FairQueue[GuardedRecord],
    now: float,
    max_idle: float | None,
    min_idle: int,
    limits: IdleLimits,
    dispose_again: Callable[[], None],
) -> None:
    """Close those whose time is up and those that are gone.

    :param now: by the pool's clock.
    :param max_idle: ``POOLGUARD_MAX_IDLE`` in seconds; None for no limit.
    :param min_idle: so many stay in spite of that.
    :param limits: learns which idle times a connection survives.
    :param dispose_again: called after each that was looked at and put back: the pool
        may have been disposed of meanwhile.
    """
    longest = math.inf if max_idle is None else max_idle
    for record in list(queue.idle):
        idle = now - record.idle_since
        is_needed = idle < longest or len(queue.idle) <= min_idle
        if is_needed and record.is_over() is None and not record.has_spoken():
            limits.survived(idle)
            continue
        try:
            queue.idle.remove(record)
        except ValueError:  # another thread has just taken it
            continue
        try:
            reason = record.fitness(is_asked_for=False) if is_needed else "idle"
        except BaseException:
            close_idle(queue, record, "dead")
            raise
        if reason != FIT:
            close_idle(queue, record, reason)
            continue
        surplus = queue.put_first(record)
        if surplus is not None:
            close_idle(queue, surplus, "overflow")
        dispose_again()


def close_surplus(queue: FairQueue[GuardedRecord]) -> None:
    """Close those that are more than the pool is to keep since it was made smaller."""
    while (record := queue.take_surplus()) is not None:
        close_idle(queue, record, "overflow")


def close_outdated(queue: FairQueue[GuardedRecord]) -> None:
    """Close those that are older than the pool's last renewal."""
    for record in list(queue.idle):
        if not record.is_outdated():
            continue
        try:
            queue.idle.remove(record)
        except ValueError:  # another thread takes it, and will find out
            continue
        close_idle(queue, record, "invalidated")


def close_all(queue: FairQueue[GuardedRecord]) -> None:
    """Close all.

    :raises Exception: what a listener to closing connections raised; the others stay.
    """
    while True:
        try:
            record = queue.pop()
        except IndexError:
            return
        close_idle(queue, record, "closed")


def close_at_exit(pool: PoolOfProcess) -> None:
    """Close what is idle when the process ends: a session whose client just vanishes
    is one more that the server counts, and logs, as aborted.
    """
    _open_pools.add(pool)


# The one that registered last is called first: what an app registers after the import
# is done by then.
@atexit.register
def _say_goodbye() -> None:
    filling_thread.end()
    until = _clock() + _GOODBYE_SECONDS
    for pool in list(_open_pools):
        if pool._pid == os.getpid():
            close_until(pool._pool, until)


def close_until(queue: FairQueue[GuardedRecord], until: float) -> None:
    """Close as many as the time allows, even if a listener raises.

    :param until: monotonic seconds.
    """
    while _clock() < until:
        try:
            record = queue.pop()
        except IndexError:
            return
        with contextlib.suppress(Exception):  # a listener's, perhaps
            close_idle(queue, record, "closed")
