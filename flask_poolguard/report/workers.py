"""From the figures in state files to the workers of a report."""

from __future__ import annotations

import typing as t
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from ..state.decoding import PoolState, SlotState
from ..state.reader import WorkerState
from ..state.usage import BUCKETS
from ..urls import public_url
from .model import Closed, Holder, PoolStatus, Usage, Worker

# Pools of these classes never make anybody wait.
_NEVER_WAIT: t.Final = ("NullPool", "SingletonThreadPool", "StaticPool")


def belong(worker: WorkerState, own: Collection[tuple[str, str]]) -> bool:
    """Tell whether a worker is of the same deployment as this process.

    Staging and production may be the same code under the same user; what differs
    is the databases.

    :param own: bind and URL of this process's pools, as a state file has them.
    """
    pairs = [(pool.bind, pool.url) for pool in worker.pools]
    return not pairs or any(pair in own for pair in pairs)


def parents_among(states: Sequence[WorkerState]) -> list[WorkerState]:
    """Return those that are no workers: they only started the others.

    gunicorn's master with ``--preload`` is one, if the app asks the database while it
    is made. What has answered a request is none, nor what uses a connection now.
    """
    return [
        each
        for each in states
        if not each.header.has_served
        and not any(_is_used(pool) for pool in each.pools)
        and any(other.header.is_child_of(each.header) for other in states)
    ]


def _is_used(pool: PoolState) -> bool:
    return bool(
        pool.waiting
        or pool.connecting
        or pool.counts["slotless_out"]
        or any(slot.out for slot in pool.slots)
    )


def describe_worker(state: WorkerState) -> Worker:
    """Turn one worker's file into what a report shows of it."""
    header = state.header
    times = [pool.updated for pool in state.pools]
    times += [slot.since for pool in state.pools for slot in pool.slots]
    started = datetime.fromtimestamp(header.started_at, UTC)
    return Worker(
        pid=header.pid,
        host=header.host,
        started_at=started.isoformat(timespec="seconds"),
        alive=True,
        updated_seconds_ago=age(max(times), state.now) if times else None,
        stopped=state.stopped,
        pools=tuple(
            _describe_pool(pool, state.now)
            for pool in sorted(
                state.pools, key=lambda pool: (pool.bind != "default", pool.bind)
            )
        ),
    )


def age(since: float, now: float) -> float:
    """Return the seconds between two monotonic times, to a millisecond."""
    return round(max(now - since, 0.0), 3)


def _age(since: float | None, now: float) -> float | None:
    return None if since is None else age(since, now)


def open_server_ids(pools: Iterable[PoolState]) -> frozenset[int] | None:
    """Return the servers' numbers of all open connections, None if some are unknown.

    One that is being opened right now does not count.
    """
    ids = set()
    for pool in pools:
        if not pool.counted or pool.counts["slotless_checkouts"]:
            return None
        known = {slot.server_id for slot in pool.slots if slot.server_id is not None}
        if not known and any(not _is_being_opened(slot) for slot in pool.slots):
            return None
        ids |= known
    return frozenset(ids)


def _describe_pool(pool: PoolState, now: float) -> PoolStatus:
    counts = pool.counts
    guarded = pool.pool_class == "GuardedPool"
    waits_known = guarded or pool.pool_class in _NEVER_WAIT
    waiting = pool.waiting if waits_known else None
    since = pool.waiting_since if waiting else None
    connecting_since = pool.connecting_since if pool.connecting else None
    return PoolStatus(
        bind=pool.bind,
        url=public_url(pool.url),
        pool_class=pool.pool_class,
        size=pool.size,
        max_overflow=pool.max_overflow,
        waiting=waiting,
        oldest_wait_seconds=_age(since, now),
        connecting=pool.connecting if guarded else None,
        oldest_connect_seconds=_age(connecting_since, now),
        obstacle=pool.obstacle,
        obstacle_seconds=_age(pool.obstacle_since, now),
        recycle_seconds=pool.recycle_seconds,
        recycle_source=pool.recycle_source,
        connects=counts["connects"],
        timeouts=counts["timeouts"] if waits_known else None,
        unavailable=counts["unavailable"] if guarded else None,
        timeout_seconds=pool.pool_timeout,
        held_warning_seconds=pool.held_warning,
        leaks=counts["leaks"],
        closed=_closed(pool, guarded),
        usage=_used(pool),
        **_usage(pool, now),
    )


def _usage(pool: PoolState, now: float) -> dict[str, t.Any]:
    """Return what follows from the single connections."""
    if not pool.counted:
        names = ("checked_out", "idle", "overflow", "longest_held_seconds")
        unknown = dict.fromkeys((*names, "peak_checked_out", "checkouts"))
        return {**unknown, "holders": ()}
    counts = pool.counts
    unlisted = counts["slotless_out"]
    out = sorted((slot for slot in pool.slots if slot.out), key=lambda slot: slot.since)
    # Connections without a slot are counted while they are out, not while they idle.
    all_listed = not counts["slotless_checkouts"]
    overflow = None
    if all_listed and pool.size is not None:
        overflow = max(0, len(pool.slots) - pool.size) if pool.size else 0
    # What is kept on purpose is not held for too long.
    held = [slot.since for slot in out if not slot.kept]
    longest = age(held[0], now) if held and not unlisted else None
    return {
        "checked_out": len(out) + unlisted,
        "idle": len(pool.slots) - len(out) if all_listed else None,
        "overflow": overflow,
        "longest_held_seconds": longest,
        "peak_checked_out": counts["peak_checked_out"],
        "checkouts": pool.slot_checkouts + counts["slotless_checkouts"],
        "holders": tuple(describe_holder(slot, now) for slot in out),
    }


def _used(pool: PoolState) -> Usage:
    usage = pool.usage
    demand = zip(BUCKETS, usage.demand, strict=True)
    return Usage(
        nesting=usage.nesting,
        threads=usage.threads,
        inherited=usage.inherited,
        waits=usage.waits,
        waited_seconds=round(usage.waited, 3),
        longest_wait_seconds=round(usage.longest_wait, 3),
        demand={bound: count for bound, count in demand if count},
    )


def describe_holder(slot: SlotState, now: float) -> Holder:
    """Turn a connection that is out into what a report shows of it."""
    return Holder(
        held_seconds=age(slot.since, now),
        endpoint=slot.endpoint,
        site=slot.site,
        thread=slot.thread,
        server_id=slot.server_id,
        kept=slot.kept,
    )


def _is_being_opened(slot: SlotState) -> bool:
    return slot.out and slot.thread is None and slot.endpoint is None


def _closed(pool: PoolState, guarded: bool) -> Closed:
    """Return the closed connections by reason.

    Other pool classes do not tell why they close one; a NullPool always closes.
    """
    counts = pool.counts
    known = guarded or pool.pool_class == "NullPool"
    return Closed(
        recycled=counts["recycled"] if known else None,
        idle=counts["idle"] if known else None,
        dead=counts["dead"],
        overflow=counts["overflow"] if known else None,
        invalidated=counts["invalidated"] if guarded else None,
        closed=counts["closed"] if guarded else None,
        detached=counts["detached"] if guarded else None,
    )
