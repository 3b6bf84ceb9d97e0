"""What the pools of a bind need, and how sure that is: one sum for doctor and advise.

All workers have the same sizes, and each has a pool of its own. So the counts of all
are added up, and no worker's own counts may rule the size out.

With few checkouts the answer is a range. A size is ruled out from below if so many
checkouts went beyond it that chance would show as many in one series of twenty at most
(a one-sided binomial test). From above only the threads limit it, where their number is
known: what the server was set to, or what an hour of traffic has shown. Until there was
such an hour nothing is made smaller.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..state.status import Usage
from ..tracking.sizing import (
    SHARE,
    Need,
    add_up,
    checkouts_needed,
    need_of,
    not_ruled_out,
)

# From here on the hundredth part of all checkouts is ten of them, not an accident.
ENOUGH_CHECKOUTS: t.Final = 1000
# What a shorter time has shown is not taken for all that there is.
ENOUGH_SECONDS: t.Final = 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What one worker's pool of a bind was asked for.

    :ivar age_seconds: in which time.
    """

    usage: Usage
    age_seconds: float

    @property
    def is_mature(self) -> bool:
        """Tell whether it has seen enough to be called too big."""
        checkouts = sum(self.usage.demand.values())
        return checkouts >= ENOUGH_CHECKOUTS and self.age_seconds >= ENOUGH_SECONDS


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the pools of a bind need, and how sure that is.

    :ivar need: by what was seen.
    :ivar checkouts: that were seen.
    :ivar low, high: between which ``pool_size`` lies; no ``high`` if it is not known
        how many threads there are.
    :ivar is_sure: whether enough checkouts were seen to name one size.
    :ivar may_lower: whether enough was seen to take connections away: a view that was
        not asked for yet may take several at once.
    """

    need: Need
    checkouts: int
    low: int
    high: int | None
    is_sure: bool
    may_lower: bool

    def pool_size(self, present: int | None) -> int:
        """Return the size to set: of those that may be right, the nearest to what there
        is.

        :param present: 0 is no limit.
        """
        if present is None:
            return self.need.size
        if not self.may_lower:
            return max(self.low, present) if present else 0
        most = self.need.most if self.high is None else self.high
        return max(self.low, min(present or most, most))


def threads_of(workers: Sequence[Asked]) -> int | None:
    """Return with how many threads a worker serves: as its server was told, or as an
    hour of traffic has shown. None if neither is known.
    """
    told = [each.usage.server_threads for each in workers]
    known = [each for each in told if each is not None]
    if not known and any(each.is_mature for each in workers):
        known = [each.usage.most_threads for each in workers]
    return max(known, default=None)


def estimate(
    workers: Iterable[Asked], share: float = SHARE, needed: int | None = None
) -> Estimate:
    """Return what the pools of a bind need: the one sum for all who name a size.

    :param share: of checkouts that may find ``pool_size`` connections out.
    :param needed: so many checkouts make it sure; None for what the share takes.
    """
    found = list(workers)
    usages = [each.usage for each in found]
    demand = add_up(usage.demand for usage in usages)
    need = need_of(
        demand,
        share,
        max((usage.most_threads for usage in usages), default=0),
        max((usage.nesting for usage in usages), default=0),
    )
    least = max((not_ruled_out(usage.demand, share) for usage in usages), default=1)
    low = max(least, need.fewest)
    need = replace(need, size=max(need.size, low))
    checkouts = sum(demand.values())
    if checkouts >= (checkouts_needed(share) if needed is None else needed):
        size = need.size
        return Estimate(need, checkouts, size, size, is_sure=True, may_lower=True)
    low = max(low, min(not_ruled_out(demand, share), need.most))
    return Estimate(
        need,
        checkouts,
        low,
        high=None if threads_of(found) is None else need.most,
        is_sure=False,
        may_lower=any(each.is_mature for each in found),
    )
