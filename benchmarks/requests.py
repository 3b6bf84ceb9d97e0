"""What the guard adds to a request, without a server.

A stock and a guarded app in one process, asked through the WSGI interface in
alternating short batches. SQLite in a file. Processor time, so that the machine's other
work stays out. The guard listens to every ORM session of the process, so that stock's
`db.session` pays for a part of it; `instructions` counts each app in its own process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flask import Flask

from benchmarks.figures import Table, figure, ratio, spread
from benchmarks.support import GUARDED, IN_MEMORY, STOCK, in_turns
from benchmarks.views import VIEWS, make_app, requester

KINDS = (STOCK, GUARDED)
ROUNDS = 40
TURNS = 100


def run() -> Iterator[Table]:
    """Measure each view."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        apps = {kind: make_app(Path(folder), kind == GUARDED)[0] for kind in KINDS}
        rows = []
        for path, name in VIEWS.items():
            found = measure(apps, path, ROUNDS)
            cells = [
                cell
                for times in found.values()
                for cell in (figure(min(times)), spread(times))
            ]
            rows.append([name, *cells, ratio(found[GUARDED], found[STOCK])])
    yield Table(
        f"SQLite, {ROUNDS} rounds of {TURNS} requests",
        ("µs", "stock, best", "median", "guarded, best", "median", "ratio"),
        rows,
    )


def measure(apps: dict[str, Flask], path: str, rounds: int) -> dict[str, list[float]]:
    """Time requests of a view on all apps, in µs each."""
    turns = {kind: requester(app, path) for kind, app in apps.items()}
    for turn in turns.values():
        turn()  # the first one connects
    return in_turns(
        {kind: partial(processor_time, turn, TURNS) for kind, turn in turns.items()},
        rounds,
    )


def processor_time(turn: Callable[[], None], turns: int) -> float:
    """Return the processor time that one turn takes, in µs."""
    start = time.process_time()
    for _ in range(turns):
        turn()
    return (time.process_time() - start) / turns * 1e6
