"""The same as `overload`, under waitress with as many threads."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Table
from benchmarks.overload import run as overload
from benchmarks.waitress import waitress


def run() -> Iterator[Table]:
    """Measure each timeout."""
    return overload(waitress)
