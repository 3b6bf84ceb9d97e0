"""From the bytes of a state file to figures; no byte is trusted."""

from __future__ import annotations

import codecs
import math
import struct
import typing as t
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .header import Damaged, Header, decode_header
from .layout import (
    BLOCK,
    COUNTS,
    DIRECTORY,
    DIRECTORY_OFFSET,
    FREE,
    IDLE,
    KEPT,
    LEAKS,
    MAX_POOLS,
    MAX_SLOTS,
    MAX_STRING,
    NAMES,
    OBSTACLES,
    OUT,
    QUEUE,
    REGIONS_OFFSET,
    SLOT,
    SLOTS_OFFSET,
    STRING_LENGTH,
    STRINGS_OFFSET,
    STRINGS_SIZE,
    UNKNOWN,
    USAGE,
    USE,
    region_size,
)

# More than any figure can be; what is above is garbage.
_MAX_COUNT: t.Final = 2**53


@dataclass(frozen=True, slots=True)
class SlotState:
    """A connection that is open; times in monotonic seconds, None is unknown.

    :ivar kept: it is out, and outlives its scope on purpose.
    :ivar since: of its last checkout, or of its return if it is not out.
    """

    out: bool
    kept: bool
    since: float
    server_id: int | None
    endpoint: str | None
    site: str | None
    thread: str | None


@dataclass(frozen=True, slots=True)
class LeakState:
    """How often an endpoint did not give back what it took at a line."""

    endpoint: str | None
    site: str | None
    count: int


@dataclass(frozen=True, slots=True)
class UsageState:
    """What a pool was asked for; see :class:`flask_poolguard.state.usage.Usage`.

    :ivar demand: by the buckets of ``usage.BUCKETS``.
    """

    nesting: int
    threads: int
    inherited: int
    waits: int
    troubles: int
    renewed: int
    outdated: int
    waited: float
    longest_wait: float
    demand: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool's figures; times in monotonic seconds, None is unknown or none.

    :ivar url: without the password, cut off where the file cuts it off.
    :ivar counted: whether its checkouts can be told apart.
    :ivar age_based: whether the user's own ``pool_recycle`` is in force.
    :ivar counts: by the names in ``layout.COUNTS``.
    :ivar waiting: how many wait for others to give a connection back.
    :ivar connecting: for how many a connection is tested or opened.
    :ivar obstacle: what is wrong with the server, by the names in
        ``layout.OBSTACLES``.
    """

    bind: str
    url: str
    pool_class: str
    recycle_source: str | None
    size: int | None
    max_overflow: int | None
    recycle_seconds: float | None
    server_limit: float | None
    learned_limit: float | None
    pool_timeout: float | None
    held_warning: float | None
    counted: bool
    age_based: bool
    counts: Mapping[str, int]
    waiting: int
    waiting_since: float | None
    connecting: int
    connecting_since: float | None
    obstacle: str | None
    obstacle_since: float | None
    usage: UsageState
    updated: float
    leaks: tuple[LeakState, ...]
    slots: tuple[SlotState, ...]
    slot_checkouts: int


def decode(data: bytes) -> tuple[Header, tuple[PoolState, ...], list[str]]:
    """Return a file's header, its pools, and what is wrong with those left out.

    :raises Damaged: nothing in it can be used.
    :raises OtherLayout: another version wrote it.
    """
    header = decode_header(data)
    pools, reasons = [], []
    end = REGIONS_OFFSET
    for number in range(MAX_POOLS):
        place = DIRECTORY_OFFSET + number * DIRECTORY.size
        if len(data) < place + DIRECTORY.size:
            reasons.append("it is cut off")
            break
        offset, slots, hidden = DIRECTORY.unpack_from(data, place)
        if (offset, slots) == (0, 0):
            break
        if offset != end or not 0 < slots <= MAX_SLOTS or hidden > 1:
            reasons.append(f"the directory's entry {number} is garbage")
            break
        end = offset + region_size(slots)
        if hidden:
            continue
        try:
            pools.append(_pool(data, offset, slots))
        except Damaged as error:
            reasons.append(f"pool {number}: {error}")
    if not reasons and len(data) != end:
        reasons.append("its length is not what its directory says")
    return header, tuple(pools), reasons


def cut(text: str) -> str:
    """Return a string as it comes back from a state file, which cuts long ones."""
    return _text(text.encode("utf-8", "replace")[:MAX_STRING])


def _pool(data: bytes, offset: int, slots: int) -> PoolState:
    if len(data) < offset + region_size(slots):
        raise Damaged("it is cut off")
    values = iter(BLOCK.unpack_from(data, offset))
    sequence = next(values)
    pool_class = _needed(_string(data, next(values)))
    size, max_overflow = (_size(next(values)) for _ in range(2))
    recycle_seconds, server_limit, learned_limit, pool_timeout, held_warning = (
        _seconds(next(values)) for _ in range(5)
    )
    counted, age_based = (_flag(next(values)) for _ in range(2))
    counts = {name: _count(next(values)) for name in COUNTS}
    updated = _seconds(next(values))
    leaks = [(next(values), next(values), next(values)) for _ in range(LEAKS)]
    if sequence == 0 or next(values) != sequence or updated is None:
        raise Damaged("its figures do not fit together")
    queue = _queue(data, offset + BLOCK.size)
    usage = _usage(data, offset + BLOCK.size + QUEUE.size)
    names = _names(data, offset + BLOCK.size + QUEUE.size + USAGE.size)
    bind, url, recycle_source = names
    listed, checkouts = _slots(data, offset + SLOTS_OFFSET, slots)
    return PoolState(
        bind=_needed(bind),
        url=_needed(url),
        pool_class=pool_class,
        recycle_source=recycle_source,
        size=size,
        max_overflow=max_overflow,
        recycle_seconds=recycle_seconds,
        server_limit=server_limit,
        learned_limit=learned_limit,
        pool_timeout=pool_timeout,
        held_warning=held_warning,
        counted=counted,
        age_based=age_based,
        counts=counts,
        **queue,
        usage=usage,
        updated=updated,
        leaks=tuple(
            LeakState(_string(data, endpoint), _string(data, site), _count(count))
            for endpoint, site, count in leaks
            if count
        ),
        slots=listed,
        slot_checkouts=checkouts,
    )


def _queue(data: bytes, offset: int) -> dict[str, t.Any]:
    """Return who has no connection yet, and what is wrong with the server."""
    head, waiting, first, connecting, second, kind, since, tail = QUEUE.unpack_from(
        data, offset
    )
    if head == 0 or head != tail or kind > len(OBSTACLES):
        raise Damaged("the queue's figures do not fit together")
    return {
        "waiting": _count(waiting),
        "waiting_since": _seconds(first),
        "connecting": _count(connecting),
        "connecting_since": _seconds(second),
        "obstacle": OBSTACLES[kind - 1] if kind else None,
        "obstacle_since": _seconds(since),
    }


def _usage(data: bytes, offset: int) -> UsageState:
    values = iter(USAGE.unpack_from(data, offset))
    sequence = next(values)
    figures = {name: _count(next(values)) for name in USE}
    waited, longest = _seconds(next(values)), _seconds(next(values))
    *demand, tail = values
    if sequence == 0 or sequence != tail or waited is None or longest is None:
        raise Damaged("the usage's figures do not fit together")
    return UsageState(
        **figures,
        waited=waited,
        longest_wait=longest,
        demand=tuple(map(_count, demand)),
    )


def _names(data: bytes, offset: int) -> Iterator[str | None]:
    """Yield the names that lie in a region: bind, URL and recycle source."""
    head, *names, tail = NAMES.unpack_from(data, offset)
    if head == 0 or head != tail:
        raise Damaged("the names do not fit together")
    for length, text in zip(names[::2], names[1::2], strict=True):
        if length > MAX_STRING:
            raise Damaged("a name is garbage")
        yield _text(text[:length]) or None


def _slots(data: bytes, offset: int, slots: int) -> tuple[tuple[SlotState, ...], int]:
    """Return the open connections, and the checkouts of all slots ever used."""
    found, total = [], 0
    for values in SLOT.iter_unpack(data[offset : offset + slots * SLOT.size]):
        head, state, checkouts, since, server_id, endpoint, site, thread, tail = values
        total += _count(checkouts)
        if (
            head != tail
            or state not in (FREE, IDLE, OUT, KEPT)
            or not math.isfinite(since)
        ):
            raise Damaged("a connection's figures do not fit together")
        if state != FREE:
            found.append(
                SlotState(
                    out=state in (OUT, KEPT),
                    kept=state == KEPT,
                    since=since,
                    server_id=None if server_id == -1 else server_id,
                    endpoint=_string(data, endpoint),
                    site=_string(data, site),
                    thread=_text(thread.rstrip(b"\0")) or None,
                )
            )
    return tuple(found), total


def _needed(found: str | None) -> str:
    if found is None:
        raise Damaged("a name is missing")
    return found


def _string(data: bytes, string_id: int) -> str | None:
    """Return the string with this id, None for id 0."""
    if string_id == 0:
        return None
    if string_id > STRINGS_SIZE - STRING_LENGTH.size:
        raise Damaged("a name is garbage")
    start = STRINGS_OFFSET + string_id
    try:
        (length,) = STRING_LENGTH.unpack_from(data, start)
    except struct.error as error:
        raise Damaged("it is cut off") from error
    start += STRING_LENGTH.size
    if not 0 < length <= MAX_STRING or start + length > REGIONS_OFFSET:
        raise Damaged("a name is garbage")
    return _text(data[start : start + length])


def _text(data: bytes) -> str:
    """Decode UTF-8 that may be cut off within its last character."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError as error:
        raise Damaged("a name is garbage") from error


def _seconds(value: float) -> float | None:
    if math.isnan(value):
        return None
    if not 0 <= value < _MAX_COUNT:
        raise Damaged("a time is garbage")
    return value


def _size(value: int) -> int | None:
    if value == UNKNOWN:
        return None
    if not -1 <= value < _MAX_COUNT:
        raise Damaged("a size is garbage")
    return value


def _count(value: int) -> int:
    if value >= _MAX_COUNT:
        raise Damaged("a figure is garbage")
    return value


def _flag(value: int) -> bool:
    if value > 1:
        raise Damaged("a figure is garbage")
    return value == 1
