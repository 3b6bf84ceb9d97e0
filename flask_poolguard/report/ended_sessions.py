"""Connections that are held although the server has ended their sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ..databases import IdleLimit, ServerView
from ..engines import Guarded
from ..state.status import Holder, PoolStatus, Worker
from .servers import Answer

# One that was only just taken may be newer than the server's list.
_LEAST_SECONDS = 1.0

# Host, pid, bind and the server's number.
Key = tuple[str, int, str, int]


def find_ended(
    engines: Sequence[Guarded],
    answers: Mapping[str, Answer],
    workers: Sequence[Worker],
) -> frozenset[Key]:
    """Return what is held in the workers' pools and missing at its server.

    Only where the server has the numbers that drivers are told. A balancer may have
    led this report to another server than the workers, so what no limit explains
    counts only if the server knows most of the others, and all that idle.
    """
    gone: set[Key] = set()
    for each in engines:
        view = answers[each.bind].view
        if view is not None and view.has_drivers_numbers:
            gone.update(_gone_of(each, view, workers))
    return frozenset(gone)


def _gone_of(
    guarded: Guarded, view: ServerView, workers: Sequence[Worker]
) -> Iterator[Key]:
    listed, facts = view.session_ids, guarded.tracker.facts
    if listed is None:
        return
    total, missing_idle = 0, 0
    missing: list[tuple[Worker, int, float]] = []
    for worker in workers:
        for pool in worker.pools:
            if (pool.bind, pool.url) != (facts.bind, facts.url):
                continue
            idle = [each.server_id for each in pool.idle_connections]
            total += sum(each is not None for each in idle)
            missing_idle += len({*idle} - listed - {None})
            for holder in pool.holders:
                if holder.server_id is not None:
                    total += 1
                    if holder.server_id not in listed:
                        missing.append((worker, holder.server_id, holder.held_seconds))
    is_sure = not missing_idle and len(missing) * 2 < total
    for worker, number, held in missing:
        if held > _LEAST_SECONDS and (is_sure or limit_over(view, held)):
            yield worker.host, worker.pid, guarded.bind, number


def limit_over(view: ServerView, held_seconds: float) -> IdleLimit | None:
    """Return the shortest limit for idle sessions that a connection may have met while
    it was held.
    """
    limits = [view.idle_limit, view.idle_in_transaction_limit]
    over = [
        (limit.seconds, limit)
        for limit in limits
        if limit and limit.seconds is not None and limit.seconds <= held_seconds
    ]
    return min(over, key=lambda each: each[0])[1] if over else None


def mark_ended(workers: Sequence[Worker], gone: frozenset[Key]) -> tuple[Worker, ...]:
    """Return workers whose holders say so if their session is gone."""
    if not gone:
        return tuple(workers)
    return tuple(
        dataclasses.replace(
            worker, pools=tuple(_mark(worker, pool, gone) for pool in worker.pools)
        )
        for worker in workers
    )


def _mark(worker: Worker, pool: PoolStatus, gone: frozenset[Key]) -> PoolStatus:
    def is_gone(holder: Holder) -> bool:
        key = (worker.host, worker.pid, pool.bind, holder.server_id)
        return key in gone

    holders = (
        dataclasses.replace(each, gone=True) if is_gone(each) else each
        for each in pool.holders
    )
    return dataclasses.replace(pool, holders=tuple(holders))
