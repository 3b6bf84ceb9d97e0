"""Connections that a worker may open: limits of server, user and database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..databases import ServerView
from ..engines import Guarded
from . import sizing
from .model import Report, Server
from .servers import Answer


@dataclass(frozen=True, slots=True)
class Room:
    """What has a limit, shared by some binds.

    :ivar name: of what has it, for a sentence.
    :ivar remedy: what raises it.
    :ivar per_worker: connections that a worker may open there.
    """

    name: str
    remedy: str
    binds: frozenset[str]
    per_worker: int

    def left(self, kept: Mapping[str, int]) -> int:
        """Return what is left besides pools that keep their size.

        :param kept: what those may open, by bind.
        """
        return max(self.per_worker - self.kept(kept), 0)

    def kept(self, kept: Mapping[str, int]) -> int:
        """Return how many of them are for pools that keep their size."""
        return sum(count for bind, count in kept.items() if bind in self.binds)


@dataclass(frozen=True, slots=True)
class Rooms:
    """All that limits the binds of one server.

    :ivar known: the server's own last; none without a server.
    :ivar unknown: why it is not known how much room there is.
    """

    known: tuple[Room, ...] = ()
    unknown: str | None = None

    def tightest(self, bind: str, kept: Mapping[str, int]) -> Room | None:
        """Return what leaves a bind the fewest, None without a limit."""
        of_bind = (room for room in self.known if bind in room.binds)
        return min(of_bind, key=lambda room: room.left(kept), default=None)


def rooms_of(
    report: Report,
    group: Sequence[Guarded],
    answers: Mapping[str, Answer],
    workers: int,
    hosts: int,
) -> Rooms:
    """Return what limits the binds of one server.

    :param answers: what the server said of each bind.
    :param workers: on all hosts.
    """
    if not group[0].tracker.database.has_server:
        return Rooms()
    binds = [each.bind for each in group]
    servers = {each.bind: each for each in report.servers if each.bind in binds}
    views = {bind: answers[bind].view for bind in binds}
    if any(view is not None and view.is_proxied for view in views.values()):
        return Rooms(
            unknown="a pooler stands before the server, and its own limit is what"
            " counts"
        )
    known = {bind: view for bind, view in views.items() if view is not None}
    limits = [*_of_users_and_databases(known), _of_server(servers)]
    if len(known) < len(binds) or any(
        None in (each.maximum, each.used) for each in limits
    ):
        return Rooms(unknown="the server does not say how many connections it has left")
    if any(each.ours is None for each in servers.values()):
        return Rooms(unknown="it is not known which of its sessions are the workers'")
    return Rooms(
        tuple(
            Room(
                limit.name,
                limit.remedy,
                frozenset(limit.binds),
                _per_worker(limit, report, known, workers, hosts),
            )
            for limit in limits
        )
    )


@dataclass(frozen=True, slots=True)
class _Limit:
    """A number of connections, and how many of them are there; None is unknown.

    :ivar database: whose sessions alone count.
    """

    name: str
    remedy: str
    binds: Collection[str]
    maximum: int | None
    used: int | None
    reserved: int = 0
    database: str | None = None


def _of_server(servers: Mapping[str, Server]) -> _Limit:
    return _Limit(
        name="the server",
        remedy="its max_connections",
        binds=servers.keys(),
        maximum=_first(servers.values(), "max_connections"),
        used=_first(servers.values(), "connections"),
        reserved=_first(servers.values(), "reserved") or 0,
    )


def _of_users_and_databases(views: Mapping[str, ServerView]) -> list[_Limit]:
    found: dict[tuple[str, str], _Limit] = {}
    for bind, view in views.items():
        for each in view.limits:
            key = each.scope, each.name
            limit = _Limit(
                name=f"{each.scope} {each.name}",
                remedy=each.remedy,
                binds=[bind],
                maximum=each.limit,
                used=each.used,
                database=each.name if each.scope == "database" else None,
            )
            if key in found:  # the one asked first saw none of our other questions
                limit = replace(found[key], binds=[*found[key].binds, bind])
            found[key] = limit
    return list(found.values())


def _per_worker(
    limit: _Limit,
    report: Report,
    views: Mapping[str, ServerView],
    workers: int,
    hosts: int,
) -> int:
    """Return how many connections each worker may have.

    On every host the app is taken to have as many as here, but no more than its users
    have: the rest is of others.
    """
    in_pools = sum(
        (pool.checked_out or 0) + (pool.idle or 0)
        for worker in report.workers
        for pool in worker.pools
        if pool.bind in limit.binds
    )
    # The server's count is of all binds that lead there; it knows which still live.
    at_server = (each.ours or 0 for each in report.servers if each.bind in limit.binds)
    ours = min(in_pools, max(at_server, default=0))
    of_users = {
        each.id
        for view in (views[bind] for bind in limit.binds)
        for each in view.sessions or ()
        if each.user == view.user and limit.database in (None, each.database)
    }
    of_users -= {view.session_id for view in views.values()}  # which asked
    own = max(ours, min(ours * hosts, len(of_users)))
    others = max((limit.used or 0) - own, 0)
    return sizing.room_per_worker(limit.maximum or 0, others, workers, limit.reserved)


def _first(servers: Iterable[Server], name: str) -> int | None:
    found = (getattr(each, name) for each in servers)
    return next((each for each in found if each is not None), None)


def sizes_within(
    needs: Mapping[str, sizing.Need], rooms: Rooms, kept: Mapping[str, int]
) -> dict[str, sizing.Sizes]:
    """Return the sizes of all pools of one worker at one server, by bind.

    :param kept: what pools that keep their size may open, by bind.
    """
    if rooms.unknown is not None:
        sizes = sizing.sizes_within(list(needs.values()), None)
        return dict(zip(needs, sizes, strict=True))
    found = dict(needs)
    short: set[str] = set()
    for room in rooms.known:
        binds = [bind for bind in needs if bind in room.binds]
        sizes = sizing.sizes_within([found[bind] for bind in binds], room.left(kept))
        for bind, each in zip(binds, sizes, strict=True):
            most = each.pool_size + (each.max_overflow or 0)
            found[bind] = replace(found[bind], size=each.pool_size, most=most)
            if each.is_short:
                short.add(bind)
    return {
        bind: sizing.Sizes(need.size, need.most - need.size, bind in short)
        for bind, need in found.items()
    }
