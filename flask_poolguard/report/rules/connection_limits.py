"""The limits on a number of connections: of server, user and database."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import URL, make_url

from ...databases import ConnectionLimit, ServerSession, ServerView
from ...engines import Guarded
from ...urls import server_key
from ..evidence import Evidence, Place
from ..session_counts import count_ours

# From here on a server counts as full: what is left is gone with the next burst.
NEARLY_FULL: t.Final = 0.9

# Tells by bind and URL whether a pool's connections count.
Counts = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Room:
    """What limits a number of connections.

    :ivar name: of what has the limit, for a sentence.
    :ivar limit: how many connections this app's user may have there.
    :ivar terms: the limit in words.
    :ivar used: by everybody, now; None is unknown.
    :ivar ours: of these, in the pools of the live workers; None is unknown.
    :ivar sessions: those in use, as far as the server shows them, where they can be of
        several users.
    :ivar guarded: one of the binds that lead there.
    """

    name: str
    limit: int
    terms: str
    used: int | None
    ours: int | None
    same_user: int | None
    sessions: tuple[ServerSession, ...]
    remedy: str
    place: Place
    guarded: Guarded
    counts: Counts

    @property
    def is_nearly_full(self) -> bool:
        """Tell whether hardly a connection is left."""
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


def rooms(evidence: Evidence) -> Iterator[Room]:
    """Yield all that limits what this app's workers may open."""
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


def _of_server(evidence: Evidence, place: Place, maximum: int) -> Room:
    view = place.view
    usable, terms = maximum, str(maximum)
    if view.reserved and view.reserved < maximum:
        usable = maximum - view.reserved
        terms = f"{usable} ({maximum} less {view.reserved} reserved)"
    counts = _at(place)
    return Room(
        name=f"the server {place.name}",
        limit=usable,
        terms=terms,
        used=view.connections,
        ours=_ours(evidence, place, counts),
        same_user=_same_users(evidence, place.binds, lambda database: True),
        sessions=view.sessions or (),
        remedy="the server's max_connections",
        place=place,
        guarded=place.binds[0],
        counts=counts,
    )


def _of_limit(
    evidence: Evidence, place: Place, guarded: Guarded, limit: ConnectionLimit
) -> Room:
    view = t.cast(ServerView, evidence.view(guarded))
    is_of_user = limit.scope == "user"
    at_place = _at(place)

    def counts(bind: str, url: str) -> bool:
        if not at_place(bind, url):
            return False
        return limit.name == (_user_in(url) if is_of_user else _database_in(url))

    return Room(
        name=f"{limit.scope} {limit.name} at {place.name}",
        limit=limit.limit,
        terms=str(limit.limit),
        used=limit.used,
        ours=_ours(evidence, place, counts),
        same_user=_same_users(
            evidence,
            [guarded] if is_of_user else place.binds,
            lambda database: is_of_user or database == limit.name,
        ),
        sessions=()
        if is_of_user
        else tuple(s for s in view.sessions or () if s.database == limit.name),
        remedy=limit.remedy,
        place=place,
        guarded=guarded,
        counts=counts,
    )


def _at(place: Place) -> Counts:
    binds = {each.bind for each in place.binds}
    if place.key is None:
        return lambda bind, url: bind in binds
    return lambda bind, url: server_key(url) == place.key


def _ours(evidence: Evidence, place: Place, counts: Counts) -> int | None:
    """Count the workers' sessions.

    A parent's are others', because its pool is not among those that are to fit in.
    """
    pools = [
        pool
        for state in evidence.states
        for pool in state.pools
        if counts(pool.bind, pool.url)
    ]
    views = [evidence.view(each) for each in place.binds]
    known = [view for view in views if view is not None]
    return count_ours(evidence.our_ids(pools), known)


def _same_users(
    evidence: Evidence,
    binds: Sequence[Guarded],
    is_counted: Callable[[str | None], bool],
) -> int | None:
    """Count the sessions of all users as whom the app connects there.

    What one of them may not see of another, that one sees itself.
    """
    views = [evidence.view(each) for each in binds]
    users = {None if view is None else view.user for view in views}
    found: dict[int, ServerSession] = {}
    for view in views:
        if view is None or view.user is None or view.sessions is None:
            return None
        found |= {each.id: each for each in view.sessions if each.user in users}
    return sum(is_counted(each.database) for each in found.values())


def _user_in(url: str) -> str | None:
    """Return the user of a URL, which libpq also takes from among the options."""
    parsed = make_url(url)
    return parsed.username or _option(parsed, "user")


def _database_in(url: str) -> str | None:
    parsed = make_url(url)
    return parsed.database or _option(parsed, "dbname") or _user_in(url)


def _option(url: URL, name: str) -> str | None:
    value = url.query.get(name)
    return value if isinstance(value, str) else None
