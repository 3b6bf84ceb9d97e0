"""What the guard adds to a checkout and checkin, and to a ``SELECT 1``.

The same engine twice, one of them guarded, in alternating short batches of one
process, so that whatever else the machine does falls on both. Client and server
share one core: where the scheduler wakes the server's process, on the same core or on
another, changes a round trip by more than everything that is measured here.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable

import sqlalchemy as sa
from flask import Flask

from flask_poolguard import PoolGuard
from tests.support.servers import MariaDBServer, PostgreSQLServer

BATCHES = 120


def main() -> None:
    """Print medians in µs and the quartiles of the difference."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for server_class in (PostgreSQLServer, MariaDBServer):
        with server_class() as server, tempfile.TemporaryDirectory() as folder:
            url = server.url(database=server.create_database())
            app = Flask("benchmark")
            app.config["POOLGUARD_STATE_DIR"] = folder
            stock, guarded = sa.create_engine(url), sa.create_engine(url)
            PoolGuard(app).register(guarded, app=app)
            with app.test_request_context("/"):
                print(f"{server_class.__name__}:")
                compare("checkout + checkin", checkout(stock), checkout(guarded), 500)
                compare("SELECT 1", select(stock), select(guarded), 50)
            stock.dispose()
            guarded.dispose()


def checkout(engine: sa.Engine) -> Callable[[], None]:
    """Return one turn at the pool alone."""
    return lambda: engine.pool.connect().close()


def select(engine: sa.Engine) -> Callable[[], None]:
    """Return one turn with a statement."""
    statement = sa.text("SELECT 1")

    def turn() -> None:
        with engine.connect() as connection:
            connection.execute(statement)

    return turn


def compare(
    name: str, stock: Callable[[], None], guarded: Callable[[], None], turns: int
) -> None:
    """Time both in turns and print the difference."""
    stock_times, guarded_times = [], []
    for _ in range(BATCHES):
        stock_times.append(time_of(stock, turns))
        guarded_times.append(time_of(guarded, turns))
    added = [b - a for a, b in zip(stock_times, guarded_times, strict=True)]
    low, middle, high = statistics.quantiles(added, n=4)
    ratio = statistics.median(guarded_times) / statistics.median(stock_times)
    print(
        f"  {name}: stock {statistics.median(stock_times):.1f} µs, guarded"
        f" {statistics.median(guarded_times):.1f} µs, added {middle:.1f} µs"
        f" (quartiles {low:.1f} to {high:.1f}), ratio {ratio:.3f}"
    )


def time_of(turn: Callable[[], None], turns: int) -> float:
    """Return the µs that one turn takes."""
    start = time.perf_counter()
    for _ in range(turns):
        turn()
    return (time.perf_counter() - start) / turns * 1e6
