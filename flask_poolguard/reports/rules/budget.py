"""Whether a server, user or database has room for what the workers may open."""

from __future__ import annotations

import typing as t
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.engine import make_url

from ...databases import ConnectionLimit, ServerView
from ...engines import Guarded
from ...urls import server_key
from ..evidence import Evidence, Place
from ..model import Finding
from .wording import key_of, workers

# From here on a server counts as full: what is left is gone with the next burst.
NEARLY_FULL: t.Final = 0.9
# As many users are named at most.
_MAX_USERS: t.Final = 3

# Tells by bind and URL whether a pool's connections count.
_Counts = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class _Room:
    """What limits a number of connections.

    :ivar name: of what has the limit, for a sentence.
    :ivar limit: how many connections this app's user may have there.
    :ivar terms: the limit in words.
    :ivar used: by everybody, now; None is unknown.
    :ivar ours: of these, in the pools of the live workers; None is unknown.
    :ivar guarded: one of the binds that lead there.
    """

    name: str
    limit: int
    terms: str
    used: int | None
    ours: int | None
    same_user: int | None
    remedy: str
    place: Place
    guarded: Guarded
    counts: _Counts

    @property
    def is_nearly_full(self) -> bool:
        return self.used is not None and self.used >= self.limit * NEARLY_FULL

    def others(self, is_planned: bool) -> int | None:
        """Return how many connections others use now; None is unknown.

        In a plan all of this user's count as the app's: there they may be those of
        workers on other hosts.
        """
        own = self.same_user if is_planned else self.ours
        if self.used is None or own is None:
            return None
        return max(self.used - own, 0)


def find_overbooking(evidence: Evidence) -> Iterator[Finding]:
    """Yield what allows fewer connections than the workers may open.

    Behind a pooler the server's limits do not bound the workers' connections.
    """
    for room in _rooms(evidence):
        pools = Counter(_pools(evidence, room.counts))
        others = room.others(not evidence.plan.is_none)
        left = room.limit - (others or 0)
        is_unlimited = any(limit is None for _, limit in pools)
        total = sum(count * (limit or 0) for (_, limit), count in pools.items())
        if not room.place.view.is_proxied and (is_unlimited or total > left):
            yield _overbooked(evidence, room, pools, others, left)


def find_full(evidence: Evidence) -> Iterator[Finding]:
    """Yield what has hardly any connection left."""
    for room in _rooms(evidence):
        if room.is_nearly_full:
            if room.ours is None:
                ours = "how many of them this app's workers have is unknown"
            else:
                ours = f"{room.ours} of them by this app's workers on this host"
            yield Finding(
                "critical",
                "full",
                f"{room.name} has {room.used} of {room.terms} connections in use,"
                f" {ours}{_users(room)}",
                "End the sessions that nobody needs, lower"
                f" {key_of(room.guarded, 'pool_size')} and"
                f" {key_of(room.guarded, 'max_overflow')}, or raise {room.remedy}.",
                "Once the last one is taken, every new connection is refused, and the"
                " requests that need one fail.",
            )


def _overbooked(
    evidence: Evidence,
    room: _Room,
    pools: Counter[tuple[str, int | None]],
    others: int | None,
    left: int,
) -> Finding:
    number = _number_of_workers(evidence)
    is_unlimited = any(limit is None for _, limit in pools)
    total = sum(count * (limit or 0) for (_, limit), count in pools.items())
    terms = " + ".join(
        f"{count} × {'unlimited' if limit is None else limit} ({bind})"
        for (bind, limit), count in pools.items()
    )
    used = "" if not others else f", of which others use {others} now"
    return Finding(
        "critical" if room.is_nearly_full else "warning",
        "budget",
        f"{workers(number)} may open {'any number of' if is_unlimited else total}"
        f" connections: {terms}; {room.name} allows {room.terms}{used}",
        _how_to_fit(room, left, number),
        "When the workers need them all, the server refuses connections, to this app"
        " and to everybody else: requests wait for one of their own worker's, or fail.",
    )


def _how_to_fit(room: _Room, left: int, number: int) -> str:
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


def _pools(evidence: Evidence, counts: _Counts) -> Iterator[tuple[str, int | None]]:
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
        facts = each.ledger.facts
        if facts.size is None or facts.max_overflow is None:
            continue
        if counts(each.bind, facts.url):
            is_unlimited = facts.size == 0 or facts.max_overflow < 0
            limit = None if is_unlimited else facts.size + facts.max_overflow
            yield from [(each.bind, limit)] * _number_of_workers(evidence)


def _rooms(evidence: Evidence) -> Iterator[_Room]:
    for place in evidence.places():
        if place.view.max_connections is not None:
            yield _of_server(evidence, place, place.view.max_connections)
        seen = set()
        for guarded in place.binds:
            view = evidence.view(guarded)
            for limit in () if view is None else view.limits:
                if limit.limit > 0 and (limit.scope, limit.name) not in seen:
                    seen.add((limit.scope, limit.name))
                    yield _of_limit(evidence, place, guarded, limit)


def _of_server(evidence: Evidence, place: Place, maximum: int) -> _Room:
    view = place.view
    usable, terms = maximum, str(maximum)
    if view.reserved and view.reserved < maximum:
        usable = maximum - view.reserved
        terms = f"{usable} ({maximum} less {view.reserved} reserved)"
    counts = _at(place)
    return _Room(
        name=f"the server {place.name}",
        limit=usable,
        terms=terms,
        used=view.connections,
        ours=_ours(evidence, view, counts),
        same_user=_same_user(view, lambda database: True),
        remedy="the server's max_connections",
        place=place,
        guarded=place.binds[0],
        counts=counts,
    )


def _of_limit(
    evidence: Evidence, place: Place, guarded: Guarded, limit: ConnectionLimit
) -> _Room:
    view = t.cast(ServerView, evidence.view(guarded))
    is_of_user = limit.scope == "user"
    at_place = _at(place)

    def counts(bind: str, url: str) -> bool:
        if not at_place(bind, url):
            return False
        parsed = make_url(url)
        return limit.name == (parsed.username if is_of_user else parsed.database)

    return _Room(
        name=f"{limit.scope} {limit.name} at {place.name}",
        limit=limit.limit,
        terms=str(limit.limit),
        used=limit.used,
        ours=_ours(evidence, view, counts),
        same_user=_same_user(
            view, lambda database: is_of_user or database == limit.name
        ),
        remedy=limit.remedy,
        place=place,
        guarded=guarded,
        counts=counts,
    )


def _at(place: Place) -> _Counts:
    binds = {each.bind for each in place.binds}
    if place.key is None:
        return lambda bind, url: bind in binds
    return lambda bind, url: server_key(url) == place.key


def _ours(evidence: Evidence, view: ServerView, counts: _Counts) -> int | None:
    """Count the workers' sessions; unknown where the server knows none of them."""
    pools = [each for each in evidence.pool_states() if counts(each.bind, each.url)]
    ids = evidence.our_ids(pools)
    if ids is None or view.session_ids is None:
        return None
    count = len(ids & view.session_ids)
    return count if count or not ids else None


def _same_user(
    view: ServerView, is_counted: Callable[[str | None], bool]
) -> int | None:
    if view.sessions is None or view.user is None:
        return None
    return sum(
        each.user == view.user and is_counted(each.database) for each in view.sessions
    )


def _users(room: _Room) -> str:
    """Return who has the most; nothing where the server does not show everybody."""
    sessions = room.place.view.sessions or ()
    if room.used is None or len(sessions) < room.used:
        return ""
    users = Counter(each.user or "unknown" for each in sessions)
    most = ", ".join(f"{user} {count}" for user, count in users.most_common(_MAX_USERS))
    return f" (by user, most first: {most})"
