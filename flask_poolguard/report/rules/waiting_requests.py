"""Requests that wait for a connection, or did not get one."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from ...engines import Guarded
from ...state.status import PoolStatus, Worker
from ..evidence import Evidence
from ..model import Finding
from ..phrases import key_of, line_of
from ..text import duration
from .pool_use import pools_of

# A pool that is busy makes callers wait for milliseconds. From the first on it is in
# trouble; from the second on an outage, as for ``flask pool check``, unless callers
# give up sooner.
_WAIT_SECONDS: t.Final = 1.0
_OUTAGE_SECONDS: t.Final = 5.0
# As many holders' lines are named.
_MAX_LINES: t.Final = 5

_Pools = Sequence[tuple[Worker, PoolStatus]]
_Figure = Callable[[PoolStatus], int]


def find_saturated(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds for which a thread has waited for long now."""
    for each in evidence.engines:
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if pool.waiting
            and (pool.oldest_wait_seconds or 0.0) >= _WAIT_SECONDS
            and not worker.stopped  # its figures are old
        ]
        if not pools:
            continue
        timeouts = [pool.timeout_seconds or math.inf for _, pool in pools]
        wait = max(pool.oldest_wait_seconds or 0.0 for _, pool in pools)
        is_outage = any(
            (pool.oldest_wait_seconds or 0.0) >= min(_OUTAGE_SECONDS, timeout / 2)
            for (_, pool), timeout in zip(pools, timeouts, strict=True)
        )
        number = sum(pool.waiting or 0 for _, pool in pools)
        yield Finding(
            "critical" if is_outage else "warning",
            "saturated",
            f"{number} {'waits' if number == 1 else 'wait'} for a connection of bind"
            f" {each.bind!r}, the first for {duration(wait)}"
            f" ({'; '.join(_taken(*pair) for pair in pools)})"
            f"{_held_by([pool for _, pool in pools])}",
            _how_to_relieve(each, pools),
            f"Who has waited{_so_long(timeouts)} fails, and until then keeps a thread"
            " of its worker from serving others.",
        )


def _taken(worker: Worker, pool: PoolStatus) -> str:
    limit = "" if pool.limit is None else f" of {pool.limit}"
    out = "?" if pool.checked_out is None else pool.checked_out
    return f"worker {worker.pid}: {pool.waiting} waiting, {out}{limit} out"


def _so_long(timeouts: Sequence[float]) -> str:
    """Return how long the workers wait, by their own settings."""
    known = sorted({each for each in timeouts if each < math.inf})
    if not known:
        return " for as long as it may"
    longest = f" to {known[-1]:g}" if len(known) > 1 else ""
    return f" for {known[0]:g}{longest} s"


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
    """Yield the binds for which a thread waited in vain.

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
        risen = _risen(evidence, each.bind, pools, _timeouts)
        yield Finding(
            "critical" if risen else "info",
            "timeouts",
            f"{_counted(pools, _timeouts)} of bind {each.bind!r} got no connection in"
            f" time since {_began(pools)}; {_lately(evidence, risen)} (by worker:"
            f" {_by_worker(pools, _timeouts)})",
            _how_to_shorten(each, pools),
            "Each of them was a request that failed, after it had waited"
            f"{_so_long([pool.timeout_seconds or math.inf for _, pool in pools])} or"
            " was refused.",
        )


def find_unavailable(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds whose workers get no connection from the server, or got none.

    That is what the workers meet. This command may reach the server all the same, or
    not reach it where they do.
    """
    for each in evidence.engines:
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if not worker.stopped
        ]
        now = [pair for pair in pools if _is_in_vain(pair[1])]
        failed = [pair for pair in pools if pair[1].unavailable]
        if not now and not failed:
            continue
        risen = _risen(evidence, each.bind, failed, _unavailable)
        texts = []
        if now:
            seen = "; ".join(_in_vain(*pair) for pair in now)
            texts.append(
                f"Bind {each.bind!r} gets no connection from its server: {seen}"
            )
        if failed:
            texts.append(
                f"{_counted(failed, _unavailable)} of bind {each.bind!r} failed since"
                f" {_began(failed)}, because the server gave no connection;"
                f" {_lately(evidence, risen)} (by worker:"
                f" {_by_worker(failed, _unavailable)})"
            )
        yield Finding(
            "critical" if now or risen else "info",
            "unavailable",
            ". ".join(texts),
            "See what else is found of the server; if it is well, look at what lies"
            " between: names, a firewall, a proxy. The app's log has each error.",
            "Each request that needs a new connection waits for it, keeps a thread of"
            " its worker meanwhile, and fails when the time is up.",
        )


def _is_in_vain(pool: PoolStatus) -> bool:
    return pool.obstacle is not None or (
        bool(pool.connecting) and (pool.oldest_connect_seconds or 0.0) >= _WAIT_SECONDS
    )


def _in_vain(worker: Worker, pool: PoolStatus) -> str:
    parts = []
    if pool.obstacle is not None:
        what = "full" if pool.obstacle == "full" else "away"
        parts.append(f"it has been {what} for {duration(pool.obstacle_seconds)}")
    if pool.connecting:
        threads = "thread waits" if pool.connecting == 1 else "threads wait"
        parts.append(
            f"{pool.connecting} {threads}, the first for"
            f" {duration(pool.oldest_connect_seconds)}"
        )
    return f"worker {worker.pid}: {', '.join(parts)}"


def _timeouts(pool: PoolStatus) -> int:
    return pool.timeouts or 0


def _unavailable(pool: PoolStatus) -> int:
    return pool.unavailable or 0


def _lately(evidence: Evidence, risen: int) -> str:
    """Say how many of them are new."""
    if not evidence.seconds:
        return "`flask pool doctor` says whether that goes on"
    number = f"{risen} of them" if risen else "none"
    return f"{number} within {evidence.seconds:g} s"


def _risen(evidence: Evidence, bind: str, pools: _Pools, figure: _Figure) -> int:
    """Count what came since the first look, of workers that began later as well."""
    if not evidence.seconds:
        return 0
    before = {
        (worker.host, worker.pid, worker.started_at): figure(pool)
        for worker, pool in pools_of(evidence.earlier_workers, bind)
    }
    return sum(
        max(
            figure(pool) - before.get((worker.host, worker.pid, worker.started_at), 0),
            0,
        )
        for worker, pool in pools
    )


def _counted(pools: _Pools, figure: _Figure) -> str:
    """Return how many got none, of how many that is known."""
    count = sum(figure(pool) for _, pool in pools)
    served = [pool.checkouts for _, pool in pools if pool.checkouts is not None]
    if len(served) < len(pools):
        return f"{count} {'checkout' if count == 1 else 'checkouts'}"
    return f"{count} of {count + sum(served)} checkouts"


def _began(pools: _Pools) -> str:
    """Say how long the workers have counted."""
    first = min(datetime.fromisoformat(worker.started_at) for worker, _ in pools)
    ago = duration(max((datetime.now(UTC) - first).total_seconds(), 0.0))
    return f"{'the first' if len(pools) > 1 else 'its'} worker started {ago} ago"


def _by_worker(pools: _Pools, figure: _Figure) -> str:
    return ", ".join(f"{worker.pid}: {figure(pool)}" for worker, pool in pools)


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
