"""A server's quotas divided among the workers, and sizes that fit into a share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..databases import ServerView
from ..databases.quotas import Quota, quotas_of, why_unknown
from . import sizing
from .advice_model import AdviceOptions
from .model import Report


@dataclass(frozen=True, slots=True)
class Share:
    """How many connections of a quota each worker may open.

    :ivar kept: by pools that keep their size.
    :ivar left: by all others.
    """

    quota: Quota
    kept: int
    left: int


def shares_of(
    report: Report,
    views: Mapping[str, ServerView | None],
    kept: Mapping[str, int],
    workers: int,
    options: AdviceOptions,
) -> tuple[list[Share], str | None]:
    """Divide what a server has left; without shares, say why they are not known.

    :param views: what it told its binds.
    :param kept: what pools that keep their size may open, by bind.
    :param workers: on all hosts.
    """
    quotas = quotas_of(views)
    unknown = why_unknown(views.values(), quotas)
    if unknown is not None:
        return [], unknown
    is_planned = options.workers is not None or options.hosts > 1
    shares = []
    for quota in quotas:
        ours = _ours(report, quota.binds)
        others = quota.others(ours, options.hosts, is_planned=is_planned)
        if ours is None or others is None:
            return [], "it is not known which of its sessions are the workers'"
        of_kept = sum(count for bind, count in kept.items() if bind in quota.binds)
        left = max(quota.per_worker(others, workers) - of_kept, 0)
        shares.append(Share(quota, of_kept, left))
    return shares, None


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
        binds = [bind for bind in needs if bind in share.quota.binds]
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
