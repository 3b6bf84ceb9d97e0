"""Callers that wait for a connection, or have waited in vain."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ...engines import Guarded
from ..evidence import Evidence
from ..model import Finding, PoolStatus, Worker
from ..text import duration
from .figures import pools_of
from .wording import key_of, line_of

# A pool that is busy makes callers wait for milliseconds. From the first on it is in
# trouble; from the second on an outage, as for ``flask pool check``, unless callers
# give up sooner.
_WAIT_SECONDS: t.Final = 1.0
_OUTAGE_SECONDS: t.Final = 5.0
# As many holders' lines are named.
_MAX_LINES: t.Final = 5

_Pools = Sequence[tuple[Worker, PoolStatus]]


def find_saturated(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds of which somebody has waited for a connection for long now."""
    for each in evidence.engines:
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if pool.waiting and (pool.oldest_wait_seconds or 0.0) >= _WAIT_SECONDS
        ]
        if not pools:
            continue
        timeout = each.settings.pool_timeout.value
        wait = max(pool.oldest_wait_seconds or 0.0 for _, pool in pools)
        is_outage = wait >= min(_OUTAGE_SECONDS, timeout / 2)
        number = sum(pool.waiting or 0 for _, pool in pools)
        yield Finding(
            "critical" if is_outage else "warning",
            "saturated",
            f"{number} {'waits' if number == 1 else 'wait'} for a connection of bind"
            f" {each.bind!r}, the first for {duration(wait)}"
            f" ({'; '.join(_taken(*pair) for pair in pools)}). Those out are held by"
            f" {_holders([pool for _, pool in pools])}",
            _how_to_relieve(each, pools),
            f"Who has waited for {timeout:g} s fails, and until then keeps a thread of"
            " its worker from serving others.",
        )


def _taken(worker: Worker, pool: PoolStatus) -> str:
    limit = "" if pool.limit is None else f" of {pool.limit}"
    out = "?" if pool.checked_out is None else pool.checked_out
    return f"worker {worker.pid}: {pool.waiting} waiting, {out}{limit} out"


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


def _how_to_relieve(guarded: Guarded, pools: _Pools) -> str:
    if all(
        pool.checked_out is not None
        and pool.limit is not None
        and pool.checked_out < pool.limit
        for _, pool in pools
    ):
        return (
            "The pool may open more, but gets no connection from its server: see what"
            " else is found, and the app's log."
        )
    return _how_to_shorten(guarded, pools)


def find_timeouts(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds of which somebody waited for a connection in vain.

    What rises between two looks goes on now. What was long ago stays counted for as
    long as its worker lives, so it is no more than a hint.
    """
    for each in evidence.engines:
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if pool.timeouts
        ]
        if not pools:
            continue
        risen = _risen(evidence, each.bind, pools)
        now = f"{risen} of them within {evidence.seconds:g} s"
        if not risen:
            now = f"none within {evidence.seconds:g} s"
        if not evidence.seconds:
            now = "`flask pool doctor` says whether that goes on"
        yield Finding(
            "critical" if risen else "info",
            "timeouts",
            f"{_counted(pools)} of bind {each.bind!r} got no connection in time since"
            f" {_began(pools)}; {now} (by worker: {_by_worker(pools)})",
            _how_to_shorten(each, pools),
            "Each of them was a request that failed, after it had waited for"
            f" {each.settings.pool_timeout.value:g} s or was refused.",
        )


def _risen(evidence: Evidence, bind: str, pools: _Pools) -> int:
    """Count what came since the first look, of workers that began later as well."""
    if not evidence.seconds:
        return 0
    before = {
        (worker.host, worker.pid, worker.started_at): pool.timeouts or 0
        for worker, pool in pools_of(evidence.earlier_workers, bind)
    }
    return sum(
        max(
            (pool.timeouts or 0)
            - before.get((worker.host, worker.pid, worker.started_at), 0),
            0,
        )
        for worker, pool in pools
    )


def _counted(pools: _Pools) -> str:
    """Return how many got none, of how many that is known."""
    count = sum(pool.timeouts or 0 for _, pool in pools)
    served = [pool.checkouts for _, pool in pools if pool.checkouts is not None]
    if len(served) < len(pools):
        return f"{count} {'checkout' if count == 1 else 'checkouts'}"
    return f"{count} of {count + sum(served)} checkouts"


def _began(pools: _Pools) -> str:
    """Say how long the workers have counted."""
    first = min(datetime.fromisoformat(worker.started_at) for worker, _ in pools)
    ago = duration(max((datetime.now(UTC) - first).total_seconds(), 0.0))
    return f"{'the first' if len(pools) > 1 else 'its'} worker started {ago} ago"


def _by_worker(pools: _Pools) -> str:
    return ", ".join(f"{worker.pid}: {pool.timeouts}" for worker, pool in pools)


def _how_to_shorten(guarded: Guarded, pools: _Pools) -> str:
    fix = "Give connections back sooner"
    holders = [each for _, pool in pools for each in pool.holders if each.endpoint]
    if holders:
        longest = max(holders, key=lambda holder: holder.held_seconds)
        fix += (
            f" (the longest is out for {longest.held_seconds:.1f} s now:"
            f" {longest.endpoint} at {longest.site or 'an unknown line'})"
        )
    pool = pools[0][1]
    if pool.limit is None:
        return fix + "."
    return (
        f"{fix}, or raise {key_of(guarded, 'pool_size')} (now {pool.size}) or"
        f" {key_of(guarded, 'max_overflow')} (now {pool.max_overflow})."
    )
