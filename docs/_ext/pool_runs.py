"""Runs of single pools over time, for the pictures of the documentation.

The connections are SQLite's, in memory: no server is needed, and next to nothing but
the pool is seen. With those of ``pool_loads`` they take about ten seconds.
"""

from __future__ import annotations

import contextlib
import gc
import sqlite3
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


# Idle time --------------------------------------------------------------------------

# When a connection is used, in seconds: steadily, then not, then again.
USES = (*(number * 0.25 for number in range(9)), 3.2, 3.45, 3.7)
USES_SECONDS, IDLE_LIMIT = 4.0, 1.2


@dataclass(frozen=True, slots=True)
class Ageing:
    """How old the only connection is, and how long it has been idle, in seconds."""

    seconds: float
    age: float
    idle: float


def idle() -> list[Ageing]:
    """Use one connection by and by; the guard replaces it once."""
    seen: list[Ageing] = []
    opened: list[float] = []
    used: list[float] = []
    with pool_of(1, POOLGUARD_IDLE_LIMIT=IDLE_LIMIT) as (app, _, engine):
        sa.event.listen(engine, "connect", lambda *_: opened.append(time.monotonic()))

        def use(start: float) -> None:
            for due in USES:
                time.sleep(max(0.0, start + due - time.monotonic()))
                with app.app_context(), engine.connect() as connection:
                    connection.exec_driver_sql("SELECT 1")
                used.append(time.monotonic())

        def look(start: float) -> None:
            while (now := time.monotonic()) < start + USES_SECONDS:
                if opened and used:
                    last = max(used[-1], opened[-1])
                    seen.append(Ageing(now - start, now - opened[-1], now - last))
                time.sleep(0.02)

        all_at_once(use, look)
    return seen


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
