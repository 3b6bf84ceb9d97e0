"""The same as `saturation`, under waitress with as many threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Table
from benchmarks.saturation import APP, THREADS, Case
from benchmarks.saturation import run as saturate
from tests.support.app_server import AppServer
from tests.support.waitress import WaitressApp

CASES = (Case(1, 30, 3), Case(5, 30, 4), Case(5, 0.5, 4))


def run() -> Iterator[Table]:
    """Measure on each server."""
    return saturate(waitress, CASES)


def waitress(folder: Path, env: dict[str, str]) -> AppServer:
    """Return waitress with many threads."""
    # waitress wants the factory called by itself.
    arguments = ("--call",)
    app = APP.removesuffix("()")
    return WaitressApp(app, folder, threads=THREADS, env=env, arguments=arguments)
