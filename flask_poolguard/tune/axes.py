"""Axes of a diagram: positions, ticks and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def place_of(size: float, largest: float) -> float:
    """Return where a pool size stands on its axis, from 0 (size 1) to 1 (largest).

    The axis is logarithmic: it matters most where sizes are small.
    """
    return math.log(size) / math.log(largest) if largest > 1 else 0.0


def size_at(place: float, largest: float) -> float:
    """Return the pool size at a place, the inverse of :func:`place_of`."""
    return math.exp(place * math.log(largest))


def ticks(highest: float, about: int = 5) -> Sequence[float]:
    """Return round values from 0 to at least *highest*, about so many above 0."""
    if not highest > 0:
        return [0.0, 1.0]
    rough = highest / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= rough)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def number(value: float) -> str:
    """Return a number as short as its size allows: 0.5, 12.3, 123, 12,345."""
    if value and abs(value) < 10:
        return f"{value:.2g}"
    return f"{value:,.1f}" if abs(value) < 100 and value % 1 else f"{value:,.0f}"


def latency(seconds: float | None) -> str:
    """Return a latency in the unit that suits it, ``?`` if it is unknown."""
    if seconds is None:
        return "?"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{number(seconds * 1000)} ms"
