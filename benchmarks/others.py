"""What a user would take in place of the guard, side by side with it.

SQLAlchemy's pools, psycopg_pool and DBUtils' pool behind a `NullPool`, PgBouncer before
one. Two figures: a checkout, one statement and a checkin, with one thread; and requests
of five short transactions from 64 threads on five connections, each thread again as
soon as it has its answer. All in one process, which calls the apps by their WSGI
interface. The apps use no ORM session: the guard listens to those of other apps too.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from flask import Flask

from benchmarks.app import SLEEP
from benchmarks.contenders import CONTENDERS, POSTGRESQL_ONLY, NotInstalledError
from benchmarks.figures import Table, median, percentile, ratio, spread
from benchmarks.support import (
    GUARDED,
    IN_MEMORY,
    SERVERS,
    STOCK,
    database,
    in_turns,
    microseconds,
    one_core,
    select,
)
from benchmarks.views import requester
from flask_poolguard import PoolGuard
from tests.support.servers import DatabaseServer

THREADS = 64
CONNECTIONS = 5
TRANSACTIONS = 5
WORK_SECONDS = 0.002
# Of the one thread.
BATCHES = 60
TURNS = 40
# Of the many.
ROUNDS = 6
WARM_SECONDS = 0.4
SECONDS = 5.0
# The driver that all contenders have in common.
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
# The view of all apps.
PATH = "/transactions"


@dataclass(frozen=True, slots=True)
class Crowd:
    """What many threads saw in one round.

    :ivar latencies: seconds of each request that was answered within the time that is
        measured, or was under way at its end.
    """

    per_second: float
    latencies: list[float]
    processor_ms: float


def run(servers: tuple[type[DatabaseServer], ...] = SERVERS) -> Iterator[Table]:
    """Measure on each server."""
    for server_class in servers:
        # What is started on one core stays there, the server too.
        with one_core(), database(server_class) as (name, url):
            yield statement_table(name, with_driver(url))
        with database(server_class) as (name, url):
            yield crowd_table(name, with_driver(url))


def with_driver(url: sa.URL) -> sa.URL:
    """Return the URL of the same database for the driver that all use."""
    return url.set(drivername=DRIVERS[url.get_backend_name()])


def statement_table(name: str, url: sa.URL) -> Table:
    """Measure one thread."""
    with contenders(url, 1) as (made, missing):
        turns = {}
        for kind, (app, engine) in made.items():
            turn = select(engine)
            with app.test_request_context("/"):
                turn()
            turns[kind] = partial(in_request, app, turn)
        found = in_turns(turns, BATCHES)
    rows = [
        [kind, spread(times), ratio(times, found[STOCK])]
        for kind, times in found.items()
    ]
    return Table(
        f"{title(name, url)}, one thread, checkout, SELECT 1, checkin, on one core",
        ("", "µs", "/ stock"),
        [*rows, *([kind, why, ""] for kind, why in missing.items())],
    )


def crowd_table(name: str, url: sa.URL) -> Table:
    """Measure many threads."""
    with (
        ThreadPoolExecutor(THREADS) as threads,
        contenders(url, THREADS) as (made, missing),
    ):
        found = in_turns(
            {kind: partial(crowd, app, threads) for kind, (app, _) in made.items()},
            ROUNDS,
        )
    return Table(
        f"{title(name, url)}, {THREADS} threads on {CONNECTIONS} connections,"
        f" requests of {TRANSACTIONS}×{WORK_SECONDS * 1000:g} ms",
        ("", "requests/s", "/ stock", "p99 ms", "/ stock", "CPU ms"),
        [
            *(crowd_row(kind, rounds, found[STOCK]) for kind, rounds in found.items()),
            *([kind, why, *[""] * 4] for kind, why in missing.items()),
        ],
        [
            f"One per thread has {THREADS} connections. The processor time is this"
            " process's, for a request; PgBouncer has its own besides. A request that"
            f" waits longer than a round, {WARM_SECONDS + SECONDS:g} s, is let through"
            " at its end."
        ],
    )


def crowd_row(kind: str, rounds: list[Crowd], base: list[Crowd]) -> list[str]:
    """Return a row, with ratios to stock's rounds."""
    cells = []
    for figure in (rate, p99_ms):
        here, stock = ([figure(each) for each in those] for those in (rounds, base))
        cells += [median(here), ratio(here, stock)]
    return [kind, *cells, median([each.processor_ms for each in rounds])]


def rate(seen: Crowd) -> float:
    """Return the requests per second."""
    return seen.per_second


def p99_ms(seen: Crowd) -> float:
    """Return what 99 % of the requests took at most."""
    return percentile(seen.latencies, 99) * 1000


def title(name: str, url: sa.URL) -> str:
    """Return the server's name with the driver that is used."""
    return f"{name.partition(',')[0]}, {url.get_driver_name()}"


@contextlib.contextmanager
def contenders(
    url: sa.URL, threads: int
) -> Iterator[tuple[dict[str, tuple[Flask, sa.Engine]], dict[str, str]]]:
    """Give app and engine by contender, and why others are left out."""
    made, missing = {}, {}
    with contextlib.ExitStack() as stack:
        for kind, make in CONTENDERS.items():
            if kind in POSTGRESQL_ONLY and url.get_backend_name() != "postgresql":
                continue
            try:
                engine = stack.enter_context(make(url, CONNECTIONS, threads))
            except NotInstalledError as error:
                missing[kind] = str(error)
                continue
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=IN_MEMORY))
            made[kind] = make_app(engine, folder, kind == GUARDED), engine
        yield made, missing


def make_app(engine: sa.Engine, folder: str, guarded: bool) -> Flask:
    """Return an app with one view, which runs short transactions in a row.

    :param folder: for the state file.
    """
    app = Flask("benchmark")
    app.config["POOLGUARD_STATE_DIR"] = folder
    if guarded:
        PoolGuard(app).register(engine, app=app)
    work = sa.text(SLEEP[engine.dialect.name]).bindparams(seconds=WORK_SECONDS)

    @app.get(PATH)
    def transactions() -> str:
        for _ in range(TRANSACTIONS):
            with engine.begin() as connection:
                connection.execute(work)
        return "done"

    return app


def in_request(app: Flask, turn: Callable[[], None]) -> float:
    """Return the µs that one turn takes within a request."""
    with app.test_request_context("/"):
        return microseconds(turn, TURNS)


def crowd(app: Flask, threads: ThreadPoolExecutor) -> Crowd:
    """Let all threads ask, each again as soon as it has its answer."""
    ask = requester(app, PATH)
    ready = threading.Barrier(THREADS + 1)
    # By thread, when each of its requests began and ended.
    spans: list[list[tuple[float, float]]] = [[] for _ in range(THREADS)]
    over = threading.Event()

    def work(mine: list[tuple[float, float]]) -> None:
        ready.wait()
        while not over.is_set():
            began = time.perf_counter()
            ask()
            mine.append((began, time.perf_counter()))

    running = [threads.submit(work, mine) for mine in spans]
    ready.wait()
    time.sleep(WARM_SECONDS)
    start, processor = time.perf_counter(), time.process_time()
    time.sleep(SECONDS)
    end, processor = time.perf_counter(), time.process_time() - processor
    over.set()
    for each in running:
        each.result()
    those = [span for mine in spans for span in mine if span[1] >= start]
    done = sum(ended < end for _, ended in those)
    return Crowd(
        done / (end - start),
        [ended - began for began, ended in those if began < end],
        processor / max(1, done) * 1000,
    )
