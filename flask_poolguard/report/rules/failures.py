"""Checkouts that failed: how many, when, and how bad that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ...state.status import PoolStatus, Worker
from ..evidence import Evidence
from ..model import Level
from ..phrases import busiest, listed
from ..recent import LATELY_SECONDS, NOW_SECONDS, Figure, Recent, recent
from ..text import duration
from .pool_use import pools_of

Pools = Sequence[tuple[Worker, PoolStatus]]
_Figure = Callable[[PoolStatus], int]


def judge_failures(pools: Pools, figure: Figure) -> tuple[Level, Recent]:
    """Judge what failed in the last minutes, and return it."""
    found = [pool for _, pool in pools]
    now = recent(found, figure, NOW_SECONDS)
    if now.failed:
        return ("critical" if now.is_grave else "warning"), now
    lately = recent(found, figure, LATELY_SECONDS)
    if lately.failed:
        return "warning", lately
    return "info", recent(found, figure, 3600.0)


def in_short(
    binds: Sequence[str], lately: Recent, what: str, pools: Pools
) -> str | None:
    if not lately.failed:
        return None
    where = busiest(each for _, pool in pools for each in pool.holders)
    return (
        f"{lately.failed} of {max(lately.asked, lately.failed)} checkouts of"
        f" {'bind' if len(binds) == 1 else 'binds'} {listed(binds)} {what}"
        f" {lately.when()}{f'; {where}' if where else ''}"
    )


def pools_with(evidence: Evidence, bind: str, figure: _Figure) -> Pools:
    """Return the pools of a bind for which a figure is not 0."""
    return [
        (worker, pool)
        for worker, pool in pools_of(evidence.workers, bind)
        if figure(pool)
    ]


def count_timeouts(pool: PoolStatus) -> int:
    return pool.timed_out


def count_unavailable(pool: PoolStatus) -> int:
    return pool.unavailable or 0


def lately_text(evidence: Evidence, risen: int, lately: Recent) -> str:
    """Say how many of them are new."""
    texts = []
    if lately.failed:
        texts.append(f"{lately.failed} of them {lately.when()}")
    if evidence.seconds:
        number = f"{risen} of them" if risen else "none"
        texts.append(f"{number} within {evidence.seconds:g} s")
    return ", ".join(texts) or "none within the last hour"


def risen_in(evidence: Evidence, pools: Pools, figure: _Figure) -> int:
    """Count what came since the first look, of workers that began later as well."""
    if not evidence.seconds:
        return 0
    before = {
        _identity(worker, pool): figure(pool)
        for worker in evidence.earlier_workers
        for pool in worker.pools
    }
    return sum(
        max(figure(pool) - before.get(_identity(worker, pool), 0), 0)
        for worker, pool in pools
    )


def _identity(worker: Worker, pool: PoolStatus) -> tuple[str | int, ...]:
    return (worker.host, worker.pid, worker.started_at, pool.bind)


def counted(pools: Pools, figure: _Figure) -> str:
    """Return how many got none, of how many that is known."""
    count = sum(figure(pool) for _, pool in pools)
    served = [pool.checkouts for _, pool in pools if pool.checkouts is not None]
    if len(served) < len(pools):
        return f"{count} {'checkout' if count == 1 else 'checkouts'}"
    return f"{count} of {count + sum(served)} checkouts"


def began(pools: Pools) -> str:
    """Say how long the workers have counted."""
    starts = {worker.pid: worker.started_at for worker, _ in pools}
    first = min(map(datetime.fromisoformat, starts.values()))
    ago = duration(max((datetime.now(UTC) - first).total_seconds(), 0.0))
    return f"{'the first' if len(starts) > 1 else 'its'} worker started {ago} ago"


def by_worker(pools: Pools, figure: _Figure) -> str:
    counts: Counter[int] = Counter()
    for worker, pool in pools:
        counts[worker.pid] += figure(pool)
    return ", ".join(f"{pid}: {count}" for pid, count in counts.items())


def so_long(timeouts: Sequence[float]) -> str:
    """Return how long the workers wait, by their own settings."""
    known = sorted({each for each in timeouts if each < math.inf})
    if not known:
        return " for as long as it may"
    longest = f" to {known[-1]:g}" if len(known) > 1 else ""
    return f" for {known[0]:g}{longest} s"
