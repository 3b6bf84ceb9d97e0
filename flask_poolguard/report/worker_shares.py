"""A server's quotas divided among the workers, and sizes that fit into a share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ..databases import ServerView
from . import sizing
from .model import Report
from .quotas import Quota, quotas_of, why_unknown


@dataclass(frozen=True, slots=True)
class Share:
    """What each worker may have of a quota.

    :ivar per_worker: connections that it may open.
    """

    quota: Quota
    per_worker: int

    def left(self, kept: Mapping[str, int]) -> int:
        """Return what is left besides pools that keep their size.

        :param kept: what those may open, by bind.
        """
        return max(self.per_worker - self.kept(kept), 0)

    def kept(self, kept: Mapping[str, int]) -> int:
        """Return how many of them are for pools that keep their size."""
        return sum(count for bind, count in kept.items() if bind in self.quota.binds)


@dataclass(frozen=True, slots=True)
class Shares:
    """What each worker may have of all quotas of one server.

    :ivar known: none without a server.
    :ivar unknown: why it is not known.
    """

    known: tuple[Share, ...] = ()
    unknown: str | None = None

    def tightest(self, bind: str, kept: Mapping[str, int]) -> Share | None:
        """Return what leaves a bind the fewest, None without a limit."""
        of_bind = (share for share in self.known if bind in share.quota.binds)
        return min(of_bind, key=lambda share: share.left(kept), default=None)

    def sizes(
        self, needs: Mapping[str, sizing.Need], kept: Mapping[str, int]
    ) -> dict[str, sizing.Sizes]:
        """Return the sizes of all pools of one worker, by bind.

        :param kept: what pools that keep their size may open, by bind.
        """
        if self.unknown is not None:
            sizes = sizing.sizes_within(list(needs.values()), None)
            return dict(zip(needs, sizes, strict=True))
        found = dict(needs)
        short: set[str] = set()
        for share in self.known:
            binds = [bind for bind in needs if bind in share.quota.binds]
            of_binds = [found[bind] for bind in binds]
            sizes = sizing.sizes_within(of_binds, share.left(kept))
            for bind, each in zip(binds, sizes, strict=True):
                most = each.pool_size + (each.max_overflow or 0)
                found[bind] = replace(found[bind], size=each.pool_size, most=most)
                if each.is_short:
                    short.add(bind)
        return {
            bind: sizing.Sizes(need.size, need.most - need.size, bind in short)
            for bind, need in found.items()
        }


def shares_of(
    report: Report,
    views: Mapping[str, ServerView | None],
    workers: int,
    hosts: int,
    *,
    is_planned: bool,
) -> Shares:
    """Divide what a server has left.

    :param views: what it told its binds.
    :param workers: on all hosts.
    :param is_planned: see :meth:`.Quota.others`.
    """
    quotas = quotas_of(views)
    unknown = why_unknown(views.values(), quotas)
    if unknown is not None:
        return Shares(unknown=unknown)
    shares = []
    for quota in quotas:
        ours = _ours(report, quota.binds)
        others = quota.others(ours, hosts, is_planned=is_planned)
        if ours is None or others is None:
            return Shares(
                unknown="it is not known which of its sessions are the workers'"
            )
        shares.append(Share(quota, quota.per_worker(others, workers)))
    return Shares(tuple(shares))


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
