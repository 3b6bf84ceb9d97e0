"""Cheap measurements of the guard that PYTHONPATH leads to, for `compare`.

    python -m benchmarks.one_tree NAME FOLDER

Prints the names of figures as JSON, then for each of them that it reads from its
standard input what one short batch finds. Figures are processor time where nothing else
is said. FOLDER is where the guard must come from.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from flask import Flask

import flask_poolguard
from benchmarks import imports, instructions
from benchmarks.growth import pools
from benchmarks.requests import processor_time
from benchmarks.support import GUARDED, IN_MEMORY, checkout, engines
from benchmarks.timeouts import held_pools, time_out
from benchmarks.views import VIEWS, make_app, requester

# Each runs a batch.
Batches = dict[str, Callable[[], float]]


@contextlib.contextmanager
def requests() -> Iterator[Batches]:
    """Ask for each view, through the WSGI interface."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        app, _ = make_app(Path(folder), guarded=True)
        batches: Batches = {}
        for path, name in VIEWS.items():
            turn = requester(app, path)
            turn()  # the first one connects
            batches[f"{name}, µs"] = partial(processor_time, turn, 20)
        yield batches


@contextlib.contextmanager
def checkouts() -> Iterator[Batches]:
    """Take connections and give them back, of SQLite and of each server that runs."""
    urls: dict[str, str] = json.loads(os.environ["BENCHMARK_SERVERS"])
    with contextlib.ExitStack() as stack:
        app, engine = stack.enter_context(pools(5))[GUARDED]
        batches: Batches = {
            "SQLite, µs": partial(in_a_request, app, engine),
            "each in an app context, µs": partial(in_app_contexts, app, engine),
        }
        for name, url in urls.items():
            app, made = stack.enter_context(engines(url, GUARDED))
            batches[f"{name}, µs"] = partial(in_a_request, app, made[GUARDED])
        for batch in batches.values():
            batch()
        yield batches


def in_a_request(app: Flask, engine: sa.Engine) -> float:
    """Take a connection many times within one request."""
    with app.test_request_context("/"):
        return processor_time(checkout(engine), 200)


def in_app_contexts(app: Flask, engine: sa.Engine) -> float:
    """Take a connection once in each app context."""

    def turn() -> None:
        with app.app_context():
            engine.pool.connect().close()

    return processor_time(turn, 100)


@contextlib.contextmanager
def timeouts() -> Iterator[Batches]:
    """Let threads run into the pool's timeout."""
    with held_pools() as turns:
        yield {"a timeout, µs": partial(time_out, *turns[GUARDED], 1)}


@contextlib.contextmanager
def imported() -> Iterator[Batches]:
    """Import the guard after Flask and SQLAlchemy."""
    imports.once()  # compiles
    yield {"elapsed time, ms": lambda: imports.once()[1]}


@contextlib.contextmanager
def counted() -> Iterator[Batches]:
    """Count the instructions of two kinds of turn; each takes two slow runs."""
    yield {
        f"{instructions.ROWS[each]}, thousands": partial(
            instructions.of_a_turn, each, GUARDED
        )
        for each in ("checkout", "/session")
    }


MEASUREMENTS = {
    "requests": requests,
    "checkout": checkouts,
    "timeouts": timeouts,
    "imports": imported,
    "instructions": counted,
}


def main() -> None:
    """Run batches until the standard input ends.

    :raises RuntimeError: if the guard, here or in a process of this one, is another.
    """
    _, name, folder = sys.argv
    code = "import importlib.util as u; print(u.find_spec('flask_poolguard').origin)"
    in_a_child = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    for path in (flask_poolguard.__file__, in_a_child):
        if not Path(path).is_relative_to(folder):
            raise RuntimeError(f"The guard came from {path}, not from {folder}")
    with MEASUREMENTS[name]() as batches:
        print(json.dumps(list(batches)), flush=True)
        for line in sys.stdin:
            print(batches[line.rstrip("\n")](), flush=True)


if __name__ == "__main__":
    main()
