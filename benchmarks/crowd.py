"""Eight workers of eight threads before a server that has twenty connections.

A worker is killed every ten seconds, and all are reloaded every fourteen, while old and
new ones live side by side. With pools of 5 + 10, stock and guarded, guarded with a
budget, and with pools that were sized by hand for that server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from benchmarks.figures import Table, percentile
from benchmarks.load import Seen, load_from_outside
from benchmarks.saturation import APP
from benchmarks.support import IN_MEMORY, SERVERS
from tests.support.database_server import APP_USER, DatabaseServer
from tests.support.gunicorn import GunicornApp
from tests.support.processes import children_of

WORKERS = THREADS = 8
CLIENTS = 48
CONNECTIONS = 20
# A tenth stays free: a server frees a connection a moment after it was closed.
BUDGET = 18
SECONDS = 60.0
KILL_EVERY, RELOAD_EVERY = 10.0, 14.0

KINDS: dict[str, dict[str, str]] = {
    "stock": {"GUARDED": "no"},
    "guarded": {"GUARDED": "yes"},
    "with a budget": {"GUARDED": "yes", "BUDGET": str(BUDGET)},
    "stock, by hand (2 + 0)": {"GUARDED": "no", "POOL_SIZE": "2", "MAX_OVERFLOW": "0"},
}
FIGURES: dict[str, Callable[[Seen], str]] = {
    "good answers a second": lambda seen: f"{seen.done / seen.seconds:.0f}",
    "p99 ms": lambda seen: f"{percentile(seen.latencies, 99) * 1000:.0f}",
    "refused by the server": lambda seen: str(seen.failures - seen.broken),
    "timeouts": lambda seen: str(seen.timeouts),
    "broken by a kill": lambda seen: str(seen.broken),
}


def run(
    seconds: float = SECONDS, servers: tuple[type[DatabaseServer], ...] = SERVERS
) -> Iterator[Table]:
    """Measure on each server."""
    for server_class in servers:
        with server_class() as server:
            url = server.url(database=server.create_database())
            limit(server, url)
            seen = {kind: measure(url, env, seconds) for kind, env in KINDS.items()}
        yield Table(
            server_class.product,
            ("", *KINDS),
            [
                [name, *(figure(each) for each in seen.values())]
                for name, figure in FIGURES.items()
            ],
            [
                f"{WORKERS} workers × {THREADS} threads, {CLIENTS} clients, a query of"
                f" 10 ms, {CONNECTIONS} connections for the user, a budget of {BUDGET}."
            ],
        )


def limit(server: DatabaseServer, url: sa.URL) -> None:
    """Let the app's user have few connections."""
    if url.get_backend_name() == "postgresql":
        server.execute(f"ALTER ROLE {APP_USER} CONNECTION LIMIT {CONNECTIONS}")
    else:
        server.execute(f"ALTER USER {APP_USER} WITH MAX_USER_CONNECTIONS {CONNECTIONS}")


def measure(url: sa.URL, kind: dict[str, str], seconds: float) -> Seen:
    """Put one kind of app under load, and its workers to the test."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        env = {
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "POOL_TIMEOUT": "30",
            "POOL_SIZE": "5",
            "MAX_OVERFLOW": "10",
            "POOLGUARD_STATE_DIR": folder,
            "WORK_SECONDS": "0.01",
            **kind,
        }
        server = GunicornApp(
            APP, Path(folder), workers=WORKERS, threads=THREADS, env=env
        )
        with server, disturbed(server):
            return load_from_outside(
                server.port,
                "/transactions/1",
                clients=CLIENTS,
                warm=2.0,
                seconds=seconds,
            )


@contextlib.contextmanager
def disturbed(server: GunicornApp) -> Iterator[None]:
    """Kill a worker and reload all of them, again and again."""
    is_over = threading.Event()

    def disturb() -> None:
        begun = time.monotonic()
        kill_at, reload_at = begun + KILL_EVERY, begun + RELOAD_EVERY
        while not is_over.wait(0.1):
            now = time.monotonic()
            if now >= kill_at:
                kill_at += KILL_EVERY
                workers = sorted(children_of(server.pid))
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(workers[0], signal.SIGKILL)
            if now >= reload_at:
                reload_at += RELOAD_EVERY
                os.kill(server.pid, signal.SIGHUP)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
