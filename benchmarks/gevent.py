"""The same as `saturation`, with greenlets for threads.

On MariaDB only: PyMySQL waits in a way that gevent knows, psycopg2 in C, where it would
hold up every greenlet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Table
from benchmarks.saturation import APP, CLIENTS, Case
from benchmarks.saturation import run as saturate
from tests.support.app_server import AppServer
from tests.support.gunicorn import GunicornApp
from tests.support.servers import MariaDBServer

CASES = (Case(1, 30, 4, 3), Case(5, 30, 4, 6), Case(5, 0.5, 4, 4))


def run() -> Iterator[Table]:
    """Measure on MariaDB."""
    return saturate(gevent, CASES, (MariaDBServer,))


def gevent(folder: Path, env: dict[str, str]) -> AppServer:
    """Return gunicorn with one worker of greenlets."""
    return GunicornApp(
        APP,
        folder,
        worker_class="gevent",
        env=env,
        arguments=(f"--worker-connections={CLIENTS}",),
    )
