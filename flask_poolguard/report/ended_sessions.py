"""Connections that are held although the server has ended their sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ..databases import IdleLimit, ServerView
from ..engines import Guarded
from ..state.status import Holder, PoolStatus, Worker
from .deployment import connections_of
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
    listed = view.session_ids
    if listed is None:
        return
    known = [
        (worker, number, connection)
        for worker, _, connection in connections_of([guarded], workers)
        if (number := connection.server_id) is not None
    ]
    missing = [each for each in known if each[1] not in listed]
    holders = [
        (worker, number, connection.held_seconds)
        for worker, number, connection in missing
        if isinstance(connection, Holder)
    ]
    is_sure = len(holders) == len(missing) and len(missing) * 2 < len(known)
    for worker, number, held in holders:
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
