"""More requests than an app can serve: good answers, and how long they take.

Requests arrive at a fixed rate, whether or not earlier ones were answered, in front of
gunicorn with one gthread worker and 64 threads on five connections of MariaDB. The rate
is a multiple of the capacity: what the stock app answers when 64 clients ask as often
as they can. Stock and guarded app in turns; one that has requests left at the end of a
round is started anew. What is not answered within a round is no good answer, so a p99
can be no longer than a round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import sqlalchemy as sa

from benchmarks.figures import Table, figure, percentile
from benchmarks.open_load import Arrived, arrive_from_outside
from benchmarks.saturation import (
    Case,
    MakeServer,
    gunicorn,
    one_round,
    rows_of,
    served,
)
from benchmarks.support import GUARDED, STOCK, database, in_turns
from tests.support.app_server import AppServer
from tests.support.servers import MariaDBServer

LOADS = (0.5, 0.8, 1, 1.5, 2, 3)
CASES = tuple(Case(5, timeout, 2, 2) for timeout in (0.15, 0.6, 30))
WARM_SECONDS = 0.5

# What is read off a round, by name.
FIGURES: dict[str, Callable[[Arrived], float]] = {
    "good/s": lambda seen: len(seen.latencies) / seen.seconds,
    "p99 ms": lambda seen: (
        percentile(seen.latencies, 99) * 1000 if seen.latencies else math.nan
    ),
    "503/s": lambda seen: seen.timeouts / seen.seconds,
    "failures": lambda seen: seen.failures,
    "given up": lambda seen: seen.given_up,
    "unanswered": lambda seen: seen.unanswered,
}


def run(
    make_server: MakeServer = gunicorn, cases: tuple[Case, ...] = CASES
) -> Iterator[Table]:
    """Measure each timeout."""
    with database(MariaDBServer) as (name, url):
        most = capacity(make_server, url, cases[-1])
        for case in cases:
            found = measure(make_server, url, case, most)
            seen = [r for kinds in found.values() for k in kinds.values() for r in k]
            yield Table(
                f"{name}, {case}, capacity {figure(most)} requests/s",
                ("load", "", STOCK, GUARDED, "ratio"),
                [
                    row
                    for load, rounds in found.items()
                    for row in rows_of(f"{load:g} × capacity", rounds, FIGURES)
                ],
                [note(seen)],
            )


def capacity(make_server: MakeServer, url: sa.URL, case: Case) -> float:
    """Return how many good answers per second the stock app gives at most."""
    with served(make_server, url, case, (STOCK,)) as servers:
        seen = one_round(servers[STOCK], case)
        return max(1, seen.done) / seen.seconds


def measure(
    make_server: MakeServer, url: sa.URL, case: Case, most: float
) -> dict[float, dict[str, list[Arrived]]]:
    """Return what was seen in each round, by load and kind."""
    with served(make_server, url, case, (STOCK, GUARDED)) as servers:
        return {
            load: in_turns(
                {
                    kind: partial(overload, server, case, load * most)
                    for kind, server in servers.items()
                },
                case.rounds,
            )
            for load in LOADS
        }


def overload(server: AppServer, case: Case, rate: float) -> Arrived:
    """Let requests arrive at an app; leave it without any."""
    seen = arrive_from_outside(
        server.port,
        f"/transactions/{case.transactions}",
        rate=rate,
        warm=WARM_SECONDS,
        seconds=case.seconds,
    )
    if seen.unanswered or seen.given_up:
        server.stop(seconds=0.1)  # it would go on with requests that were given up
        server.start()
    return seen


def note(rounds: list[Arrived]) -> str:
    """Say how good the clients were."""
    late = percentile([each.late_seconds for each in rounds], 50) * 1000
    share = statistics.median(each.clients_core for each in rounds)
    return (
        f"The clients took {share:.0%} of one core. The latest request of a round was"
        f" sent {figure(late)} ms after it was due (median of the rounds)."
    )
