"""Requests that wait for a connection, or did not get one."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from ...state.status import PoolStatus, Worker
from ..evidence import Evidence
from ..model import Finding, Level
from ..monitoring_plugin import State
from ..phrases import Bind, busiest, key_of, line_of, requests
from ..recent import LATELY_SECONDS, NOW_SECONDS, Figure, Recent, recent
from ..text import duration
from .pool_use import pools_of

# As many holders' lines are named.
_MAX_LINES: t.Final = 5

_Pools = Sequence[tuple[Worker, PoolStatus]]
_Figure = Callable[[PoolStatus], int]


def find_saturated(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds for which a thread has waited for long now."""
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
            f"{_is_used_up(each.bind, pools)}, {requests(number)}, the first for"
            f" {duration(wait)}{f'; {where}' if where else ''}",
        )


def _waited(pool: PoolStatus) -> float:
    return pool.oldest_wait_seconds or 0.0


def _is_used_up(bind: str, pools: _Pools) -> str:
    out = sum(pool.checked_out or 0 for _, pool in pools)
    limits = [pool.limit for _, pool in pools]
    of = f" of {sum(filter(None, limits))}" if all(limits) else ""
    pids = ", ".join(str(worker.pid) for worker, _ in pools)
    workers = "worker" if len(pools) == 1 else "workers"
    return f"pool {bind} of {workers} {pids} has {out}{of} out"


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


def _how_to_relieve(guarded: Bind, pools: _Pools) -> str:
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

    What was longer ago than a few minutes is no more than a hint.
    """
    for each in evidence.binds():
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if pool.timeouts
        ]
        if not pools:
            continue
        risen = _risen(evidence, each.bind, pools, _timeouts)
        level, lately = _judge_failures(evidence, each.bind, "timeouts")
        yield Finding(
            "critical" if risen else level,
            "timeouts",
            f"{_counted(pools, _timeouts)} of bind {each.bind!r} got no connection in"
            f" time since {_began(pools)}; {_lately(evidence, risen, lately)} (by"
            f" worker: {_by_worker(pools, _timeouts)})",
            _how_to_shorten(each, pools),
            "Each of them was a request that failed, after it had waited"
            f"{_so_long([pool.timeout_seconds or math.inf for _, pool in pools])} or"
            " was refused.",
            _failed_in_short(each.bind, lately, "got no connection in time", pools),
        )


def _judge_failures(
    evidence: Evidence, bind: str, figure: Figure
) -> tuple[Level, Recent]:
    """Judge what failed in the last minutes, and return it."""
    pools = [pool for _, pool in pools_of(evidence.workers, bind)]
    now = recent(pools, figure, NOW_SECONDS)
    if now.failed:
        return ("critical" if now.is_grave else "warning"), now
    lately = recent(pools, figure, LATELY_SECONDS)
    if lately.failed:
        return "warning", lately
    return "info", recent(pools, figure, 3600.0)


def _failed_in_short(bind: str, lately: Recent, what: str, pools: _Pools) -> str | None:
    if not lately.failed:
        return None
    where = busiest(each for _, pool in pools for each in pool.holders)
    return (
        f"{lately.failed} of {max(lately.asked, lately.failed)} checkouts of bind"
        f" {bind} {what} {lately.when()}{f'; {where}' if where else ''}"
    )


def find_unavailable(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds whose workers get no connection from the server, or got none.

    That is what the workers meet. This command may reach the server all the same, or
    not reach it where they do.
    """
    for each in evidence.binds():
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if not worker.stopped
        ]
        now = [pair for pair in pools if _is_in_vain(evidence, pair[1])]
        failed = [pair for pair in pools if pair[1].unavailable]
        if not now and not failed:
            continue
        risen = _risen(evidence, each.bind, failed, _unavailable)
        level, lately = _judge_failures(evidence, each.bind, "unavailable")
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
                f" {_lately(evidence, risen, lately)} (by worker:"
                f" {_by_worker(failed, _unavailable)})"
            )
        if risen or any(_is_felt(evidence, pool) for _, pool in now):
            level = "critical"
        yield Finding(
            level,
            "unavailable",
            ". ".join(texts),
            _remedy(now),
            "Each request that needs a new connection waits for it, keeps a thread of"
            " its worker meanwhile, and fails when the time is up."
            if not now or now[0][1].obstacle != "login"
            else "Each request that needs a new connection fails at once, with HTTP"
            " 500: a refused login is not tried again.",
            _obstacle_in_short(each.bind, now, lately)
            or _failed_in_short(each.bind, lately, "failed", failed),
        )


_OBSTACLES: t.Final = {
    "away": "its server does not answer",
    "full": "its server is full",
    "login": "its server refuses the login",
}


def _obstacle_in_short(bind: str, now: _Pools, lately: Recent) -> str | None:
    if not now:
        return None
    met = [pool for _, pool in now if pool.obstacle is not None]
    connecting = sum(pool.connecting or 0 for _, pool in now)
    first = max((pool.oldest_connect_seconds or 0.0 for _, pool in now), default=0.0)
    parts = []
    if met:
        since = max(pool.obstacle_seconds or 0.0 for pool in met)
        parts.append(
            f"bind {bind} gets no connection for {duration(since)}:"
            f" {_OBSTACLES[str(met[0].obstacle)]} ({met[0].url})"
        )
    elif connecting:
        parts.append(f"bind {bind} gets no connection ({now[0][1].url})")
    if connecting:
        threads = "1 request" if connecting == 1 else f"{connecting} requests"
        parts.append(f"{threads} in the middle of connecting for {duration(first)}")
    if lately.failed:
        asked = max(lately.asked, lately.failed)
        parts.append(f"{lately.failed} of {asked} checkouts failed {lately.when()}")
    waiting = sum(pool.waiting or 0 for _, pool in now)
    if waiting:
        parts.append(requests(waiting))
    return "; ".join(parts)


def _remedy(now: _Pools) -> str:
    if any(pool.obstacle == "login" for _, pool in now):
        return (
            "Compare user, password, host and database of the bind's URL with what the"
            " server allows; after a change of the password, restart the workers with"
            " the new one."
        )
    return (
        "See what else is found of the server; if it is well, look at what lies"
        " between: names, a firewall, a proxy. The app's log has each error."
    )


def _is_felt(evidence: Evidence, pool: PoolStatus) -> bool:
    """Tell whether anybody fails or waits because of it now: a pool that is at its
    user's limit may serve all.
    """
    if pool.obstacle in ("away", "login"):
        return True
    lately = recent([pool], "unavailable", NOW_SECONDS)
    return bool(lately.failed) or _connects_for_long(evidence, pool)


def _connects_for_long(evidence: Evidence, pool: PoolStatus) -> bool:
    limit = evidence.thresholds.wait_seconds.warning
    seconds = pool.oldest_connect_seconds or 0.0
    return bool(pool.connecting) and limit is not None and seconds > limit


def _is_in_vain(evidence: Evidence, pool: PoolStatus) -> bool:
    return pool.obstacle is not None or _connects_for_long(evidence, pool)


def _in_vain(worker: Worker, pool: PoolStatus) -> str:
    parts = []
    if pool.obstacle is not None:
        since = duration(pool.obstacle_seconds)
        parts.append(
            f"it has refused the login for {since}"
            if pool.obstacle == "login"
            else f"it has been {pool.obstacle} for {since}"
        )
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


def _lately(evidence: Evidence, risen: int, lately: Recent) -> str:
    """Say how many of them are new."""
    texts = []
    if lately.failed:
        texts.append(f"{lately.failed} of them {lately.when()}")
    if evidence.seconds:
        number = f"{risen} of them" if risen else "none"
        texts.append(f"{number} within {evidence.seconds:g} s")
    return ", ".join(texts) or "none within the last hour"


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


def _how_to_shorten(guarded: Bind, pools: _Pools) -> str:
    fix = "Give connections back sooner"
    holders = [each for _, pool in pools for each in pool.holders if each.endpoint]
    if holders:
        longest = max(holders, key=lambda holder: holder.held_seconds)
        fix += (
            f" (the longest is out for {longest.held_seconds:.1f} s now:"
            f" {line_of(longest)})"
        )
    pool = pools[0][1]
    if pool.limit is None:
        return fix + "."
    return (
        f"{fix}, or raise {key_of(guarded, 'pool_size')} (now {pool.size}) or"
        f" {key_of(guarded, 'max_overflow')} (now {pool.max_overflow})."
    )
