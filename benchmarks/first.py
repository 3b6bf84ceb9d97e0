"""The first request of a worker, with and without a connection that lies ready.

Each turn makes an app of its own, lets idle connections be opened, as they are within
two seconds of a worker's start, and measures the first request, of one query. The
server is on the same machine: over a network a connect takes longer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from benchmarks.figures import Table, ratio, spread
from benchmarks.support import IN_MEMORY, SERVERS, database, in_turns
from flask_poolguard import PoolGuard
from flask_poolguard.app_state import state_of

ROUNDS = 40
# Seconds after which something is wrong.
FILLED_WITHIN = 20.0
ONE = sa.text("SELECT 1")


def run() -> Iterator[Table]:
    """Measure on each server."""
    rows = []
    for server_class in SERVERS:
        with database(server_class) as (name, url):
            found = in_turns(
                {
                    "cold": partial(first_request, url, 0),
                    "warm": partial(first_request, url, 1),
                },
                ROUNDS,
            )
            cold, warm = found["cold"], found["warm"]
            rows.append([name, spread(cold), spread(warm), ratio(warm, cold)])
    yield Table(
        f"The first request of a worker, {ROUNDS} of each",
        ("", "POOLGUARD_MIN_IDLE = 0, ms", "POOLGUARD_MIN_IDLE = 1, ms", "1 / 0"),
        rows,
    )


def first_request(url: sa.URL, idle: int) -> float:
    """Return how many ms it takes.

    :param idle: how many connections are to lie ready.
    :raises RuntimeError: they do not come, or the answer is another than 200.
    """
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        app = Flask("benchmark")
        app.config.update(
            SQLALCHEMY_DATABASE_URI=url,
            POOLGUARD_MIN_IDLE=idle,
            POOLGUARD_STATE_DIR=folder,
        )
        db = SQLAlchemy(app)
        PoolGuard(app)
        app.get("/")(lambda: str(db.session.scalar(ONE)))
        with app.app_context():
            engine = db.engine
        state = state_of(app)
        state.app_tracker.show_started(None)
        filled = time.perf_counter()
        while engine.pool.checkedin() < idle:  # type: ignore[attr-defined] # a queue pool
            if time.perf_counter() - filled > FILLED_WITHIN:
                raise RuntimeError(f"{idle} were to be idle: {engine.pool.status()}")
            state.idle_filling.fill()
        client = app.test_client()
        begun = time.perf_counter()
        status = client.get("/").status_code
        took = time.perf_counter() - begun
        engine.dispose()
        if status != 200:
            raise RuntimeError(f"The request was answered with {status}")
        return took * 1000
