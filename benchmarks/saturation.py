"""Sixty-four clients on five connections, in front of a production server.

Two kinds of view: one transaction, and five in a row, after each of which the
connection goes back. The app runs twice, stock and guarded, and the two are put under
load in turns. On MariaDB five short transactions are tried with more limits to waiting.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from benchmarks.figures import Table, percentile, ratio, spread
from benchmarks.load import Seen, load_from_outside
from benchmarks.support import (
    GUARDED,
    IN_MEMORY,
    SERVERS,
    STOCK,
    database,
    in_turns,
)
from tests.support.app_server import AppServer
from tests.support.database_server import DatabaseServer
from tests.support.gunicorn import GunicornApp
from tests.support.processes import children_of
from tests.support.servers import MariaDBServer

T = TypeVar("T")

APP = "benchmarks.app:create_app()"
THREADS = CLIENTS = 64
WARM_SECONDS = 0.4

MakeServer = Callable[[Path, dict[str, str]], AppServer]
# What is read off a round, by name.
FIGURES: dict[str, Callable[[Seen], float]] = {
    "requests/s": lambda seen: seen.in_time / seen.seconds,
    # With status 200.
    "good/s": lambda seen: seen.done / seen.seconds,
    "p50 ms": lambda seen: percentile(seen.latencies, 50) * 1000,
    "p99 ms": lambda seen: percentile(seen.latencies, 99) * 1000,
    "longest ms": lambda seen: max(seen.latencies) * 1000,
    "timeouts": lambda seen: seen.timeouts,
    "failures": lambda seen: seen.failures,
    "CPU ms/req.": lambda seen: seen.app_seconds / seen.answered * 1000,
}

# Shown only if there were any.
EXCEPTIONS = {"failures", "given up", "unanswered"}


@dataclass(frozen=True, slots=True)
class Case:
    """A view and a limit to waiting.

    :ivar transactions: how many the view runs in a row.
    :ivar timeout: the pool's, in seconds.
    :ivar seconds: how long a round is.
    :ivar work_seconds: the server's time for one transaction.
    :ivar servers: on which it is measured.
    """

    transactions: int
    timeout: float
    rounds: int
    seconds: float
    work_seconds: float = 0.005
    servers: tuple[type[DatabaseServer], ...] = SERVERS

    def __str__(self) -> str:
        work = f"{self.transactions}×{self.work_seconds * 1000:g} ms"
        return f"{work}, {self.timeout:g} s"


# Even numbers of rounds, so that each kind goes first as often as the other.
CASES = (
    *(Case(1, 30, 4, 2), Case(5, 30, 4, 3), Case(1, 0.5, 2, 2), Case(5, 0.5, 4, 3)),
    *(Case(5, each, 4, 2, 0.002, (MariaDBServer,)) for each in (30, 0.15, 0.3, 0.6)),
)


def gunicorn(folder: Path, env: dict[str, str]) -> AppServer:
    """Return gunicorn with one worker and many threads."""
    return GunicornApp(APP, folder, threads=THREADS, worker_class="gthread", env=env)


def run(
    make_server: MakeServer = gunicorn,
    cases: tuple[Case, ...] = CASES,
    servers: tuple[type[DatabaseServer], ...] = SERVERS,
) -> Iterator[Table]:
    """Measure on each server."""
    for server_class in servers:
        with database(server_class) as (name, url):
            seen = {
                case: measure(make_server, url, case)
                for case in cases
                if server_class in case.servers
            }
            yield Table(
                name,
                ("view, timeout", "", STOCK, GUARDED, "ratio"),
                [
                    row
                    for case, rounds in seen.items()
                    for row in rows_of(str(case), rounds, FIGURES)
                ],
                [note([r for case in seen.values() for k in case.values() for r in k])],
            )


def measure(make_server: MakeServer, url: sa.URL, case: Case) -> dict[str, list[Seen]]:
    """Put both apps under load in turns."""
    with served(make_server, url, case, (STOCK, GUARDED)) as servers:
        return in_turns(
            {kind: partial(one_round, servers[kind], case) for kind in servers},
            case.rounds,
        )


@contextlib.contextmanager
def served(
    make_server: MakeServer, url: sa.URL, case: Case, kinds: tuple[str, ...]
) -> Iterator[dict[str, AppServer]]:
    """Run an app of each kind; give their servers."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for kind in kinds:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(dir=IN_MEMORY))
            )
            env = {
                "DATABASE_URL": url.render_as_string(hide_password=False),
                "GUARDED": "yes" if kind == GUARDED else "no",
                "POOL_TIMEOUT": str(case.timeout),
                "POOLGUARD_STATE_DIR": str(folder),
                "WORK_SECONDS": str(case.work_seconds),
            }
            servers[kind] = stack.enter_context(make_server(folder, env))
        yield servers


def one_round(server: AppServer, case: Case) -> Seen:
    """Put an app under load."""
    before = processor_seconds(server.pid)
    seen = load_from_outside(
        server.port,
        f"/transactions/{case.transactions}",
        clients=CLIENTS,
        warm=WARM_SECONDS,
        seconds=case.seconds,
    )
    seen.app_seconds = processor_seconds(server.pid) - before
    return seen


def processor_seconds(pid: int) -> float:
    """Return what a process and its children have taken of a processor."""
    ticks = 0
    for each in (pid, *children_of(pid)):
        # What follows the name, which stands in brackets, begins with field 3.
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rows_of(
    first: str, rounds: dict[str, list[T]], figures: dict[str, Callable[[T], float]]
) -> Iterator[list[str]]:
    """Return a row for each figure.

    :param first: the first cell of the first row.
    """
    for name, figure in figures.items():
        stock, guarded = (
            [figure(each) for each in rounds[k]] for k in (STOCK, GUARDED)
        )
        if name not in EXCEPTIONS or any(stock + guarded):
            yield [first, name, spread(stock), spread(guarded), ratio(guarded, stock)]
        first = ""


def note(rounds: list[Seen]) -> str:
    """Say what the load itself cost."""
    clients = statistics.median(each.clients_core for each in rounds)
    return f"The clients took {clients:.0%} of one core."
