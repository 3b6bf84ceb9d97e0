"""From the bytes of a state file to a worker and its pools."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime

from .file_format import (
    FREE,
    HISTORY_OFFSET,
    IDLE,
    KEPT,
    MAX_SLOTS,
    REGION,
    REGIONS_OFFSET,
    SERVED,
    SLOTS_OFFSET,
    STARTED,
    Slot,
    region_size,
    unpack_document,
    unpack_head,
    unpack_history,
    unpack_size,
    unpack_slots,
)
from .plain import Damaged
from .status import Holder, IdleConnection, PoolStatus, Worker


def decode(data: bytes, path: str) -> tuple[Worker, list[str]]:
    """Return what a file shows of its worker, and what is wrong with the pools that
    are left out.

    :raises Damaged: nothing in it can be used.
    :raises OtherVersion: another version wrote it.
    """
    read_at = time.monotonic()
    which, served = unpack_head(data)
    try:
        started_at = datetime.fromtimestamp(which.started_at, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Damaged("its head is garbage") from error
    pools: list[PoolStatus] = []
    updates: list[float] = []
    reasons: list[str] = []
    offset, end = REGIONS_OFFSET, len(data)
    if end < REGIONS_OFFSET:
        reasons.append("it is cut off")
    elif unpack_size(data) != end:
        reasons.append("its length is not what its head says")
        end = 0
    while offset < end:
        number = len(pools) + len(reasons)
        slots = hidden = 0
        if offset + REGION.size <= end:
            slots, hidden = REGION.unpack_from(data, offset)
        if not 0 < slots <= MAX_SLOTS or offset + region_size(slots) > end:
            reasons.append(f"pool {number}: it is cut off, or garbage")
            break
        if not hidden:
            try:
                pool, updated_at = _pool(data, offset, slots, read_at, which.threads)
            except Damaged as error:
                reasons.append(f"pool {number}: {error}")
            else:
                pools.append(pool)
                updates.append(updated_at)
        offset += region_size(slots)
    pools.sort(key=lambda pool: (pool.bind != "default", pool.bind))
    worker = Worker(
        pid=which.pid,
        host=which.host,
        started_at=started_at.isoformat(timespec="seconds"),
        alive=True,
        updated_seconds_ago=_age(max(updates), read_at) if updates else None,
        stopped=False,
        pools=tuple(pools),
        root_path=which.root_path,
        process=which,
        has_served=served == SERVED,
        is_started=served == STARTED,
        path=path,
        read_at=read_at,
    )
    return worker, reasons


def _pool(
    data: bytes, offset: int, slots: int, now: float, threads: int | None
) -> tuple[PoolStatus, float]:
    """Return a region's pool, and when anything happened in it last.

    :param threads: with how many its worker serves.
    """
    status, written_at = unpack_document(data, offset + REGION.size)
    history = unpack_history(data, offset + HISTORY_OFFSET)
    found = unpack_slots(data, offset + SLOTS_OFFSET, slots)
    gone_by = max(now - written_at, 0.0)
    ages = {
        name: round(seconds + gone_by, 3)
        for name in _ELAPSING
        if (seconds := getattr(status, name)) is not None
    }
    usage = replace(status.usage, server_threads=threads)
    facts: dict[str, t.Any] = {**ages, "usage": usage, "history": history}
    if status.is_counted:
        facts |= _of_slots(status, found, now, ages.get("seen_seconds", 0.0))
    opened = [each.since for each in found if each.state != FREE]
    return replace(status, **facts), max(written_at, *opened, 0.0)


_ELAPSING: t.Final = [
    each.name for each in fields(PoolStatus) if each.metadata.get("elapsing")
]


def _of_slots(
    status: PoolStatus, found: Sequence[Slot], now: float, seen_ago: float
) -> dict[str, t.Any]:
    """Return what follows from the single connections.

    :param seen_ago: seconds since it was seen what their threads do.
    """
    listed = [
        (each, status.activities.get(number))
        for number, each in enumerate(found)
        if each.state not in (FREE, IDLE)
    ]
    listed.sort(key=lambda pair: pair[0].since)
    out = [slot for slot, _ in listed]
    idle = [each for each in found if each.state == IDLE]
    # Connections without a slot are counted while they are out, not while they idle.
    all_listed = not status.unlisted_checkouts
    overflow = None
    if all_listed and status.size is not None:
        above = len(out) + len(idle) - status.size
        overflow = max(0, above) if status.size else 0
    # What is kept on purpose is not held for too long.
    held = [each.since for each in out if each.state != KEPT]
    checkouts = sum(each.checkouts for each in found)
    checkouts += status.unlisted_checkouts + status.earlier_checkouts
    return {
        "checked_out": len(out) + status.unlisted_out,
        "idle": len(idle) if all_listed else None,
        "overflow": overflow,
        "longest_held_seconds": (
            _age(held[0], now) if held and not status.unlisted_out else None
        ),
        "checkouts": checkouts,
        "holders": tuple(
            _holder(slot, now, activity, seen_ago) for slot, activity in listed
        ),
        "idle_connections": tuple(
            IdleConnection(_age(each.since, now), each.server_id) for each in idle
        ),
    }


def _holder(slot: Slot, now: float, activity: str | None, seen_ago: float) -> Holder:
    held = _age(slot.since, now)
    if held < seen_ago:  # another had the connection then
        activity = None
    return Holder(
        held_seconds=held,
        endpoint=slot.endpoint,
        site=slot.site,
        thread=slot.thread,
        server_id=slot.server_id,
        kept=slot.state == KEPT,
        now=activity,
        now_seconds=None if activity is None else round(seen_ago, 3),
    )


def _age(since: float, now: float) -> float:
    """Return the seconds between two monotonic times, to a millisecond."""
    return round(max(now - since, 0.0), 3)
