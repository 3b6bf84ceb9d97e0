"""What importing the guard adds to importing Flask and SQLAlchemy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

from benchmarks.figures import Table, ratio, spread
from benchmarks.processes import run_python

RUNS = 25
# Collections fall where they fall; without them the two are comparable.
CODE = """
import gc, time
gc.disable()
start = time.perf_counter()
import flask, sqlalchemy
middle = time.perf_counter()
from flask_poolguard import PoolGuard
print(middle - start, time.perf_counter() - middle)
"""


def run() -> Iterator[Table]:
    """Measure in fresh processes, with compiled files in place."""
    with tempfile.TemporaryDirectory() as folder:
        answers = [once(folder) for _ in range(RUNS + 1)][1:]
    theirs, ours = zip(*answers, strict=True)
    yield Table(
        f"{RUNS} fresh processes",
        ("ms", "Flask and SQLAlchemy", "the guard after them", "ratio"),
        [["import", spread(theirs), spread(ours), ratio(ours, theirs)]],
    )


def once(folder: str | None = None) -> tuple[float, float]:
    """Return what importing Flask and SQLAlchemy, then the guard, takes, in ms.

    :param folder: for the compiled files; if None, where they are by default.
    """
    env = {**os.environ, **({"PYTHONPYCACHEPREFIX": folder} if folder else {})}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    answer = run_python("-c", CODE, env=env)
    theirs, ours = (float(seconds) * 1000 for seconds in answer.split())
    return theirs, ours
