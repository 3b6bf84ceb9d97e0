"""Budgets in words: which one is right for a host, and who has the places of one."""

from __future__ import annotations

import typing as t
from collections.abc import Collection, Mapping, Sequence

from ..budget import Standing
from ..config import AUTO, PREFIX
from ..databases.quotas import Quota
from ..engines import Guarded
from ..pool import GuardedPool
from ..state.locked_file import has_locks
from .phrases import key_of, listed

# As many processes that have places are named at most.
_MOST_HOLDERS: t.Final = 3
_KEY: t.Final = f"{PREFIX}BUDGET"


class Proposal(t.NamedTuple):
    """A budget that fits: the key, or keys, to set, and the number."""

    key: str
    number: int

    def __str__(self) -> str:
        return f"{self.key} = {self.number}"


def limits_of(
    engines: Sequence[Guarded], budgets: Mapping[str, Standing], binds: Collection[str]
) -> dict[str, int]:
    """Return the limits of the budgets that some binds have, each once, by its file.

    :param budgets: how they stand, by bind.
    """
    return {
        each.tracker.facts.budget_file: limit
        for each in engines
        if each.bind in binds and each.bind in budgets
        if (limit := budgets[each.bind].limit) is not None
    }


def is_auto(guarded: Guarded | None) -> bool:
    """Tell whether the server's limits make the number of a bind's budget."""
    return guarded is not None and guarded.settings.budget.value == AUTO


def per_host(quota: Quota, others: int, hosts: int) -> int:
    """Return how many connections the workers of one host may have together, besides
    the head room.

    :param others: connections that others have.
    """
    return quota.per_worker(others, hosts)


def proposal(
    quota: Quota, others: int, hosts: int, workers: int, engines: Sequence[Guarded]
) -> Proposal | None:
    """Return a budget that fits into a quota; None if some of its binds cannot have
    one, or have one, or it would be less than one for each worker.

    :param workers: on each host.
    """
    binds = [each for each in engines if each.bind in quota.binds]
    if not binds or not has_locks() or not all(map(_may_have_one, binds)):
        return None
    users = {(each.engine.url.username, _name_of(each)) for each in binds}
    number = per_host(quota, others, hosts) // len(users)
    if number < max(workers, 1):
        return None
    servers = [each for each in engines if each.tracker.database.has_server]
    if len(binds) == len(servers) or any(each.bind == "default" for each in binds):
        return Proposal(_KEY, number)
    return Proposal(listed([key_of(each, "budget") for each in binds]), number)


def _may_have_one(guarded: Guarded) -> bool:
    return (
        isinstance(guarded.engine.pool, GuardedPool)
        and guarded.settings.budget.value is None
    )


def _name_of(guarded: Guarded) -> object:
    return guarded.settings.budget_name.value


def holders_of(standing: Standing, app: str | None = None) -> str:
    """Return in a few words who has the places of a budget.

    :param app: the app that need not be named; None for any.
    """
    texts = []
    for each in standing.holders[:_MOST_HOLDERS]:
        name = f"worker {each.pid}" if each.pid else "other containers"
        of = f" ({each.app})" if app is not None and each.app not in ("", app) else ""
        texts.append(f"{each.places} by {name}{of}")
    rest = standing.holders[_MOST_HOLDERS:]
    if rest:
        texts.append(f"{sum(each.places for each in rest)} by {len(rest)} more")
    return ", ".join(texts)
