"""The universal scalability law, and its least-squares fit.

With N connections at work the throughput is

    X(N) = λN / (1 + σ(N - 1) + κN(N - 1))

λ is what one connection does alone, σ the share of the work that cannot be done in
parallel (contention), κ what each pair of connections costs (coherency). N. J. Gunther,
*Guerrilla Capacity Planning* (Springer, 2007), chapters 4 to 6, and *A General Theory
of Computational Scalability Based on Rational Functions* (arXiv:0808.1431). That λ is
fitted too, and not taken from a measurement at N = 1, follows his three-parameter form
of 2018 (*USL Scalability Modeling with Three Parameters*).
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

PARAMETERS: t.Final = 3
_STEPS: t.Final = 50
# A step that makes the fit worse is halved.
_SHARES: t.Final = 0.5 ** np.arange(20)
# Relative; far below what any measurement of a database repeats to.
_CLOSE_ENOUGH: t.Final = 1e-10
# Of a: one connection does at most a million times the highest throughput.
_LEAST: t.Final = 1e-6

Floats = NDArray[np.float64]
_Number = t.TypeVar("_Number", float, Floats)


@dataclass(frozen=True, slots=True)
class Law:
    """One curve of the universal scalability law.

    :ivar rate: λ, work per second that one connection does alone; above 0.
    :ivar contention: σ, 0 or more.
    :ivar coherency: κ, 0 or more.
    """

    rate: float
    contention: float
    coherency: float

    def throughput(self, connections: _Number) -> _Number:
        """Return the work per second of so many connections."""
        n = connections
        cost = 1 + self.contention * (n - 1) + self.coherency * n * (n - 1)
        return self.rate * n / cost

    @property
    def best(self) -> float | None:
        """The number of connections with the highest throughput.

        None if the throughput never falls.
        """
        if self.coherency <= 0:
            return None
        return math.sqrt(max(1 - self.contention, 0) / self.coherency)


def fit(connections: ArrayLike, throughputs: ArrayLike) -> Law:
    """Return the law with the least squares of throughput.

    What is fitted are the terms a, b, c of N/X = a + b(N - 1) + cN(N - 1), none of
    them below 0: λ is 1/a, σ is b/a, κ is c/a. As N/X is linear in them, each step of
    Gauss-Newton is a linear problem with these bounds (C. L. Lawson and R. J. Hanson,
    *Solving Least Squares Problems*, 1974, chapter 23), which scipy solves exactly, and
    in a tenth of the time of ``least_squares``: the range needs 400 fits.

    :param connections: at work in each measurement, 1 or more; three numbers or more.
    :param throughputs: work per second in each, above 0.
    :raises ValueError: the measurements do not determine a law.
    """
    n, x = np.asarray(connections, float), np.asarray(throughputs, float)
    if len(np.unique(n)) < PARAMETERS:
        raise ValueError("three parameters need three numbers of connections")
    if not (np.all(n >= 1) and np.all(x > 0) and np.all(np.isfinite(x))):
        raise ValueError("each point needs a connection and a throughput above 0")
    unit = x.max()  # so that no square overflows
    x = x / unit
    factors = np.column_stack([np.ones_like(n), n - 1, n * (n - 1)])
    # The first step replaces the law by its tangent at what was measured.
    terms, modelled, error = np.zeros(PARAMETERS), x, np.inf
    for _ in range(_STEPS):
        slopes = modelled**2 / n
        target, _ = nnls(factors * slopes[:, np.newaxis], 2 * modelled - x)
        target[0] = max(target[0], _LEAST)
        before = error
        for share in _SHARES:
            tried = terms + share * (target - terms)
            curve = n / (factors @ tried)
            if (tried_error := np.sum((curve - x) ** 2)) < error:
                terms, modelled, error = tried, curve, tried_error
                break
        if error >= (1 - _CLOSE_ENOUGH) * before:
            break
    a, b, c = map(float, terms)
    return Law(float(unit) / a, b / a, c / a)
