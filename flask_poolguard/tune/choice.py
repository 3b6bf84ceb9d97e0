"""Which size is sufficient, and how certain that is."""

from __future__ import annotations

import math
import random
import statistics
import typing as t
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .scalability import Law, Point, fit

# The smallest size is chosen whose throughput lies within this share of the highest:
# the last connections bring little and cost the server as much as the first.
TOLERANCE: t.Final = 0.05
FEWEST_SIZES: t.Final = 3

# A range of so many hundredths is what of the drawn samples' choices lie in it.
_RANGE: t.Final = 0.95
_SAMPLES: t.Final = 400
# Of its mean, the least that a sample does: no curve goes through nothing.
_LEAST: t.Final = 1e-3

_PARAMETERS: t.Final = 3
# Of F, at 1 % with as many sizes and rounds as usual (3.4 for 6 and 36 degrees of
# freedom, 4.7 for 4 and 16); a knee is at a hundred and more.
_CRITICAL: t.Final = 4.0

# Throughput by pool size, for each round.
Rounds = Mapping[int, Sequence[float]]
_Means = Mapping[int, float]
_Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """The smallest size within 5 % of the highest throughput.

    :ivar size: of the pool in each process.
    :ivar low: the lower end of the 95 % range of ``size``; None if no size was
        measured in two rounds.
    :ivar high: the upper end, likewise.
    :ivar throughput: with that size, per second over all processes.
    :ivar law: the curve through what was measured.
    :ivar law_error: the most by which the curve is off at a size, as a share.
    :ivar by_law: whether the curve is near enough everywhere to choose by it; if not,
        the choice is by the means that were measured.
    :ivar still_rising: whether the largest sizes still brought more than 5 %.
    """

    size: int
    low: int | None
    high: int | None
    throughput: float
    law: Law
    law_error: float
    by_law: bool
    still_rising: bool


def choose(rounds: Rounds, processes: int) -> Choice:
    """Choose by what was measured.

    The curve evens out the noise of single sizes, but it bends gently: where the
    throughput stops rising all at once, as at a server that runs K queries at a time,
    it would lead too far. So it is only gone by where it meets every measured mean
    within 5 %, or where it is no further off than the rounds are from each other.

    The range is that of a bootstrap: the choice is made again from samples in which
    every mean is off by as much as the rounds are from theirs (B. Efron, *Bootstrap
    Methods: Another Look at the Jackknife*, The Annals of Statistics 7, 1979;
    percentile method). Where only chance may speak for the curve, it covers what the
    points alone leave open as well.

    :param rounds: of three sizes or more, each of which did something in one of them.
    :param processes: each of which had a pool of that size.
    """
    means = {size: statistics.fmean(each) for size, each in sorted(rounds.items())}
    law = _fit(means, processes)
    errors = {
        size: abs(law.throughput(size * processes) - mean) / mean
        for size, mean in means.items()
    }
    is_near = max(errors.values()) <= TOLERANCE
    by_law = is_near or _may_be_chance(rounds, errors)
    curve = _curve(means, law, processes, by_law)
    size = _smallest(curve, max(means))
    samples = list(_samples(rounds, means))
    ends = [size] if samples else []
    if samples and by_law:
        ends += _range_by_law(samples, processes)
    if samples and not is_near:
        ends += _range_by_points(samples)
    return Choice(
        size=size,
        low=min(ends, default=None),
        high=max(ends, default=None),
        throughput=curve(size),
        law=law,
        law_error=max(errors.values()),
        by_law=by_law,
        still_rising=size > sorted(means)[-2],
    )


def _samples(rounds: Rounds, means: _Means) -> Iterator[_Means]:
    """Yield what the means might have been; nothing if each is of one round only.

    What is drawn are the shares by which rounds are off, of all sizes together: two or
    three rounds of one size tell little of the noise. From k rounds' own mean they are
    less far off than from the true one, by sqrt((k - 1) / k).
    """
    shares = [
        (value / means[size] - 1) * math.sqrt(len(each) / (len(each) - 1))
        for size, each in sorted(rounds.items())
        if len(each) > 1
        for value in each
    ]
    if not shares:
        return
    drawn = random.Random(1)  # noqa: S311 (no secret, and the same answer each time)
    for _ in range(_SAMPLES):
        off = {
            size: statistics.fmean(drawn.choices(shares, k=len(rounds[size])))
            for size in means
        }
        yield {size: mean * max(1 + off[size], _LEAST) for size, mean in means.items()}


def _range_by_law(samples: Sequence[_Means], processes: int) -> _Range:
    """Return the range of the sizes that the curves through all samples lead to."""
    sizes = []
    for sample in samples:
        curve = _curve(sample, _fit(sample, processes), processes, by_law=True)
        sizes.append(_smallest(curve, max(sample)))
    return _middle(sizes)


def _range_by_points(samples: Sequence[_Means]) -> _Range:
    """Return the sizes among which the smallest that is enough may be.

    Between two sizes that were measured it may be any: they go from the first above
    one that is clearly too small up to the first that is clearly enough. The highest of
    several equal means is so by chance, so what is enough goes by the average of those
    that are not clearly below it.
    """
    sizes = list(samples[0])
    level = _level(samples)
    lows, highs = [], []
    for sample in samples:
        enough = (1 - TOLERANCE) * statistics.fmean(sample[size] for size in level)
        high = next((size for size in sizes if sample[size] >= enough), sizes[-1])
        highs.append(high)
        lows.append(max((size for size in sizes if size < high), default=0) + 1)
    return _middle(lows)[0], _middle(highs)[1]


def _level(samples: Sequence[_Means]) -> list[int]:
    """Return the sizes that are not clearly below the best."""
    best = max(samples[0], key=lambda size: sum(sample[size] for sample in samples))
    outside = len(samples) * (1 - _RANGE) / 2
    return [
        size
        for size in samples[0]
        if sum(sample[size] >= sample[best] for sample in samples) > outside
    ]


def _middle(sizes: list[int]) -> _Range:
    """Return the ends of what is left without the lowest and the highest."""
    outside = int(len(sizes) * (1 - _RANGE) / 2)
    return sorted(sizes)[outside], sorted(sizes)[-1 - outside]


def _may_be_chance(rounds: Rounds, errors: Mapping[int, float]) -> bool:
    """Tell whether a curve misses the means by no more than noise explains.

    The F test for lack of fit (M. H. Kutner et al., *Applied Linear Statistical
    Models*, 5th edition, 2004), on shares of each mean, because noise grows with it.
    """
    lack = pure = 0.0
    count = 0
    for size, each in rounds.items():
        mean = statistics.fmean(each)
        lack += len(each) * errors[size] ** 2
        pure += sum((value / mean - 1) ** 2 for value in each)
        count += len(each)
    between, within = len(rounds) - _PARAMETERS, count - len(rounds)
    if between < 1 or within < 1:
        return False
    return lack / between <= _CRITICAL * pure / within


def _fit(means: Mapping[int, float], processes: int) -> Law:
    return fit([Point(size * processes, mean) for size, mean in means.items()])


def _curve(
    means: Mapping[int, float], law: Law, processes: int, by_law: bool
) -> Callable[[int], float]:
    """Return the throughput as a function of the size."""
    if by_law:
        return lambda size: law.throughput(size * processes)
    return lambda size: _between(means, size)


def _between(means: Mapping[int, float], size: int) -> float:
    """Return what was measured at a size, or lies between its neighbours."""
    if size in means:
        return means[size]
    below = max((n for n in means if n < size), default=min(means))
    above = min(n for n in means if n > size)
    if below > size:  # smaller than all that were measured
        return means[below] * size / below
    share = (size - below) / (above - below)
    return means[below] + share * (means[above] - means[below])


def _smallest(curve: Callable[[int], float], largest: int) -> int:
    found = [curve(size) for size in range(1, largest + 1)]
    enough = (1 - TOLERANCE) * max(found)
    return next(size for size, each in enumerate(found, 1) if each >= enough)
