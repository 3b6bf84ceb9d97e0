"""What the guard adds to a request and a checkout, in instructions of the processor.

Counted by valgrind's callgrind, so that neither the machine's other work nor its speed
plays a part: the count of one turn differs by less than 1 % between two runs. It says
nothing of caches and of the kernel. SQLite in a file, no server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.figures import Table, figure
from benchmarks.processes import REPOSITORY
from benchmarks.support import IN_MEMORY
from benchmarks.views import VIEWS

TURNS = 600
WARM_UP = 200
KINDS = ("stock", "guarded")
CODE = """
import sys
from pathlib import Path
from benchmarks.views import make_app, requester
subject, kind, turns, folder = sys.argv[1:]
if kind == "guarded":
    from flask_poolguard.pool import housekeeper
    housekeeper.start = lambda: None  # its rounds are not by turns, but by time
app, db = make_app(Path(folder), kind == "guarded")
if subject == "checkout":
    with app.test_request_context("/"):
        engine = db.engine
        for _ in range(int(turns)):
            engine.connect().close()
else:
    turn = requester(app, subject)
    for _ in range(int(turns)):
        turn()
"""
ROWS = {"checkout": "checkout+checkin", **VIEWS}


def run() -> Iterator[Table]:
    """Count each turn, without and with the guard."""
    if shutil.which("valgrind") is None:
        yield Table("Instructions", ("not counted",), [["valgrind is not installed"]])
        return
    rows = []
    for subject, name in ROWS.items():
        stock, guarded = (of_a_turn(subject, kind) for kind in KINDS)
        ratio = f"{guarded / stock:.2f}"
        rows.append([name, figure(stock), figure(guarded), ratio])
    yield Table(
        f"SQLite, the mean of {TURNS} turns",
        ("thousands of instructions", *KINDS, "/ stock"),
        rows,
    )


def of_a_turn(subject: str, kind: str) -> float:
    """Return how many one turn takes, in thousands."""
    few, many = (
        _instructions(subject, kind, turns) for turns in (WARM_UP, WARM_UP + TURNS)
    )
    return (many - few) / TURNS / 1000


def _instructions(subject: str, kind: str, turns: int) -> int:
    """Return how many a whole process takes.

    :raises RuntimeError: if valgrind counted none.
    """
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    command = [sys.executable, "-c", CODE, subject, kind, str(turns)]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        done = subprocess.run(
            [*valgrind, *command, folder],
            check=True,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind counted nothing: {done.stderr[-500:]}")
    return int(found[1])
