"""The same as `overload`, with greenlets for threads."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Table
from benchmarks.gevent import gevent
from benchmarks.overload import run as overload


def run() -> Iterator[Table]:
    """Measure each timeout."""
    return overload(gevent)
