"""How many connections a run may take from servers that others use too."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import PREFIX
from ..databases import ServerView
from ..engines import Guarded
from ..pool import GuardedPool
from ..report.servers import Answer
from ..urls import ServerKey, server_key
from .failures import TuneError

# Of the connections that are free; the other half is for whoever needs one meanwhile.
SHARE: t.Final = 0.5
# Far enough for most; more costs time, and connections that others may want.
DEFAULT_LARGEST: t.Final = 24

# Dense where pools are, then by thirds and halves of a doubling.
_DENSE: t.Final = (1, 2, 3, 4, 6, 8, 12, 16, 24)


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be taken.

    :ivar largest: the largest pool that each process may have; None is unknown.
    :ivar why: the sum that led to it, in words.
    """

    largest: int | None
    why: str


def used(engines: Sequence[Guarded], bind: str, *, by_requests: bool) -> list[Guarded]:
    """Return the binds whose pools the load may fill, the one to be tuned first.

    :param bind: one that the app has.
    :param by_requests: whether views run, which may use any bind.
    :raises TuneError: a pool's size cannot be set.
    """
    tuned = [each for each in engines if each.bind == bind]
    others = [each for each in engines if each.bind != bind] if by_requests else []
    for each in [*tuned, *others]:
        if isinstance(each.engine.pool, GuardedPool):
            continue
        what, instead = _other_pool(each)
        if each.bind == bind:
            raise TuneError(
                f"Bind {bind!r} {what}, whose size is not Flask-PoolGuard's to set."
                f" Choose another with --bind, or {instead}."
            )
        if each.tracker.database.has_server:
            raise TuneError(
                f"Bind {each.bind!r} {what}: how many connections its views take could"
                " not be limited here. Test queries of one bind with --sql, or"
                f" {instead}."
            )
    return tuned + others


def _other_pool(guarded: Guarded) -> tuple[str, str]:
    """Return which pool a bind has that is not the guard's, and what gives it one."""
    pool = type(guarded.engine.pool).__name__
    setting = guarded.settings.pool_class
    if setting.value == "null" and setting.origin.startswith(PREFIX):
        return (
            f"has a {pool} because {setting.origin} is 'null'",
            "set that to 'queue', the default, for this run",
        )
    return f"keeps its own {pool}", "leave its pool to Flask-PoolGuard"


def budget(
    binds: Sequence[Guarded], answers: Mapping[str, Answer], processes: int
) -> Budget:
    """Return how large pools may be so that half of what is free stays free: of each
    server's connections, and of those that its users and databases may have.

    :param binds: each has a pool of that size in each process.
    :param answers: what their servers said.
    :raises TuneError: a server does not answer.
    """
    found: list[Budget] = []
    for group in _by_server(binds):
        for each in group:
            answer = answers[each.bind]
            if answer.reachable is False:
                raise TuneError(
                    f"The server of bind {each.bind!r} cannot be asked how many"
                    f" connections it has free: {answer.error}."
                )
        if not group[0].tracker.database.has_server:
            continue
        views = [answers[each.bind].view for each in group]
        if any(view is not None and view.is_proxied for view in views):
            return Budget(
                None,
                f"how many connections {group[0].bind!r} has free is unknown (a pooler"
                " stands before the server, and its own limit is what counts)",
            )
        for name, same in _rooms(views).items():
            if any(room.free is None for room in same):
                return Budget(
                    None, f"how many connections {group[0].bind!r} has free is unknown"
                )
            least = min(same, key=lambda room: room.free or 0)
            found.append(_half_of(name, least, processes * len(same)))
    return min(
        found,
        key=lambda each: each.largest or 0,
        default=Budget(DEFAULT_LARGEST, "there is no server"),
    )


def sizes_up_to(largest: int) -> list[int]:
    """Return the sizes to measure: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, …"""
    sizes = list(_DENSE)
    while sizes[-1] < largest:
        sizes.append(sizes[-2] * 2)
    return sorted({size for size in sizes if size < largest} | {largest})


@dataclass(frozen=True, slots=True)
class _Room:
    """What a server, a user or a database allows; None is unknown."""

    limit: int | None
    free: int | None


def _rooms(views: Sequence[ServerView | None]) -> dict[str, list[_Room]]:
    """Return all that limits the binds of one server, by its name, once for each bind
    that it limits.
    """
    found: dict[str, list[_Room]] = {}
    for view in views:
        if view is None:
            return {"a server that says nothing": [_Room(None, None)]}
        free = None
        if view.max_connections is not None and view.connections is not None:
            usable = view.max_connections - (view.reserved or 0)
            free = max(usable - view.connections, 0)
        found.setdefault(view.product, []).append(_Room(view.max_connections, free))
        for each in view.limits:
            left = None if each.used is None else max(each.limit - each.used, 0)
            name = f"{each.scope} {each.name} of {view.product}"
            found.setdefault(name, []).append(_Room(each.limit, left))
    return found


def _half_of(name: str, room: _Room, pools: int) -> Budget:
    largest = int((room.free or 0) * SHARE) // pools
    return Budget(
        largest,
        f"{name} has {room.free} of {room.limit} connections free, half of them for"
        f" {pools} pools: {largest} for each",
    )


def _by_server(binds: Sequence[Guarded]) -> list[list[Guarded]]:
    groups: dict[ServerKey | str, list[Guarded]] = {}
    for each in binds:
        groups.setdefault(server_key(each.engine.url) or each.bind, []).append(each)
    return list(groups.values())
