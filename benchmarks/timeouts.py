"""What a pool timeout costs in processor time, when many requests fail at once.

All connections of a pool are held, and more threads ask for one, again and again, each
time in an app context of its own, until the pool's timeout. Stock and guarded pool in
turns, SQLite in memory.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import TimeoutError as PoolTimeout

from benchmarks.figures import Table, ratio, spread
from benchmarks.growth import KINDS, pools
from benchmarks.support import GUARDED, STOCK, in_turns

HOLDERS = 5
WAITERS = 32
# Each waiter's, in a round.
TIMEOUTS = 4
TIMEOUT_SECONDS = 0.1
ROUNDS = 10


def run() -> Iterator[Table]:
    """Measure both pools."""
    with held_pools() as turns:
        found = in_turns(
            {kind: partial(time_out, *turns[kind], TIMEOUTS) for kind in KINDS}, ROUNDS
        )
    stock, guarded = found[STOCK], found[GUARDED]
    yield Table(
        f"{HOLDERS} held, {WAITERS} threads wait {TIMEOUT_SECONDS:g} s,"
        f" {ROUNDS} rounds of {WAITERS * TIMEOUTS} timeouts",
        ("processor time", "stock µs", "guarded µs", "guarded/stock"),
        [["a timeout", spread(stock), spread(guarded), ratio(guarded, stock)]],
    )


@contextlib.contextmanager
def held_pools() -> Iterator[dict[str, tuple[Flask, sa.Engine]]]:
    """Give apps and engines by kind, of which every connection is held by a request."""
    with pools(HOLDERS) as turns, contextlib.ExitStack() as stack:
        for app, engine in turns.values():
            for _ in range(HOLDERS):
                stack.enter_context(app.app_context())
                stack.enter_context(engine.connect())
            # `create_engine` cuts it to whole seconds. The pool is the one that stays
            # only now, after the first app context.
            pool: Any = engine.pool
            pool._timeout = TIMEOUT_SECONDS
        yield turns


def time_out(app: Flask, engine: sa.Engine, timeouts: int) -> float:
    """Return the processor time of a timeout, in µs.

    :param timeouts: how many each thread runs into.
    :raises RuntimeError: if a thread got a connection, or failed in another way.
    """
    counts = [0] * WAITERS
    ready = threading.Barrier(WAITERS + 1)

    def ask(number: int) -> None:
        ready.wait()
        for _ in range(timeouts):
            with app.app_context():
                try:
                    engine.connect()
                except PoolTimeout:
                    counts[number] += 1

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(WAITERS)]
    for thread in threads:
        thread.start()
    start = time.process_time()
    ready.wait()
    for thread in threads:
        thread.join()
    took = time.process_time() - start
    if sum(counts) != WAITERS * timeouts:
        raise RuntimeError(f"{sum(counts)} timeouts, not {WAITERS * timeouts}")
    return took / sum(counts) * 1e6
