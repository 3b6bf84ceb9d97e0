"""A server's quotas divided among the workers, and sizes that fit into a share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..databases import ServerView
from ..databases.quotas import Quota, quotas_of, why_unknown
from ..engines import Guarded
from ..tracking import sizing
from .advice_model import AdviceOptions
from .host_budget import Proposal, is_auto, per_host, proposal
from .model import Report
from .phrases import key_of


@dataclass(frozen=True, slots=True)
class Share:
    """How many connections each worker may open; with a budget, all of a host.

    :ivar name: of what allows them.
    :ivar remedy: what raises it.
    :ivar kept: by pools that keep their size.
    :ivar left: by all others.
    :ivar budget: the one that fits as well, if there is none.
    """

    name: str
    remedy: str
    binds: tuple[str, ...]
    kept: int
    left: int
    budget: Proposal | None = None


def shares_of(
    report: Report,
    engines: Sequence[Guarded],
    views: Mapping[str, ServerView | None],
    kept: Mapping[str, int],
    workers: int,
    options: AdviceOptions,
) -> tuple[list[Share], str | None]:
    """Divide what a server has left among the workers, for binds without a budget;
    without shares, say why they are not known.

    :param engines: those that lead there.
    :param views: what it told its binds.
    :param kept: what pools that keep their size may open, by bind.
    :param workers: on all hosts.
    """
    quotas = quotas_of(views)
    unknown = why_unknown(views.values(), quotas)
    if unknown is not None:
        return [], unknown
    budgets = budgets_in(report, views)
    shares = []
    for quota in quotas:
        others = _others(report, quota, options)
        if others is None:
            return [], "it is not known which of its sessions are the workers'"
        limits = {each for bind, each in budgets.items() if bind in quota.binds}
        others += sum(limit for _, limit in limits) * options.hosts
        binds = tuple(bind for bind in quota.binds if bind not in budgets)
        of_kept = sum(count for bind, count in kept.items() if bind in binds)
        left = max(quota.per_worker(others, workers) - of_kept, 0)
        on_host = workers // options.hosts
        budget = proposal(quota, others, options.hosts, on_host, engines)
        shares.append(Share(quota.name, quota.remedy, binds, of_kept, left, budget))
    return shares, None


def shares_with_budget(
    report: Report,
    engines: Sequence[Guarded],
    views: Mapping[str, ServerView | None],
    kept: Mapping[str, int],
    workers: int,
    options: AdviceOptions,
) -> list[Share]:
    """Return what all workers of a host may have together, for binds with a budget.

    A worker's sizes may take all of it: the budget decides who has how many. What the
    server has left counts too, if that is known and less.
    """
    budgets = budgets_in(report, views)
    shares = []
    for file, limit in dict.fromkeys(budgets.values()):
        binds = tuple(bind for bind, each in budgets.items() if each[0] == file)
        guarded = next(each for each in engines if each.bind in binds)
        key = "the server's limit" if is_auto(guarded) else key_of(guarded, "budget")
        name = f"the budget of {limit} for this host"
        shares.append(Share(name, key, binds, 0, limit))
    quotas = quotas_of(views)
    if why_unknown(views.values(), quotas) is not None:
        return shares
    for quota in quotas:
        others = _others(report, quota, options)
        binds = tuple(bind for bind in quota.binds if bind in budgets)
        if others is not None and binds:
            of_kept = sum(count for bind, count in kept.items() if bind in quota.binds)
            left = per_host(quota, others + of_kept * workers, options.hosts)
            shares.append(Share(quota.name, quota.remedy, binds, of_kept, left))
    return shares


def budgets_in(report: Report, binds: Collection[str]) -> dict[str, tuple[str, int]]:
    """Return file and limit of the budgets that binds have, by bind."""
    return {
        each.bind: (each.budget_file, each.budget)
        for each in report.servers
        if each.bind in binds and each.budget is not None
    }


def _others(report: Report, quota: Quota, options: AdviceOptions) -> int | None:
    """Return how many connections others have of a quota; None is unknown."""
    is_planned = options.workers is not None or options.hosts > 1
    ours = _ours(report, quota.binds)
    if ours is None:
        return None
    return quota.others(ours, options.hosts, is_planned=is_planned)


def sizes_for_worker(
    needs: Mapping[str, sizing.Need], shares: Sequence[Share] | None
) -> dict[str, sizing.Sizes]:
    """Return the sizes of all pools of one worker at one server, by bind.

    :param shares: of all its quotas; None if they are not known.
    """
    if shares is None:
        sizes = sizing.sizes_within(list(needs.values()), None)
        return dict(zip(needs, sizes, strict=True))
    found = dict(needs)
    short: set[str] = set()
    for share in shares:
        binds = [bind for bind in needs if bind in share.binds]
        sizes = sizing.sizes_within([found[bind] for bind in binds], share.left)
        for bind, each in zip(binds, sizes, strict=True):
            most = each.pool_size + (each.max_overflow or 0)
            found[bind] = replace(found[bind], size=each.pool_size, most=most)
            if each.is_short:
                short.add(bind)
    return {
        bind: sizing.Sizes(need.size, need.most - need.size, bind in short)
        for bind, need in found.items()
    }


def _ours(report: Report, binds: Collection[str]) -> int | None:
    """Count what the workers have open for some binds of a server; None is unknown.

    The server's count is of all binds that lead there; it knows which still live.
    """
    at_server = [each.ours for each in report.servers if each.bind in binds]
    if None in at_server:
        return None
    in_pools = sum(
        (pool.checked_out or 0) + (pool.idle or 0)
        for worker in report.workers
        for pool in worker.pools
        if pool.bind in binds
    )
    return min(in_pools, max((each or 0 for each in at_server), default=0))
