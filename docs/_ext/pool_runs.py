"""Runs of real pools, for the pictures of the documentation.

The connections are SQLite's, in memory: no server is needed, and next to nothing but
the pool is seen. All runs together take about ten seconds.
"""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.pool import QueuePool

from flask_poolguard import PoolGuard

# What keeps a core busy for some milliseconds, without Python's lock.
QUERY = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)"
    " SELECT sum(i) FROM n"
)


@contextlib.contextmanager
def pool_of(
    size: int, overflow: int = 0, *, guarded: bool = True, **settings: Any
) -> Iterator[tuple[Flask, PoolGuard, sa.Engine]]:
    """Give an app with an engine.

    :param settings: `pool_timeout` for the engine, others for `app.config`.
    """
    engine = sa.create_engine(
        "sqlite://",
        creator=partial(sqlite3.connect, ":memory:", check_same_thread=False),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=settings.pop("pool_timeout", 30),
    )
    with tempfile.TemporaryDirectory() as folder:
        app = Flask("pictures")
        app.config["POOLGUARD_STATE_DIR"] = folder
        app.config.update(settings)
        app.logger.disabled = True
        guard = PoolGuard(app)
        if guarded:
            guard.register(engine, app=app)
        with app.app_context():
            pass  # the engine gets its pool
        try:
            yield app, guard, engine
        finally:
            engine.dispose()


def all_at_once(*works: Callable[[float], object]) -> None:
    """Run each in a thread of its own; return when all have ended.

    :param works: get the monotonic time of the start, when all threads run.
    """
    started: list[float] = []
    ready = threading.Barrier(
        len(works), action=lambda: started.append(time.monotonic())
    )

    def run(work: Callable[[float], object]) -> None:
        ready.wait()
        work(started[0])

    threads = [threading.Thread(target=run, args=(each,)) for each in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# A pool's life ----------------------------------------------------------------------

# Of each caller, when it asks and for how long it keeps its connection, in seconds.
CALLERS = ((0.2, 0.9), (0.4, 1.5), (0.6, 1.5), (0.9, 1.2), (1.2, 0.3))
LIFE_SECONDS = 2.8
LIFE_TIMEOUT = 0.45


@dataclass(frozen=True, slots=True)
class Moment:
    """What a pool has at one moment."""

    seconds: float
    open: int
    out: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Life:
    """A pool of 2 + 1 over time, and when callers gave up."""

    moments: list[Moment]
    gave_up: list[float]

    @property
    def is_as_told(self) -> bool:
        """Tell whether it went as the page says; a busy machine may be too late."""
        most = max(each.open for each in self.moments)
        return (most, self.moments[-1].open, len(self.gave_up)) == (3, 2, 1)


def life() -> Life:
    """Let five callers ask a pool one after the other."""
    moments: list[Moment] = []
    gave_up: list[float] = []
    asking = [0]
    with pool_of(2, 1, pool_timeout=LIFE_TIMEOUT) as (_, _, engine):

        def call(asks_at: float, keeps: float, start: float) -> None:
            time.sleep(max(0.0, start + asks_at - time.monotonic()))
            asking[0] += 1
            try:
                connection = engine.pool.connect()
            except sa.exc.TimeoutError:
                gave_up.append(time.monotonic() - start)
                return
            finally:
                asking[0] -= 1
            time.sleep(keeps)
            connection.close()

        def look(start: float) -> None:
            pool: Any = engine.pool
            while (seconds := time.monotonic() - start) < LIFE_SECONDS:
                out = pool.checkedout()
                moments.append(Moment(seconds, out + pool.checkedin(), out, asking[0]))
                time.sleep(0.005)

        all_at_once(look, *(partial(call, *each) for each in CALLERS))
    return Life(moments, gave_up)


# Who is served next -----------------------------------------------------------------

CLIENTS, TURNS, TURN_SECONDS, CROWD_SECONDS = 24, 4, 0.003, 1.8


@dataclass(frozen=True, slots=True)
class Crowd:
    """What many clients met at a small pool.

    :ivar latencies: of all requests, in seconds, the shortest first.
    :ivar served: how many requests of each client were answered, the fewest first.
    """

    latencies: list[float]
    served: list[int]


def crowd(*, guarded: bool) -> Crowd:
    """Let 24 clients ask again and again; each request takes one of 3 connections.

    It takes it four times, one after the other.
    """
    latencies: list[float] = []
    served = [0] * CLIENTS
    with pool_of(3, guarded=guarded) as (app, _, engine):

        @app.get("/")
        def view() -> str:
            for _ in range(TURNS):
                with contextlib.closing(engine.raw_connection()):
                    time.sleep(TURN_SECONDS)
            return ""

        def client(number: int, start: float) -> None:
            asks = app.test_client()
            while (began := time.monotonic()) < start + CROWD_SECONDS:
                asks.get("/")
                latencies.append(time.monotonic() - began)
                served[number] += 1

        all_at_once(*(partial(client, number) for number in range(CLIENTS)))
    return Crowd(sorted(latencies), sorted(served))


# Sizes ------------------------------------------------------------------------------

SIZES = (1, 2, 4, 8, 16)
SIZE_THREADS, SIZE_SECONDS, SIZE_ROUNDS = 16, 0.35, 2


@dataclass(frozen=True, slots=True)
class Sized:
    """What 16 threads met at a pool of one size, on average.

    :ivar rate: queries a second.
    :ivar waiting: for a connection, in seconds.
    :ivar querying: with a connection, in seconds.
    """

    size: int
    rate: float
    waiting: float
    querying: float


def sizes() -> list[Sized]:
    """Return what each size gives; of two rounds the one with more queries."""
    rounds = [[sized(size) for size in SIZES] for _ in range(SIZE_ROUNDS)]
    return [
        max(found, key=lambda each: each.rate) for found in zip(*rounds, strict=True)
    ]


def sized(size: int) -> Sized:
    """Let 16 threads query through a pool, each again as soon as it is done."""
    waited: list[float] = []
    queried: list[float] = []
    with pool_of(size) as (_, _, engine):
        ends: list[float] = []

        def work(start: float) -> None:
            while (asked := time.monotonic()) < start + SIZE_SECONDS:
                connection: Any = engine.pool.connect()
                got = time.monotonic()
                connection.cursor().execute(QUERY).fetchone()
                connection.close()
                waited.append(got - asked)
                queried.append(time.monotonic() - got)
            ends.append(time.monotonic() - start)

        all_at_once(*[work] * SIZE_THREADS)
    mean = statistics.fmean
    return Sized(size, len(waited) / max(ends), mean(waited), mean(queried))


# Overload ---------------------------------------------------------------------------

# Two connections for 20 ms each serve 100 requests a second; twice as many come.
OVERLOAD_RATE, OVERLOAD_SECONDS, OVERLOAD_HELD, OVERLOAD_TIMEOUT = 200, 2.0, 0.02, 0.5


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when it came, how long its answer took, and whether it was good."""

    came: float
    took: float
    good: bool


def overload(**settings: Any) -> list[Arrival]:
    """Let twice as many requests arrive as a pool of 2 can serve."""
    seen: list[Arrival] = []
    with pool_of(2, pool_timeout=OVERLOAD_TIMEOUT, **settings) as (_, guard, engine):

        def request(due: float, start: float) -> None:
            time.sleep(max(0.0, start + due - time.monotonic()))
            came = time.monotonic()
            try:
                with guard.scope("request"):
                    connection = engine.pool.connect()
                    time.sleep(OVERLOAD_HELD)
                    connection.close()
                good = True
            except sa.exc.TimeoutError:
                good = False
            seen.append(Arrival(came - start, time.monotonic() - came, good))

        count = int(OVERLOAD_RATE * OVERLOAD_SECONDS)
        dues = (number / OVERLOAD_RATE for number in range(count))
        all_at_once(*(partial(request, due) for due in dues))
    return sorted(seen, key=lambda each: each.came)


# Deadlock ---------------------------------------------------------------------------

DEADLOCK_TIMEOUT, DEADLOCK_HELD, DEADLOCK_LATER = 1.0, 0.2, 0.1


@dataclass(frozen=True, slots=True)
class Span:
    """What a thread did from one moment to another."""

    thread: int
    kind: str
    start: float
    end: float


def deadlock(*, guarded: bool) -> list[Span]:
    """Let two requests take both of a pool's connections, and each want one more.

    The guard collects garbage before it takes a deadlock for one. What Sphinx has in
    memory is left out of that: it takes longer than in an app.
    """
    gc.freeze()
    try:
        return _deadlock(guarded=guarded)
    finally:
        gc.unfreeze()


def _deadlock(*, guarded: bool) -> list[Span]:
    spans: list[Span] = []
    both_have_one = threading.Barrier(2)
    with pool_of(2, guarded=guarded, pool_timeout=DEADLOCK_TIMEOUT) as made:
        _, guard, engine = made

        def request(number: int, start: float) -> None:
            def now() -> float:
                return time.monotonic() - start

            with guard.scope("nested"):
                first = engine.pool.connect()
                both_have_one.wait()
                time.sleep(number * DEADLOCK_LATER)  # not both in the same instant
                asked = now()
                try:
                    second = engine.pool.connect()
                except sa.exc.TimeoutError:
                    spans.append(Span(number, "waits", asked, now()))
                    spans.append(Span(number, "error", now(), now() + 0.02))
                else:
                    got = now()
                    spans.append(Span(number, "waits", asked, got))
                    time.sleep(DEADLOCK_HELD)
                    second.close()
                    spans.append(Span(number, "works", got, now()))
                first.close()

        all_at_once(partial(request, 0), partial(request, 1))
    return spans
