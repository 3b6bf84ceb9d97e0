"""Connections that are held although the server has ended their sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ..databases import IdleLimit, ServerView
from ..engines import Guarded
from ..state.decoding import SlotState, cut
from ..state.reader import WorkerState
from .model import Holder, PoolStatus, Worker
from .servers import Answer

# One that was only just taken may be newer than the server's list.
_LEAST_SECONDS = 1.0

# Host, pid, bind and the server's number.
Key = tuple[str, int, str, int]


def find_ended(
    engines: Sequence[Guarded],
    answers: Mapping[str, Answer],
    states: Sequence[WorkerState],
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
            gone.update(_gone_of(each, view, states))
    return frozenset(gone)


def _gone_of(
    guarded: Guarded, view: ServerView, states: Sequence[WorkerState]
) -> Iterator[Key]:
    if view.session_ids is None:
        return
    slots = list(_slots(guarded, states))
    missing = [each for each in slots if each[1] not in view.session_ids]
    is_sure = len(missing) * 2 < len(slots) and all(slot.out for *_, slot in missing)
    for state, number, slot in missing:
        held = state.now - slot.since
        if not slot.out or held <= _LEAST_SECONDS:
            continue
        if is_sure or limit_over(view, held):
            yield state.header.host, state.header.pid, guarded.bind, number


def _slots(
    guarded: Guarded, states: Sequence[WorkerState]
) -> Iterator[tuple[WorkerState, int, SlotState]]:
    """Yield a bind's open connections whose number is known."""
    facts = guarded.tracker.facts
    for state in states:
        for pool in state.pools:
            if (pool.bind, pool.url) == (facts.bind, cut(facts.url)):
                for slot in pool.slots:
                    if slot.server_id is not None:
                        yield state, slot.server_id, slot


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
