"""What a turn at the pool costs as threads, connections, engines, turns become more.

The connections are SQLite's, in memory, so that next to nothing but the pools' own
work is seen. Each turn has an app context of its own, as a request has, and each
thread gives the processor away while it holds a connection, so that the others really
wait. What is counted is the processor's time, so that what the machine does besides
stays out.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.pool import QueuePool

from benchmarks.figures import Curve, Table, ratio, spread
from benchmarks.support import GUARDED, STOCK, engines, in_turns
from flask_poolguard import PoolGuard

KINDS = (STOCK, GUARDED)
WAITING_THREADS = (1, 4, 16, 64, 256, 512)
CONNECTIONS = (1, 5, 20, 100, 200)
ENGINES = (1, 10, 100, 1000)
TURNS_OF_A_REQUEST = (1, 5, 20, 50)
ROUNDS = 10
SECONDS = 0.4
# Long enough for the others to come and wait.
HELD_SECONDS = 0.0002
TURNS = 1000


def run() -> Iterator[Table]:
    """Measure with more and more of each."""
    yield table(
        "Threads on a pool of 5, processor time of a turn",
        *("threads", "threads"),
        {each: with_threads(each) for each in WAITING_THREADS},
    )
    for held in (False, True):
        rest = "held" if held else "idle"
        yield table(
            f"One thread on pools of many connections, the others {rest}",
            *("connections", f"connections-{rest}"),
            {each: with_connections(each, held) for each in CONNECTIONS},
        )
    yield table(
        "One thread and many engines in the process, each with one connection",
        *("engines", "engines"),
        {each: with_engines(each) for each in ENGINES},
    )
    yield table(
        "One thread, many turns in a row within one request, each turn's share",
        *("turns", "turns"),
        {each: with_requests(each) for each in TURNS_OF_A_REQUEST},
    )


def table(
    title: str, across: str, name: str, found: dict[int, dict[str, list[float]]]
) -> Table:
    """Return a row for each number, and a curve for each kind.

    :param across: what the number is of.
    :param name: of the picture.
    """
    curve = Curve(
        f"growth-{name}",
        across,
        "processor time of a turn, µs",
        {kind: {n: both[kind] for n, both in found.items()} for kind in KINDS},
    )
    rows = [
        [str(n), *(spread(both[k]) for k in KINDS), ratio(both[GUARDED], both[STOCK])]
        for n, both in found.items()
    ]
    head = (across, "stock µs", "guarded µs", "guarded/stock")
    return Table(title, head, rows, [curve.steepest()], curve)


def with_threads(count: int) -> dict[str, list[float]]:
    """Let many threads take turns at five connections."""
    with pools(5) as turns:
        return in_turns(
            {kind: partial(crowd, *turns[kind], count) for kind in KINDS}, ROUNDS
        )


def with_connections(count: int, held: bool) -> dict[str, list[float]]:
    """Take turns at one of many connections."""
    with contextlib.ExitStack() as stack:
        turns = stack.enter_context(pools(count))
        for app, engine in turns.values():
            with contextlib.ExitStack() as filling:
                for _ in range(count):
                    filling.enter_context(engine.connect())
            if held:
                stack.enter_context(app.app_context())
                for _ in range(count - 1):
                    stack.enter_context(engine.connect())
        return in_turns({kind: partial(alone, *turns[kind]) for kind in KINDS}, ROUNDS)


def with_engines(count: int) -> dict[str, list[float]]:
    """Take turns at one of many engines."""
    with contextlib.ExitStack() as stack:
        turns = stack.enter_context(pools(1))
        for kind, (app, _) in turns.items():
            for number in range(1, count):
                other = sa.create_engine("sqlite://", **options(1))
                stack.callback(other.dispose)
                if kind == GUARDED:
                    PoolGuard().register(other, name=f"other{number}", app=app)
                with app.app_context(), other.connect():
                    pass
        return in_turns({kind: partial(alone, *turns[kind]) for kind in KINDS}, ROUNDS)


def with_requests(count: int) -> dict[str, list[float]]:
    """Take many turns in each request."""
    with pools(5) as turns:
        return in_turns(
            {kind: partial(alone, *turns[kind], count) for kind in KINDS}, ROUNDS
        )


@contextlib.contextmanager
def pools(size: int) -> Iterator[dict[str, tuple[Flask, sa.Engine]]]:
    """Give apps and engines by kind."""
    with contextlib.ExitStack() as stack:
        made = {}
        for kind in KINDS:
            app, by_kind = stack.enter_context(
                engines("sqlite://", kind, **options(size))
            )
            made[kind] = app, by_kind[kind]
        yield made


def options(size: int) -> dict[str, Any]:
    """Return arguments of `create_engine` for a pool of so many connections."""
    return {
        "creator": partial(sqlite3.connect, ":memory:", check_same_thread=False),
        "poolclass": QueuePool,
        "pool_size": size,
        "max_overflow": 0,
    }


def alone(app: Flask, engine: sa.Engine, turns: int = 1) -> float:
    """Return the µs that a turn takes if no thread waits.

    :param turns: how many one app context has.
    """
    contexts = TURNS // turns
    start = time.process_time()
    for _ in range(contexts):
        with app.app_context():
            for _ in range(turns):
                engine.pool.connect().close()
    return (time.process_time() - start) / (contexts * turns) * 1e6


def crowd(app: Flask, engine: sa.Engine, count: int) -> float:
    """Return the µs that a turn takes among so many threads."""
    ready = threading.Barrier(count + 1)
    over = threading.Event()
    turns = [0] * count

    def work(number: int) -> None:
        ready.wait()
        while not over.is_set():
            with app.app_context():
                connection = engine.pool.connect()
                time.sleep(HELD_SECONDS)
                connection.close()
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    # The threads have begun, and this one may be late.
    start, before = time.process_time(), sum(turns)
    time.sleep(SECONDS)
    # Before the end, where those who still wait are let through one by one.
    took, done = time.process_time() - start, sum(turns) - before
    over.set()
    for thread in threads:
        thread.join()
    return took / max(1, done) * 1e6
