"""Eight workers of eight threads before a server that has twenty connections.

A worker is killed every ten seconds, all are reloaded every fourteen, while old and new
ones live side by side, and each ends after some thousand requests. A second app of two
workers uses the server too. With pools of 5 + 10, stock and guarded, guarded with a
budget, and with pools that were sized by hand for that server. In turns, because a run
differs much from the next.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks.figures import Table, percentile
from benchmarks.load import Seen, load_from_outside
from benchmarks.saturation import APP
from benchmarks.support import IN_MEMORY, SERVERS
from flask_poolguard.budget.shared_file import BudgetFile
from tests.support.database_server import APP_USER, DatabaseServer
from tests.support.gunicorn import GunicornApp
from tests.support.processes import children_of
from tests.support.waiting import wait_until

WORKERS = THREADS = 8
CLIENTS = 64
OTHER_WORKERS, OTHER_THREADS, OTHER_CLIENTS = 2, 4, 8
CONNECTIONS = 20
# A tenth stays free: a server frees a connection a moment after it was closed.
BUDGET = 18
SECONDS = 60.0
ROUNDS = 5
KILL_EVERY, RELOAD_EVERY = 10.0, 14.0
MAX_REQUESTS = ("--max-requests=3000", "--max-requests-jitter=1000")

# For each app of two connections in each worker, and one in each of the other's.
BY_HAND = {"POOL_SIZE": "2", "MAX_OVERFLOW": "0"}
KINDS: dict[str, dict[str, str]] = {
    "stock": {"GUARDED": "no"},
    "guarded": {"GUARDED": "yes"},
    "with a budget": {"GUARDED": "yes", "BUDGET": str(BUDGET)},
    'with "auto"': {"GUARDED": "yes", "BUDGET": "auto"},
    "stock, by hand": {"GUARDED": "no", **BY_HAND},
    "guarded, by hand": {"GUARDED": "yes", **BY_HAND},
}


@dataclass
class Run:
    """What the clients of both apps saw.

    :ivar places: taken at the end, with a connection; None without a budget.
    :ivar sessions: that the server had at the end.
    """

    first: Seen
    other: Seen
    places: int | None
    sessions: int


def _rate(seen: Seen) -> float:
    return seen.done / seen.seconds


def _sum(runs: list[Run], count: Callable[[Seen], int]) -> str:
    return str(sum(count(run.first) + count(run.other) for run in runs))


def _median(runs: list[Run], figure: Callable[[Seen], float]) -> str:
    return f"{statistics.median(figure(run.first) for run in runs):.0f}"


FIGURES: dict[str, Callable[[list[Run]], str]] = {
    "good answers a second": lambda runs: _median(runs, _rate),
    "least and most": lambda runs: " to ".join(
        f"{end(_rate(each.first) for each in runs):.0f}" for end in (min, max)
    ),
    "of the other app": lambda runs: (
        f"{statistics.median(_rate(each.other) for each in runs):.0f}"
    ),
    "p99 ms": lambda runs: _median(
        runs, lambda seen: percentile(seen.latencies, 99) * 1000
    ),
    "refused by the server": lambda runs: _sum(
        runs, lambda seen: seen.failures - seen.broken
    ),
    "timeouts": lambda runs: _sum(runs, lambda seen: seen.timeouts),
    "broken by a kill": lambda runs: _sum(runs, lambda seen: seen.broken),
    "places, sessions at the end": lambda runs: ", ".join(
        f"{run.places} {run.sessions}" for run in runs if run.places is not None
    ),
}


def run(
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    servers: tuple[type[DatabaseServer], ...] = SERVERS,
    kinds: dict[str, dict[str, str]] = KINDS,
) -> Iterator[Table]:
    """Measure on each server."""
    for server_class in servers:
        with server_class() as server:
            url = server.url(database=server.create_database())
            limit(server, url)
            runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
            for _ in range(rounds):
                for kind, env in kinds.items():
                    runs[kind].append(measure(server, url, env, seconds))
        yield Table(
            server_class.product,
            ("", *kinds),
            [
                [name, *(figure(each) for each in runs.values())]
                for name, figure in FIGURES.items()
            ],
            [
                f"{WORKERS} workers × {THREADS} threads, {CLIENTS} clients; another app"
                f" of {OTHER_WORKERS} × {OTHER_THREADS} and {OTHER_CLIENTS}; a query of"
                f" 10 ms, {CONNECTIONS} connections for the user, a budget of {BUDGET};"
                f" {rounds} rounds of {seconds:g} s, medians and sums."
            ],
        )


def limit(server: DatabaseServer, url: sa.URL) -> None:
    """Let the app's user have few connections."""
    if url.get_backend_name() == "postgresql":
        server.execute(f"ALTER ROLE {APP_USER} CONNECTION LIMIT {CONNECTIONS}")
    else:
        server.execute(f"ALTER USER {APP_USER} WITH MAX_USER_CONNECTIONS {CONNECTIONS}")


def measure(
    server: DatabaseServer, url: sa.URL, kind: dict[str, str], seconds: float
) -> Run:
    """Put one kind of app under load, and its workers to the test."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        env = {
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "POOL_TIMEOUT": "30",
            "POOL_SIZE": "5",
            "MAX_OVERFLOW": "10",
            "POOLGUARD_STATE_DIR": str(Path(folder, "state")),
            "WORK_SECONDS": "0.01",
            "BUDGET_NAME": "crowd",
            **kind,
        }
        first = GunicornApp(
            APP,
            Path(folder),
            workers=WORKERS,
            threads=THREADS,
            env=env,
            arguments=MAX_REQUESTS,
        )
        if kind.items() >= BY_HAND.items():
            env |= {"POOL_SIZE": "1"}
        Path(folder, "other").mkdir()
        other = GunicornApp(
            APP,
            Path(folder, "other"),
            workers=OTHER_WORKERS,
            threads=OTHER_THREADS,
            env=env,
        )
        with first, other, ThreadPoolExecutor() as pool:
            loads = [
                pool.submit(
                    load_from_outside,
                    app.port,
                    "/transactions/1",
                    clients=clients,
                    warm=2.0,
                    seconds=seconds,
                )
                for app, clients in ((first, CLIENTS), (other, OTHER_CLIENTS))
            ]
            with disturbed(first):
                seen, seen_of_other = (each.result() for each in loads)
            end = at_rest(server, Path(env["POOLGUARD_STATE_DIR"]))
            return Run(seen, seen_of_other, *end)


def at_rest(server: DatabaseServer, state_dir: Path) -> tuple[int | None, int]:
    """Return places with a connection, if there is a budget, and the server's sessions,
    once nothing changes any more.
    """
    seen: list[tuple[int | None, int]] = []

    def is_quiet() -> bool:
        seen.append((places(state_dir), len(server.session_ids())))
        time.sleep(0.3)
        return len(seen) > 9 and len(set(seen[-9:])) == 1

    with contextlib.suppress(TimeoutError):
        wait_until(is_quiet, seconds=30)
    return seen[-1]


def places(state_dir: Path) -> int | None:
    """Return how many places have a connection; None without a budget."""
    for path in state_dir.glob("*.budget"):
        file = BudgetFile.find(str(state_dir), path.name)
        if file is not None:
            rows = file.rows().values()
            taken = sum(file.holders(CONNECTIONS).values())
            return taken - sum(row.spare for _, row in rows)
    return None


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
