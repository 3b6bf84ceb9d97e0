"""Deadlocks between requests, and the list of holders in a timeout's message."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable, Mapping, Sequence

from ..errors import PoolDeadlock
from .checkout import Checkout, PoolCheckouts
from .claims import ScopeClaim
from .thread_stacks import describe_activities, describe_site

if t.TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

_monotonic = time.monotonic

# As many holders are named in an error.
_NAMED: t.Final = 50


def find_deadlock(
    pool: PoolCheckouts,
    claim: ScopeClaim,
    waiting: Callable[[], Sequence[ScopeClaim]],
    opened: int,
    owns: Callable[[ConnectionPoolEntry], bool],
) -> tuple[ScopeClaim, PoolDeadlock] | None:
    """Return which thread is to give way, and its error, if no holder can go on.

    Only a thread that holds a connection can complete a deadlock by waiting, so all
    others are done here at once.
    """
    if not claim.may_block(pool):
        return None
    out = [each for each in list(pool.out.values()) if owns(each.record)]
    if len(out) < opened or not any(map(claim.blocks, out)):
        return None
    # By identity: a reference to a thread that has ended may have no hash.
    by_mark = {id(each.mark): each for each in waiting()}
    held: dict[ScopeClaim, list[Checkout]] = {}
    for checkout in out:
        waiter = by_mark.get(id(checkout.mark))
        if waiter is None or not waiter.blocks(checkout):
            return None
        if pool.out.get(checkout.record) is not checkout:
            return None  # it came back before its thread began to wait
        held.setdefault(waiter, []).append(checkout)
    youngest = max(held, key=lambda each: (each.began_at, each.asked_at))
    return youngest, PoolDeadlock(
        _describe_deadlock(pool, held, youngest, opened), code="3o7r"
    )


def _describe_deadlock(
    pool: PoolCheckouts,
    held: Mapping[ScopeClaim, Sequence[Checkout]],
    youngest: ScopeClaim,
    opened: int,
) -> str:
    lines = []
    for claim in sorted(held, key=lambda each: each.asked_at):
        sites = ", ".join(dict.fromkeys(each.site() for each in held[claim]))
        asks = describe_site(claim.mark(), pool.info.root_path)
        gives_way = " (the youngest: it gives way)" if claim is youngest else ""
        lines.append(
            f"  {claim.endpoint} has {len(held[claim])}, taken at {sites}, and asks for"
            f" one more at {asks}{gives_way}"
        )
    threads = len(held)
    each = max(map(len, held.values())) + 1
    return (
        f"Deadlock: all {opened} connections of bind {pool.info.facts.bind!r} are held"
        " by threads that wait for one more:\n" + "\n".join(lines) + "\n"
        "Give the first one back before taking the second, or use the same for both."
        f" Where that cannot be, {threads} threads with {each} connections each need"
        f" {threads} × ({each} - 1) + 1 = {threads * (each - 1) + 1} connections"
        " (POOLGUARD_POOL_SIZE + POOLGUARD_MAX_OVERFLOW); count all threads of the"
        " worker that may do this."
    )


def describe_holders(pool: PoolCheckouts, states: Mapping[int, str]) -> str:
    """Return one line per connection that is out, longest first, or nothing.

    :param states: what the server said that its sessions do, by its own number.
    """
    now = _monotonic()
    # Not its items(): they make tuples, which may start a garbage collection, and that
    # may give a connection back meanwhile (CPython < 3.12).
    out = sorted(pool.out.values(), key=lambda each: each.taken_at)
    lines, marks = [], [each.mark() for each in out[:_NAMED]]
    activities = describe_activities(marks, pool.info.root_path)
    for checkout, mark, activity in zip(out, marks, activities, strict=False):
        server_id = pool.info.database.server_id(checkout.record.dbapi_connection)
        state = None if server_id is None else states.get(server_id)
        name = "" if mark is None else f", thread {mark.name.decode(errors='replace')}"
        lines.append(
            f"  {now - checkout.taken_at:.1f} s  {checkout.endpoint} at"
            f" {checkout.site()}"
            f"{name}"
            + (f", now at {activity}" if activity else "")
            + (f"; the server says: {state}" if state else "")
        )
    if len(out) > _NAMED:
        lines.append(f"  and {len(out) - _NAMED} more")
    if not lines:
        return ""
    return f". Connections of bind {pool.info.facts.bind!r} are held by:\n" + "\n".join(
        lines
    )
