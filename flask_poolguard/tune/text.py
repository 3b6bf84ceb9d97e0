"""Figures of a run as text, no longer than their size allows."""

from __future__ import annotations

from ..report.text import UNKNOWN


def number(value: float) -> str:
    """Return a number: 0.5, 12.3, 123, 12,345."""
    if value and abs(value) < 10:
        return f"{value:.2g}"
    text = f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
    return text.removesuffix(".0")


def latency(seconds: float | None) -> str:
    """Return a latency in seconds or milliseconds, ``?`` if it is unknown."""
    if seconds is None:
        return UNKNOWN
    return f"{seconds:.2f} s" if seconds >= 1 else f"{number(seconds * 1000)} ms"


def share(value: float | None) -> str:
    """Return a share in per cent, ``?`` if it is unknown."""
    return UNKNOWN if value is None else f"{value:.0%}"


def count(amount: int, what: str) -> str:
    """Return how many there are: ``1 process``, ``2 processes``."""
    plural = "" if amount == 1 else "es" if what.endswith("s") else "s"
    return f"{amount} {what}{plural}"
