"""The same as `saturation`, under waitress with as many threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Table
from benchmarks.saturation import THREADS, Case
from benchmarks.saturation import run as saturate
from tests.support.app_server import AppServer
from tests.support.waitress import WaitressApp

CASES = (Case(1, 30, 4, 2), Case(5, 30, 4, 3), Case(5, 0.5, 4, 3))


def run() -> Iterator[Table]:
    """Measure on each server."""
    return saturate(waitress, CASES)


def waitress(folder: Path, env: dict[str, str]) -> AppServer:
    """Return waitress with many threads."""
    return WaitressApp("benchmarks.wsgi:app", folder, threads=THREADS, env=env)
