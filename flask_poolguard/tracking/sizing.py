"""Pure arithmetic: the pool size that the demand needs.

``pool_size`` is what a worker keeps open. The guard counts with every checkout how many
connections are out or wanted at that moment. The smallest number that all but a small
share of these counts stay within is enough: a checkout of that share pays for a connect
at most, and a larger pool would only cost the server memory.

That holds as far as checkouts do not hang on each other. Where one request takes N
connections, T threads can each hold N - 1 and wait for one more, for ever. At least
one gets on if there are T × (N - 1) + 1 (HikariCP's "About Pool Sizing" has the same
formula). More than T × N connections cannot be used.

``max_overflow`` is for peaks. It may take what the server has left, shared among all
who could take it, up to what the threads can use.

How many checkouts are enough to go by: if an event has not been seen in n trials, its
probability is below 3/n with 95 % confidence (the "rule of three", Hanley and
Lippman-Hand, JAMA 249, 1983, p. 1743). For a share of 0.1 % that takes 3,000.
Neighbouring checkouts resemble each other, so fewer than 1,000 are not believed even
where the share is large.
"""

from __future__ import annotations

import math
import typing as t
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Demand = Mapping[int, int]

# A thousandth: a connect of some milliseconds in every thousandth checkout moves not
# even the 99th percentile of a request with ten of them.
SHARE: t.Final = 0.001
_FEWEST: t.Final = 1000
# What is less probable is not taken for chance.
_CHANCE: t.Final = 0.05
# So many standard deviations the normal distribution exceeds as seldom.
_DEVIATIONS: t.Final = 1.645
_MANY: t.Final = 100


def checkouts_needed(share: float) -> int:
    """Return how many checkouts must have been seen to judge a share of them.

    :param share: above 0, at most 1.
    """
    # 3 / 0.001 is a little more than 3,000 in binary.
    return max(_FEWEST, math.ceil(round(3 / share, 6)))


def add_up(demands: Iterable[Demand]) -> dict[int, int]:
    """Add up histograms, and sort them by connections."""
    total: Counter[int] = Counter()
    for demand in demands:
        total.update(demand)
    return {bound: count for bound, count in sorted(total.items()) if count}


def exceeding(demand: Demand, connections: int) -> int:
    """Return how many checkouts wanted more connections than that at a time."""
    return sum(count for bound, count in demand.items() if bound > connections)


def smallest(demand: Demand, share: float) -> int:
    """Return the smallest number that at most a share of checkouts went beyond.

    :returns: at least 1; a bound of the histogram otherwise.
    """
    allowed = share * sum(demand.values())
    bounds = (bound for bound in sorted(demand) if demand[bound])
    return next((each for each in bounds if exceeding(demand, each) <= allowed), 1)


def not_ruled_out(demand: Demand, share: float) -> int:
    """Return the smallest number beyond which no more checkouts went than may be chance
    if it is the share, at most, that goes beyond it.

    :returns: never more than :func:`smallest`.
    """
    trials = sum(demand.values())
    bounds = (bound for bound in sorted(demand) if demand[bound])
    return next(
        (
            each
            for each in bounds
            if not _is_beyond_chance(exceeding(demand, each), trials, share)
        ),
        1,
    )


def surely_enough(demand: Demand, share: float) -> int | None:
    """Return the smallest number beyond which so few checkouts went that it is hardly
    chance: fewer than the share do.

    :returns: never less than :func:`smallest`; None if there were too few checkouts to
        tell of any number.
    """
    trials = sum(demand.values())
    bounds = (bound for bound in sorted(demand) if demand[bound])
    return next(
        (
            each
            for each in bounds
            if _is_below_chance(exceeding(demand, each), trials, share)
        ),
        None,
    )


def _is_beyond_chance(events: int, trials: int, share: float) -> bool:
    """Tell whether an event of that probability hardly ever comes so often."""
    expected = share * trials
    if events <= expected:
        return False
    if expected > _MANY:  # then the distribution is as good as normal
        return events - expected > _DEVIATIONS * math.sqrt(expected * (1 - share))
    return _fewer(events, trials, share) > 1 - _CHANCE


def _is_below_chance(events: int, trials: int, share: float) -> bool:
    """Tell whether an event of that probability hardly ever comes so seldom."""
    expected = share * trials
    if events >= expected:
        return False
    if expected > _MANY:
        return expected - events > _DEVIATIONS * math.sqrt(expected * (1 - share))
    return _fewer(events + 1, trials, share) < _CHANCE


def _fewer(events: int, trials: int, share: float) -> float:
    """Return the probability of fewer events; not the rest of it once it is high."""
    fewer = 0.0
    for number in range(events):
        fewer += math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(number + 1)
            - math.lgamma(trials - number + 1)
            + number * math.log(share)
            + (trials - number) * math.log1p(-share)
        )
        if fewer > 1 - _CHANCE:
            break
    return fewer


def without_deadlock(threads: int, nesting: int) -> int:
    """Return the fewest connections with which one of all threads can always go on."""
    return threads * (nesting - 1) + 1 if nesting > 1 else 1


def peak_of(demand: Demand) -> int:
    """Return the most connections that were out or wanted at a time, 0 if none was."""
    return max((bound for bound, count in demand.items() if count), default=0)


def most_usable(threads: int, nesting: int, peak: int) -> int:
    """Return the most connections that so many threads could use at once.

    :param nesting: the most connections that one request held at once.
    :param peak: the most that were really out or wanted: more, if code outside a
        request holds several connections.
    """
    return max(threads * max(nesting, 1), peak)


@dataclass(frozen=True, slots=True)
class Need:
    """What one worker's pool needs.

    :ivar size: for ``pool_size``.
    :ivar most: the most connections that its threads could use.
    :ivar fewest: the fewest without a deadlock.
    """

    size: int
    most: int
    fewest: int


def need_of(demand: Demand, share: float, threads: int, nesting: int) -> Need:
    """Return what a pool needs.

    :param demand: how often so many connections were out or wanted at a time.
    :param share: of checkouts that may find ``pool_size`` connections out.
    :param threads: the most that lived at once. Code outside a request can hold
        several connections, so what was really out or wanted counts if it is more.
    :param nesting: the most connections that one request held at once.
    """
    most = max(most_usable(threads, nesting, peak_of(demand)), 1)
    fewest = min(without_deadlock(threads, nesting), most)
    return Need(min(max(smallest(demand, share), fewest), most), most, fewest)


def share_out(amount: int, wants: Sequence[int]) -> list[int]:
    """Divide an amount so that no one gets more than it wants, and no one less than
    another unless it wants no more (max-min fairness; those who want most get the rest
    that cannot be divided).
    """
    shares = [0] * len(wants)
    modest_first = sorted(range(len(wants)), key=wants.__getitem__)
    for position, index in enumerate(modest_first):
        shares[index] = min(wants[index], amount // (len(wants) - position))
        amount -= shares[index]
    return shares


@dataclass(frozen=True, slots=True)
class Sizes:
    """What to set.

    :ivar pool_size: at least 1: 0 would be no limit.
    :ivar max_overflow: None if it is not known how much room the server has.
    :ivar is_short: whether the server has too little room for what is needed.
    """

    pool_size: int
    max_overflow: int | None
    is_short: bool


def sizes_within(needs: Sequence[Need], room: float | None) -> list[Sizes]:
    """Return the sizes of all pools of one worker at one server.

    :param room: connections that the worker may open there; ``inf`` if there is no
        limit, None if that is not known.
    """
    wanted = [need.size for need in needs]
    if room is None:
        return [Sizes(size, None, False) for size in wanted]
    if sum(wanted) > room:
        given = share_out(int(room), wanted)
        return [
            Sizes(max(size, 1), 0, size < want)
            for size, want in zip(given, wanted, strict=True)
        ]
    peaks = [need.most - need.size for need in needs]
    left = sum(peaks) if math.isinf(room) else int(room) - sum(wanted)
    overflows = share_out(left, peaks)
    return [
        Sizes(size, overflow, False)
        for size, overflow in zip(wanted, overflows, strict=True)
    ]
