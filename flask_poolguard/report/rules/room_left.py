"""Whether server, user and database have room for what the workers may open."""

from __future__ import annotations

import typing as t
from collections import Counter
from collections.abc import Iterator

from ..evidence import Evidence
from ..model import Finding
from ..phrases import key_of, workers
from .connection_limits import Counts, Room, rooms

# As many users are named at most.
_MAX_USERS: t.Final = 3


def find_overbooking(evidence: Evidence) -> Iterator[Finding]:
    """Yield what allows fewer connections than the workers may open.

    Behind a pooler the server's limits do not bound the workers' connections.
    """
    for room in rooms(evidence):
        pools = Counter(_pools(evidence, room.counts))
        others = room.others(not evidence.plan.is_none)
        left = room.limit - (others or 0)
        is_unlimited = any(limit is None for _, limit in pools)
        total = sum(count * (limit or 0) for (_, limit), count in pools.items())
        if not room.place.view.is_proxied and (is_unlimited or total > left):
            yield _overbooked(evidence, room, pools, others, left)


def find_full(evidence: Evidence) -> Iterator[Finding]:
    """Yield what has hardly any connection left, unless nobody needs another one."""
    for room in rooms(evidence):
        if not room.is_nearly_full:
            continue
        if not _is_enough(evidence, room):
            yield _running_out(room)
        elif room.others(is_planned=False):
            yield _shared(room, _still_to_open(evidence, room))


def _running_out(room: Room) -> Finding:
    return Finding(
        "critical",
        "full",
        f"{_in_use(room)}{_users(room)}",
        "End the sessions that nobody needs, lower"
        f" {key_of(room.guarded, 'pool_size')} and"
        f" {key_of(room.guarded, 'max_overflow')}, or raise {room.remedy}.",
        "Once the last one is taken, every new connection is refused, and the requests"
        " that need one fail.",
    )


def _shared(room: Room, wanted: int | None) -> Finding:
    return Finding(
        "warning",
        "full",
        f"{_in_use(room)}, which may open {wanted or 'no'} more{_users(room)}",
        f"End the sessions that nobody needs, or raise {room.remedy}.",
        "There is room for that, until others take it: then a connection that has to"
        " be replaced or opened is refused, and the requests that need it fail.",
    )


def _in_use(room: Room) -> str:
    if room.ours is None:
        ours = "how many of them this app's workers have is unknown"
    else:
        ours = f"{room.ours} of them by this app's workers on this host"
    return (
        f"{room.name[0].upper()}{room.name[1:]} has {room.used} of {room.terms}"
        f" connections in use, {ours}"
    )


def _is_enough(evidence: Evidence, room: Room) -> bool:
    """Tell whether what is left is known to suffice for the workers on this host."""
    wanted = _still_to_open(evidence, room)
    if wanted is None or room.used is None:
        return False
    return wanted <= room.limit - room.used


def _still_to_open(evidence: Evidence, room: Room) -> int | None:
    """Return how many more connections the workers' pools may open; None is unknown,
    without a limit, or where no worker is known to use the room.
    """
    limits = [
        pool.limit
        for worker in evidence.workers
        for pool in worker.pools
        if room.counts(pool.bind, pool.url)
    ]
    if not limits or None in limits or room.ours is None:
        return None
    return max(sum(limit or 0 for limit in limits) - room.ours, 0)


def describe_plan(evidence: Evidence, bind: str) -> str:
    """Return how many connections of a bind the workers, or those planned, may open."""
    pools = Counter(_pools(evidence, lambda name, _: name == bind))
    return f"{workers(_number_of_workers(evidence))} may open {_terms(pools)}"


def _terms(pools: Counter[tuple[str, int | None]]) -> str:
    """Return a sum of connections, and what it is made of."""
    total = sum(count * (limit or 0) for (_, limit), count in pools.items())
    is_unlimited = any(limit is None for _, limit in pools)
    terms = " + ".join(
        f"{count} × {'unlimited' if limit is None else limit} ({bind})"
        for (bind, limit), count in pools.items()
    )
    number = "any number of" if is_unlimited else total
    return f"{number} connections{f': {terms}' if terms else ''}"


def _overbooked(
    evidence: Evidence,
    room: Room,
    pools: Counter[tuple[str, int | None]],
    others: int | None,
    left: int,
) -> Finding:
    number = _number_of_workers(evidence)
    used = "" if not others else f", of which others use {others} now"
    fails_soon = room.is_nearly_full and not _is_enough(evidence, room)
    return Finding(
        "critical" if fails_soon else "warning",
        "budget",
        f"{workers(number)} may open {_terms(pools)}; {room.name} allows"
        f" {room.terms}{used}",
        _how_to_fit(room, left, number),
        "When the workers need them all, the server refuses connections, to this app"
        " and to everybody else: requests wait for one of their own worker's, or fail.",
    )


def _how_to_fit(room: Room, left: int, number: int) -> str:
    share = left // max(number, 1)
    if share < 1:
        return (
            f"Start {max(left, 0)} workers at most, free connections that others use,"
            f" or raise {room.remedy}: there is not one for each worker."
        )
    return (
        f"Lower {key_of(room.guarded, 'pool_size')} or"
        f" {key_of(room.guarded, 'max_overflow')} so that a worker's pools have {share}"
        f" at most, start fewer workers, or raise {room.remedy}."
    )


def _number_of_workers(evidence: Evidence) -> int:
    plan = evidence.plan
    of_one_host = len(evidence.workers) if plan.workers is None else plan.workers
    return of_one_host * plan.hosts


def _pools(evidence: Evidence, counts: Counts) -> Iterator[tuple[str, int | None]]:
    """Yield bind and limit of each pool that counts; None stands for no limit.

    Pools of which the limit is unknown are left out.
    """
    plan = evidence.plan
    if plan.workers is None:
        for worker in evidence.workers:
            for pool in worker.pools:
                if counts(pool.bind, pool.url) and (pool.limit or pool.is_unlimited):
                    yield from [(pool.bind, pool.limit)] * plan.hosts
        return
    for each in evidence.engines:
        facts = each.tracker.facts
        if facts.size is None or facts.max_overflow is None:
            continue
        if counts(each.bind, facts.url):
            is_unlimited = facts.size == 0 or facts.max_overflow < 0
            limit = None if is_unlimited else facts.size + facts.max_overflow
            yield from [(each.bind, limit)] * _number_of_workers(evidence)


def _users(room: Room) -> str:
    """Return who has the most; nothing where the server does not show everybody, or
    the room is one user's.
    """
    if not room.sessions or room.used is None or len(room.sessions) < room.used:
        return ""
    users = Counter(each.user or "unknown" for each in room.sessions)
    most = ", ".join(f"{user} {count}" for user, count in users.most_common(_MAX_USERS))
    return f" (by user, most first: {most})"
