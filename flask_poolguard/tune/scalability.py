"""The universal scalability law, and its least-squares fit.

With N connections at work the throughput is

    X(N) = λN / (1 + σ(N - 1) + κN(N - 1))

λ is what one connection does alone, σ the share of the work that cannot be done side by
side (contention), κ what each pair of connections costs (coherency). N. J. Gunther,
*Guerrilla Capacity Planning* (Springer, 2007), chapters 4 to 6, and *A General Theory
of Computational Scalability Based on Rational Functions* (arXiv:0808.1431). That λ is
fitted too, and not taken from a measurement at N = 1, follows his three-parameter form
of 2018 (*USL Scalability Modeling with Three Parameters*).
"""

from __future__ import annotations

import itertools
import math
import typing as t
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS: t.Final = 50
_HALVINGS: t.Final = 20
# Relative; far below what any measurement of a database repeats to.
_CLOSE_ENOUGH: t.Final = 1e-10

# The law's denominator divided by λ: a + b(N - 1) + cN(N - 1).
_Terms = tuple[float, float, float]


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

    def throughput(self, connections: float) -> float:
        """Return the work per second of so many connections."""
        n = connections
        cost = 1 + self.contention * (n - 1) + self.coherency * n * (n - 1)
        return self.rate * n / cost

    @property
    def best(self) -> float | None:
        """The number of connections with the highest throughput.

        None if it rises, or stays level, for ever.
        """
        if self.coherency <= 0:
            return None
        return math.sqrt(max(1 - self.contention, 0) / self.coherency)


class Point(t.NamedTuple):
    """A measurement: connections at work, and work done per second."""

    connections: float
    throughput: float


def fit(points: Sequence[Point]) -> Law:
    """Return the law that leaves the least squares of throughput.

    Gauss-Newton on the terms of N/X, of which the law is a linear function, so the
    first step solves the linearised problem; each step obeys the bounds.

    :param points: of three or more different numbers of connections, 1 or more each.
    :raises ValueError: fewer than that, or nothing was done at one of them.
    """
    if len({point.connections for point in points}) < 3:
        raise ValueError("three parameters need three numbers of connections")
    if not all(
        point.connections >= 1 and 0 < point.throughput < math.inf for point in points
    ):
        raise ValueError("each point needs a connection and a throughput above 0")
    # In units of the highest throughput, so that no sum overflows or vanishes.
    unit = max(point.throughput for point in points)
    points = [Point(n, x / unit) for n, x in points]
    terms = _linearised(points)
    error = _error(points, terms)
    for _ in range(_STEPS):
        target = _gauss_newton(points, terms)
        for halving in range(_HALVINGS):
            share = 0.5**halving
            tried = t.cast(
                _Terms,
                tuple(a + share * (b - a) for a, b in zip(terms, target, strict=True)),
            )
            tried_error = _error(points, tried)
            if tried_error < error:
                break
        else:
            break
        is_level = error - tried_error <= _CLOSE_ENOUGH * error
        terms, error = tried, tried_error
        if is_level:
            break
    a, b, c = terms
    return Law(unit / a, b / a, c / a)


def _row(n: float) -> _Terms:
    return 1.0, n - 1, n * (n - 1)


def _modelled(n: float, terms: _Terms) -> float:
    """Return the throughput that the terms stand for."""
    return n / _product(_row(n), terms)


def _product(row: _Terms, terms: _Terms) -> float:
    return sum(factor * term for factor, term in zip(row, terms, strict=True))


def _error(points: Sequence[Point], terms: _Terms) -> float:
    if terms[0] <= 0:
        return math.inf
    return sum((x - _modelled(n, terms)) ** 2 for n, x in points)


def _linearised(points: Sequence[Point]) -> _Terms:
    """Fit N/X, each point weighted by what an error of X makes of N/X."""
    rows = [(_row(n), n / x, x * x / n) for n, x in points]
    return _bounded(rows)


def _gauss_newton(points: Sequence[Point], terms: _Terms) -> _Terms:
    """Solve the problem with the law replaced by its tangent at these terms."""
    rows = []
    for n, x in points:
        modelled = _modelled(n, terms)
        slope = modelled * modelled / n  # of X, by each of the terms' own factors
        # x ≈ modelled - slope·row·(new - terms), and row·terms = n / modelled.
        rows.append((_row(n), n / modelled + (modelled - x) / slope, slope))
    return _bounded(rows)


def _bounded(rows: Sequence[tuple[_Terms, float, float]]) -> _Terms:
    """Return the terms, none below 0 and the first above, of the least squares.

    With so few unknowns every choice of those that are 0 can be tried.

    :param rows: factors, value and weight of each equation.
    """
    best, least = (0.0, 0.0, 0.0), math.inf
    for size in (3, 2, 1):
        for free in itertools.combinations(range(3), size):
            terms = _solve(rows, free)
            if terms is None or terms[0] <= 0 or min(terms) < 0:
                continue
            error = sum(
                (weight * (value - _product(row, terms))) ** 2
                for row, value, weight in rows
            )
            if error < least:
                best, least = terms, error
    return best


def _solve(
    rows: Sequence[tuple[_Terms, float, float]], free: tuple[int, ...]
) -> _Terms | None:
    """Solve the normal equations for some of the terms, by Gauss's elimination.

    :returns: all terms, the others 0; None if the rows do not determine them.
    """
    # Columns are brought to one length first: their sizes differ by N².
    lengths = {
        i: math.sqrt(sum((weight * row[i]) ** 2 for row, _, weight in rows))
        for i in free
    }
    if not all(lengths.values()):
        return None
    matrix = [
        [
            sum(w * w * row[i] * row[j] for row, _, w in rows) / lengths[i] / lengths[j]
            for j in free
        ]
        + [sum(w * w * row[i] * value for row, value, w in rows) / lengths[i]]
        for i in free
    ]
    size = len(free)
    for column in range(size):
        pivot = max(range(column, size), key=lambda line: abs(matrix[line][column]))
        if abs(matrix[pivot][column]) < 1e-12:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for line in range(size):
            if line != column:
                factor = matrix[line][column] / matrix[column][column]
                for k in range(column, size + 1):
                    matrix[line][k] -= factor * matrix[column][k]
    terms = [0.0, 0.0, 0.0]
    for position, i in enumerate(free):
        terms[i] = matrix[position][size] / matrix[position][position] / lengths[i]
    return t.cast(_Terms, tuple(terms))
