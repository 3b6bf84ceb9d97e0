"""What the guard adds to a checkout and checkin, and to a ``SELECT 1``.

Three engines of one process in alternating short batches, within one request: stock,
stock with ``pool_pre_ping``, and guarded. Client and server share one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import sqlalchemy as sa

from benchmarks.figures import Table, difference, median, ratio
from benchmarks.support import (
    GUARDED,
    PRE_PING,
    SERVERS,
    STOCK,
    checkout,
    database,
    engines,
    in_turns,
    microseconds,
    one_core,
    select,
)

BATCHES = 120


def run() -> Iterator[Table]:
    """Measure on each server."""
    for server_class in SERVERS:
        with one_core(), database(server_class) as (name, url):
            kinds = (STOCK, PRE_PING, GUARDED)
            with engines(url, *kinds) as (app, made), app.test_request_context("/"):
                both = {
                    "checkout+checkin": measure(checkout, made, 300),
                    "SELECT 1": measure(select, made, 50),
                }
            added = " and ".join(
                f"{difference(found[GUARDED], found[STOCK])} µs"
                for found in both.values()
            )
            yield Table(
                name,
                ("µs", *kinds, "/ stock", "/ pre_ping"),
                [
                    [
                        turn,
                        *(median(times) for times in found.values()),
                        ratio(found[GUARDED], found[STOCK]),
                        ratio(found[GUARDED], found[PRE_PING]),
                    ]
                    for turn, found in both.items()
                ],
                [f"The guard adds {added} to stock."],
            )


def measure(
    make_turn: Callable[[sa.Engine], Callable[[], None]],
    made: dict[str, sa.Engine],
    turns: int,
) -> dict[str, list[float]]:
    """Time one kind of turn on all engines, in µs."""
    return in_turns(
        {
            kind: partial(microseconds, make_turn(engine), turns)
            for kind, engine in made.items()
        },
        BATCHES,
    )
