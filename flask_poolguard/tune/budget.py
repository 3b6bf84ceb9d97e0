"""How many connections a test may take from servers that others use too."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import PREFIX
from ..databases import ServerView
from ..engines import Guarded
from ..pool import GuardedPool
from ..reports.servers import Answer
from ..urls import ServerKey, server_key
from .errors import TuneError

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
        if each.ledger.database.has_server:
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
    """Return how large pools may be so that half of what is free stays free.

    :param binds: each has a pool of that size in each process.
    :param answers: what their servers said.
    :raises TuneError: a server does not answer.
    """
    found: list[Budget] = []
    for each in _by_server(binds):
        first = each[0]
        answer = answers[first.bind]
        if answer.reachable is False:
            raise TuneError(
                f"The server of bind {first.bind!r} cannot be asked how many"
                f" connections it has free: {answer.error}."
            )
        if not first.ledger.database.has_server:
            continue
        view = answer.view
        free = None if view is None else _free(view)
        if view is None or free is None:
            return Budget(
                None, f"how many connections {first.bind!r} has free is unknown"
            )
        pools = processes * len(each)
        largest = int(free * SHARE) // pools
        found.append(
            Budget(
                largest,
                f"{view.product} has {free} of {view.max_connections} connections"
                f" free, half of them for {pools} pools: {largest} for each",
            )
        )
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


def _free(view: ServerView) -> int | None:
    if view.max_connections is None or view.connections is None:
        return None
    reserved = view.reserved or 0
    return max(view.max_connections - reserved - view.connections, 0)


def _by_server(binds: Sequence[Guarded]) -> list[list[Guarded]]:
    groups: dict[ServerKey | str, list[Guarded]] = {}
    for each in binds:
        groups.setdefault(server_key(each.engine.url) or each.bind, []).append(each)
    return list(groups.values())
