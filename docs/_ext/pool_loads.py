"""Runs of pools under load, for the pictures of the documentation.

As in ``pool_runs``, the connections are SQLite's, in memory.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from pool_runs import all_at_once, pool_of

# What keeps a core busy for some milliseconds, without Python's lock.
QUERY = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)"
    " SELECT sum(i) FROM n"
)


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
