"""Figures with their spread, and tables of them for a terminal or for Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# How wide a table may be in a terminal, in characters.
WIDTH = 80


@dataclass(frozen=True, slots=True)
class Curve:
    """What is found as a number grows, to be drawn.

    :ivar name: of a picture's file, without its ending.
    :ivar across: what the number is of.
    :ivar upward: what was found, with its unit.
    :ivar found: by kind and number, the values of all rounds.
    """

    name: str
    across: str
    upward: str
    found: Mapping[str, Mapping[int, Sequence[float]]]

    def steepest(self) -> str:
        """Say where each kind's medians grow most, from one number to the next."""
        steps = (
            f"{kind} {exponent:.2f} (from {low} to {high})"
            for kind, values in self.found.items()
            for exponent, low, high in [max(exponents(values))]
        )
        return f"Steepest step, as an exponent (1 is linear): {', '.join(steps)}."


@dataclass(frozen=True, slots=True)
class Table:
    """What a measurement found.

    :ivar title: what was measured on, such as a server and its driver.
    :ivar notes: sentences to stand below it.
    :ivar curve: the same, if it can be drawn.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    curve: Curve | None = None

    def text(self) -> str:
        """Return it for a terminal."""
        widths = [
            max(len(cell) for cell in column)
            for column in zip(self.head, *self.rows, strict=True)
        ]
        lines = [
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            ).rstrip()
            for row in (self.head, ["-" * width for width in widths], *self.rows)
        ]
        return "\n".join([f"{self.title}:", "", *lines, *self._below()])

    def markdown(self) -> str:
        """Return it for the documentation."""
        lines = [
            f"| {' | '.join(row)} |"
            for row in (self.head, ["---"] * len(self.head), *self.rows)
        ]
        return "\n".join([f"{self.title}:", "", *lines, *self._below()])

    def _below(self) -> Iterator[str]:
        for note in self.notes:
            yield ""
            yield from wrapped(note)


def wrapped(text: str) -> Iterator[str]:
    """Break a text into lines that fit."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > WIDTH:
            yield line
            line = word
        else:
            line = f"{line} {word}".lstrip()
    yield line


def figure(value: float) -> str:
    """Return a number with about three digits that mean something."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.{1 if size >= 10 else 2}f}"


def spread(values: Sequence[float]) -> str:
    """Return the median and the quartiles."""
    if len(values) < 2:
        return median(values)
    low, middle, high = quartiles(values)
    return f"{figure(middle)} ({figure(low)}-{figure(high)})"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles, of which the second is the median.

    :param values: two or more.
    """
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def exponents(
    found: Mapping[int, Sequence[float]],
) -> Iterator[tuple[float, int, int]]:
    """Return with which power of the number the medians grow, and between which two.

    On log-log axes it is the slope.
    """
    medians = [(number, statistics.median(found[number])) for number in sorted(found)]
    for (low, before), (high, after) in pairwise(medians):
        yield math.log(after / before) / math.log(high / low), low, high


def median(values: Sequence[float]) -> str:
    """Return the median alone."""
    return figure(statistics.median(values))


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """Return what values are to others of the same rounds; "-" if one of those is 0."""
    if not all(base):
        return "-"
    return spread([a / b for a, b in zip(values, base, strict=True)])


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the median; None for less than 6 values.

    In any distribution a value is above the median as likely as below it, so
    that the number of those below is that of heads among as many tosses of a coin.
    """
    ordered, count = sorted(values), len(values)
    outside, left_out = 0.0, -1
    while (outside := outside + 2 * math.comb(count, left_out + 1) / 2**count) <= 0.05:
        left_out += 1
    return (ordered[left_out], ordered[-1 - left_out]) if left_out >= 0 else None


def difference(values: Sequence[float], base: Sequence[float]) -> str:
    """Return what values exceed others of the same rounds by."""
    return spread([a - b for a, b in zip(values, base, strict=True)])


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
