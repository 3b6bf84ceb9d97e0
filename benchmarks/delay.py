"""What the guard saves where the server is a network away.

One thread, one transaction after the other: ``SELECT 1``, rollback, checkin. Without
the guard a pre-ping is what keeps dead connections from a view, and costs a round trip
each time. How many round trips each needs is counted; it says what is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import sqlalchemy as sa

from benchmarks.delay_proxy import CountingProxy, delayed
from benchmarks.figures import Table, figure, ratio, spread
from benchmarks.support import (
    GUARDED,
    PRE_PING,
    SERVERS,
    STOCK,
    database,
    engines,
    in_turns,
    microseconds,
    select,
)

KINDS = (STOCK, PRE_PING, GUARDED)
# In one direction.
DELAYS_SECONDS = (0.00025, 0.0005)
# By name, arguments of `create_engine`.
MODES = {"transaction": {}, "autocommit": {"isolation_level": "AUTOCOMMIT"}}
ROUNDS = 30
TURNS = 15
COUNTED_TURNS = 50


def run() -> Iterator[Table]:
    """Measure on each server, at each distance."""
    for server_class in SERVERS:
        with database(server_class) as (name, url):
            trips = {mode: round_trips(url, mode) for mode in MODES}
            for seconds in DELAYS_SECONDS:
                with delayed(url, seconds) as far:
                    rows = [
                        row
                        for mode in MODES
                        for row in rows_of(mode, measure(far, mode), trips[mode])
                    ]
                yield Table(
                    f"{name}, {seconds * 1000:g} ms in each direction",
                    ("SELECT 1", "engine", "round trips", "ms", "throughput/pre_ping"),
                    rows,
                )


def rows_of(
    mode: str, found: dict[str, list[float]], trips: dict[str, float]
) -> Iterator[list[str]]:
    """Return a row for each kind of engine."""
    for kind, times in found.items():
        yield [
            mode,
            kind,
            figure(trips[kind]),
            spread([each / 1000 for each in times]),
            "" if kind == PRE_PING else ratio(found[PRE_PING], times),
        ]


def measure(url: sa.URL, mode: str) -> dict[str, list[float]]:
    """Time transactions on all engines, in µs."""
    with (
        engines(url, *KINDS, **MODES[mode]) as (app, made),
        app.test_request_context("/"),
    ):
        return in_turns(
            {
                kind: partial(microseconds, warm(select(engine)), TURNS)
                for kind, engine in made.items()
            },
            ROUNDS,
        )


def round_trips(url: sa.URL, mode: str) -> dict[str, float]:
    """Count how often each engine waits for the server in a transaction."""
    found = {}
    for kind in KINDS:
        with (
            CountingProxy.before(url) as proxy,
            engines(url.set(port=proxy.port), kind, **MODES[mode]) as (app, made),
            app.test_request_context("/"),
        ):
            turn = warm(select(made[kind]))
            before = proxy.turns
            for _ in range(COUNTED_TURNS):
                turn()
            found[kind] = (proxy.turns - before) / COUNTED_TURNS
    return found


def warm(turn: Callable[[], None]) -> Callable[[], None]:
    """Return a turn whose connection is there."""
    turn()
    return turn
