"""Requests that wait for a connection, or did not get one."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Iterator, Sequence

from ...state.status import PoolStatus, Worker
from ..evidence import Evidence
from ..host_budget import holders_of, is_auto
from ..model import Finding
from ..monitoring_plugin import State
from ..phrases import (
    Bind,
    busiest,
    change_sizes,
    key_of,
    line_of,
    named_workers,
    requests,
)
from ..recent import LATELY_SECONDS, NOW_SECONDS, recent, waited
from ..text import duration
from .failures import (
    Pools,
    began,
    by_worker,
    count_timeouts,
    counted,
    in_short,
    judge_failures,
    lately_text,
    pools_with,
    risen_in,
    so_long,
)
from .pool_use import pools_of

# As many holders' lines are named.
_MAX_LINES: t.Final = 5


def find_saturated(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds for which a thread waits for long now, or did a while ago."""
    limits = evidence.thresholds.wait_seconds
    for each in evidence.binds():
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if pool.waiting
            and limits.judge(_waited(pool)) is not State.OK
            and not worker.stopped  # its figures are old
        ]
        if not pools:
            yield from _was_saturated(evidence, each)
            continue
        timeouts = [pool.timeout_seconds or math.inf for _, pool in pools]
        wait = max(pool.oldest_wait_seconds or 0.0 for _, pool in pools)
        is_outage = any(
            limits.judge(_waited(pool)) is State.CRITICAL
            or (limits.critical is not None and _waited(pool) >= timeout / 2)
            for (_, pool), timeout in zip(pools, timeouts, strict=True)
        )
        number = sum(pool.waiting or 0 for _, pool in pools)
        where = busiest(each for _, pool in pools for each in pool.holders)
        budget = _used_budget(evidence, each, pools, is_now=True)
        cause = (
            f"{budget}, {requests(number)} for pool {each.bind}"
            if budget
            else f"{_is_used_up(each.bind, pools)}, {requests(number)}"
        )
        yield Finding(
            "critical" if is_outage else "warning",
            "saturated",
            f"{number} {'waits' if number == 1 else 'wait'} for a connection of bind"
            f" {each.bind!r}, the first for {duration(wait)}"
            f" ({'; '.join(_taken(*pair) for pair in pools)})"
            f"{f'. {budget}' if budget else ''}{_held_by([pool for _, pool in pools])}",
            _how_to_relieve(evidence, each, pools),
            f"Who has waited{so_long(timeouts)} fails, and until then keeps a thread"
            " of its worker from serving others.",
            f"{cause}, the first for {duration(wait)}{f'; {where}' if where else ''}",
        )


def _was_saturated(evidence: Evidence, bind: Bind) -> Iterator[Finding]:
    """Yield that requests waited within the last minutes, though none does now.

    A long wait is worth a warning for a minute; later it is a hint. Those that waited
    in vain are a finding of their own.
    """
    pools = [
        (worker, pool)
        for worker, pool in pools_of(evidence.workers, bind.bind)
        if waited([pool], LATELY_SECONDS)
    ]
    found = waited([pool for _, pool in pools], LATELY_SECONDS)
    failed = recent((pool for _, pool in pools), "timed_out", LATELY_SECONDS).failed
    if found is None or failed:
        return
    now = waited([pool for _, pool in pools], NOW_SECONDS)
    longest_now = 0.0 if now is None else now.longest_seconds
    is_long = evidence.thresholds.wait_seconds.judge(longest_now) is not State.OK
    longest = duration(found.longest_seconds)
    workers = named_workers(worker.pid for worker, _ in pools)
    yield Finding(
        "warning" if is_long else "info",
        "saturated",
        f"Requests waited for a connection of bind {bind.bind!r} {found.when()}, the"
        f" longest for {longest}: {found.number} of {found.asked} checkouts of"
        f" {workers} found {_none_free(pools)}",
        _how_to_shorten(evidence, bind, pools),
        "So much longer these requests took. While they wait, they keep threads of"
        " their workers from serving others; from the pool's timeout on they fail.",
        f"requests waited for pool {bind.bind} of {workers} {found.when()}, the longest"
        f" for {longest}",
    )


def _none_free(pools: Pools) -> str:
    limits = sorted({pool.limit for _, pool in pools if pool.limit is not None})
    if not limits:
        return "no connection free"
    return f"none of {' or '.join(map(str, limits))} free"


def _waited(pool: PoolStatus) -> float:
    return pool.oldest_wait_seconds or 0.0


def _is_used_up(bind: str, pools: Pools) -> str:
    out = sum(pool.checked_out or 0 for _, pool in pools)
    limits = [pool.limit for _, pool in pools]
    of = f" of {sum(filter(None, limits))}" if all(limits) else ""
    workers = named_workers(worker.pid for worker, _ in pools)
    return f"pool {bind} of {workers} has {out}{of} out"


def _taken(worker: Worker, pool: PoolStatus) -> str:
    limit = "" if pool.limit is None else f" of {pool.limit}"
    out = "?" if pool.checked_out is None else pool.checked_out
    return f"worker {worker.pid}: {pool.waiting} waiting, {out}{limit} out"


def _held_by(pools: Sequence[PoolStatus]) -> str:
    if not any(pool.checked_out for pool in pools):
        return ""
    return f". Those out are held by {_holders(pools)}"


def _holders(pools: Sequence[PoolStatus]) -> str:
    """Name the lines that hold connections, those with the most first."""
    lines: dict[str, list[float]] = {}
    for pool in pools:
        for each in pool.holders:
            lines.setdefault(line_of(each), []).append(each.held_seconds)
    if not lines:
        return "lines that are not known"
    most = sorted(lines.items(), key=lambda each: (-len(each[1]), -max(each[1])))
    texts = [
        f"{line} ({len(held)}{', the longest' if len(held) > 1 else ''} for"
        f" {duration(max(held))})"
        for line, held in most[:_MAX_LINES]
    ]
    more = len(most) - _MAX_LINES
    return ", ".join(texts) + (f" and {more} lines more" if more > 0 else "")


def _used_budget(
    evidence: Evidence, bind: Bind, pools: Pools, *, is_now: bool = False
) -> str:
    """Return that the bind's budget is why its pools cannot open more, and who has it;
    "" if it is not, or no more.

    :param is_now: whether threads wait now; else the most that were ever out tells
        whether they waited for the pool's own sizes.
    """
    standing = evidence.budgets.get(bind.bind)
    if standing is None or not standing.is_used_up:
        return ""
    at_limit = [
        pool.limit is not None
        and ((pool.checked_out if is_now else pool.peak_checked_out) or 0) >= pool.limit
        for _, pool in pools
    ]
    if all(at_limit) if is_now else any(at_limit):
        return ""
    return (
        f"{key_of(bind, 'budget')} of {standing.limit} is used up"
        f" ({holders_of(standing)})"
    )


def _how_to_relieve(evidence: Evidence, guarded: Bind, pools: Pools) -> str:
    is_of_budget = bool(_used_budget(evidence, guarded, pools, is_now=True))
    if not is_of_budget and all(
        pool.checked_out is not None
        and pool.limit is not None
        and pool.checked_out < pool.limit
        for _, pool in pools
    ):
        return (
            "The pool may open more, but gets no connection from its server: see what"
            " else is found, and the app's log."
        )
    return _how_to_shorten(evidence, guarded, pools, is_of_budget=is_of_budget)


def find_timeouts(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds for which a thread waited in vain.

    What was longer ago than a few minutes is no more than a hint.
    """
    for each in evidence.binds():
        pools = pools_with(evidence, each.bind, count_timeouts)
        if not pools:
            continue
        risen = risen_in(evidence, pools, count_timeouts)
        level, lately = judge_failures(pools, "timed_out")
        yield Finding(
            "critical" if risen else level,
            "timeouts",
            f"{counted(pools, count_timeouts)} of bind {each.bind!r} got no connection"
            f" in time since {began(pools)}; {lately_text(evidence, risen, lately)} (by"
            f" worker: {by_worker(pools, count_timeouts)})",
            _how_to_shorten(evidence, each, pools),
            "Each of them was a request that failed, after it had waited"
            f"{so_long([pool.timeout_seconds or math.inf for _, pool in pools])} or"
            " was refused.",
            in_short(
                [each.bind],
                lately,
                f"got no connection in time{_in_short(evidence, each, pools)}",
                pools,
            ),
        )


def _in_short(evidence: Evidence, bind: Bind, pools: Pools) -> str:
    used = _used_budget(evidence, bind, pools)
    return f", as {used}," if used else ""


def _how_to_shorten(
    evidence: Evidence, guarded: Bind, pools: Pools, *, is_of_budget: bool = False
) -> str:
    fix = "Give connections back sooner"
    holders = [each for _, pool in pools for each in pool.holders if each.endpoint]
    if holders:
        longest = max(holders, key=lambda holder: holder.held_seconds)
        fix += (
            f" (the longest is out for {longest.held_seconds:.1f} s now:"
            f" {line_of(longest)})"
        )
    pool = pools[0][1]
    standing = evidence.budgets.get(guarded.bind)
    if standing is not None and (
        is_of_budget or _used_budget(evidence, guarded, pools)
    ):
        if is_auto(guarded.guarded):
            return (
                f"{fix}, or raise the server's limit, from which"
                f" {key_of(guarded, 'budget')} follows (now {standing.limit}): the"
                " pools had fewer than their sizes allow."
            )
        return (
            f"{fix}, or raise {key_of(guarded, 'budget')} (now {standing.limit}) if the"
            " server bears it: the pools had fewer than their sizes allow."
        )
    if pool.limit is None:
        return fix + "."
    too = ""
    if standing is not None and standing.is_used_up:
        too = f", and {key_of(guarded, 'budget')} (now {standing.limit}) too"
    sizes = (
        f"{key_of(guarded, 'pool_size')} (now {pool.size}) or"
        f" {key_of(guarded, 'max_overflow')} (now {pool.max_overflow}){too}"
    )
    return f"{fix}, or {change_sizes(guarded, 'raise', sizes)}."
