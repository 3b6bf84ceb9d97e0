"""How many connections a run may take from servers that others use too."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import PREFIX
from ..databases.quotas import RUN_SHARE, Quota, quotas_of, why_unknown
from ..engines import Guarded
from ..pool import GuardedPool
from ..report.servers import Answer, group_by_server
from .failures import TuneError

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
    """Return how large pools may be so that half of what is free stays free, and the
    head room: of each server's connections, and of those that its users and databases
    may have.

    :param binds: each has a pool of that size in each process.
    :param answers: what their servers said.
    :raises TuneError: a server does not answer.
    """
    found: list[Budget] = []
    for group in group_by_server(binds):
        for each in group:
            answer = answers[each.bind]
            if answer.reachable is False:
                raise TuneError(
                    f"The server of bind {each.bind!r} cannot be asked how many"
                    f" connections it has free: {answer.error}."
                )
        if not group[0].tracker.database.has_server:
            continue
        views = {each.bind: answers[each.bind].view for each in group}
        quotas = quotas_of(views)
        unknown = why_unknown(views.values(), quotas)
        if unknown is not None:
            free = f"how many connections {group[0].bind!r} has free"
            return Budget(None, f"{free} is unknown ({unknown})")
        product = next(view.product for view in views.values() if view is not None)
        for quota in quotas:
            name = f"{quota.name} of {product}" if quota.owner else product
            found.append(_part_of(quota, name, processes))
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


def _part_of(quota: Quota, name: str, processes: int) -> Budget:
    pools = processes * len(quota.binds)
    largest = quota.for_run // pools
    part = "half of them"
    if quota.for_run < int((quota.free or 0) * RUN_SHARE):
        part = f"{quota.for_run} of them, because a tenth stays free,"
    return Budget(
        largest,
        f"{name} has {quota.free} of {quota.terms} connections free, {part} for"
        f" {pools} pools: {largest} for each",
    )
