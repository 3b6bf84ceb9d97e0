"""Which size is sufficient, and how certain that is."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .scalability import PARAMETERS, Floats, Law, fit

# The smallest size is chosen whose throughput lies within this share of the highest:
# the last connections bring little and cost the server as much as the first.
TOLERANCE: t.Final = 0.05

# The range holds this share of the choices that the samples lead to.
_RANGE: t.Final = 0.95
_SAMPLES: t.Final = 400
# The least throughput of a sample, as a share of the mean: no law has a point at 0.
_LEAST: t.Final = 1e-3

# Of F, at 1 % with as many sizes and rounds as usual (3.4 for 6 and 36 degrees of
# freedom, 4.7 for 4 and 16); a knee is at a hundred and more.
_CRITICAL: t.Final = 4.0

# Throughput by pool size, for each round.
Rounds = Mapping[int, Sequence[float]]


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

    The law evens out the noise of single sizes, but it bends gently: where the
    throughput stops rising all at once, as at a server that runs K queries at a time,
    the law would choose too large a size. So it is used only if it meets every measured
    mean within 5 %, or is no further off than the rounds are from each other.

    The range is that of a bootstrap: the choice is made again from samples in which
    every mean is off by as much as the rounds are from theirs (B. Efron, *Bootstrap
    Methods: Another Look at the Jackknife*, The Annals of Statistics 7, 1979;
    percentile method). Where only chance may speak for the law, the range covers what
    the points alone leave open as well.

    :param rounds: of three sizes or more, each with a throughput in one of them.
    :param processes: each of which had a pool of that size.
    """
    rounds = dict(sorted(rounds.items()))
    sizes = np.array(list(rounds), float)
    means = np.array([np.mean(each) for each in rounds.values()])
    law = fit(sizes * processes, means)
    errors = abs(law.throughput(sizes * processes) / means - 1)
    is_near = bool(errors.max() <= TOLERANCE)
    by_law = is_near or _may_be_chance(rounds, errors)
    every = np.arange(1, sizes[-1] + 1)
    curve = (
        law.throughput(every * processes)
        if by_law
        else np.interp(every, [0, *sizes], [0, *means])
    )
    size = _smallest(curve)
    samples = _samples(rounds, means)
    ends = [size] if len(samples) else []
    if len(samples) and by_law:
        laws = (fit(sizes * processes, sample) for sample in samples)
        chosen = [_smallest(law.throughput(every * processes)) for law in laws]
        ends += _middle(np.array(chosen))
    if len(samples) and not is_near:
        ends += _range_by_points(sizes, samples)
    return Choice(
        size=size,
        low=min(ends, default=None),
        high=max(ends, default=None),
        throughput=float(curve[size - 1]),
        law=law,
        law_error=float(errors.max()),
        by_law=by_law,
        still_rising=bool(size > sizes[-2]),
    )


def _smallest(curve: Floats) -> int:
    """Return the smallest size that is enough, from the throughput of 1, 2, 3, …"""
    return int(np.argmax(curve >= (1 - TOLERANCE) * curve.max())) + 1


def _samples(rounds: Rounds, means: Floats) -> Floats:
    """Return what the means might have been, one sample in each row.

    There is none if every size was measured in one round only. What is drawn are the
    shares by which rounds are off, of all sizes together: two or three rounds of one
    size tell little of the noise. From k rounds' own mean they are less far off than
    from the true one, by sqrt((k - 1) / k).
    """
    shares = [
        share * math.sqrt(len(each) / (len(each) - 1))
        for each, mean in zip(rounds.values(), means, strict=True)
        if len(each) > 1
        for share in np.array(each) / mean - 1
    ]
    if not shares:
        return np.empty((0, len(means)))
    drawn = np.random.default_rng(1)  # the same answer each time
    off = [
        drawn.choice(shares, (_SAMPLES, len(each))).mean(axis=1)
        for each in rounds.values()
    ]
    samples: Floats = means * np.maximum(1 + np.column_stack(off), _LEAST)
    return samples


def _range_by_points(sizes: Floats, samples: Floats) -> tuple[int, int]:
    """Return the sizes among which the smallest that is enough may be.

    Between two sizes that were measured it may be any: they go from the first above
    one that is clearly too small up to the first that is clearly enough. The highest of
    several equal means is so by chance, so what is enough goes by the average of those
    that are not clearly below it.
    """
    best = samples[:, [samples.sum(axis=0).argmax()]]
    is_level = (samples >= best).mean(axis=0) > (1 - _RANGE) / 2
    enough = (1 - TOLERANCE) * samples[:, is_level].mean(axis=1, keepdims=True)
    is_enough = samples >= enough
    is_enough[:, -1] = True
    first = is_enough.argmax(axis=1)
    lows = np.array([0, *sizes])[first] + 1
    return _middle(lows)[0], _middle(sizes[first])[1]


def _middle(sizes: Floats) -> tuple[int, int]:
    """Return the ends of what is left without the lowest and the highest."""
    outside = (1 - _RANGE) / 2
    low, high = np.quantile(sizes, [outside, 1 - outside], method="nearest")
    return int(low), int(high)


def _may_be_chance(rounds: Rounds, errors: Floats) -> bool:
    """Tell whether a curve misses the means by no more than noise explains.

    The F test for lack of fit (M. H. Kutner et al., *Applied Linear Statistical
    Models*, 5th edition, 2004), on shares of each mean, because noise grows with it.
    """
    counts = np.array([len(each) for each in rounds.values()])
    lack = counts @ errors**2
    pure = sum(
        np.sum((np.array(each) / np.mean(each) - 1) ** 2) for each in rounds.values()
    )
    between, within = len(counts) - PARAMETERS, counts.sum() - len(counts)
    if between < 1 or within < 1:
        return False
    return bool(lack / between <= _CRITICAL * pure / within)
