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
from pathlib import Path

from benchmarks.figures import Table, figure

REPOSITORY = Path(__file__).parents[1]
TURNS = 600
WARM_UP = 200
KINDS = ("stock", "guarded")
CODE = """
import sys
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import EnvironBuilder
subject, kind, turns, database = sys.argv[1:]
turns = int(turns)
app = Flask("benchmark")
app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{database}"
db = SQLAlchemy(app)
if kind == "guarded":
    from flask_poolguard import PoolGuard
    from flask_poolguard.pool import housekeeper
    housekeeper.start = lambda: None  # its rounds are not by turns, but by time
    PoolGuard(app)
ONE = sa.text("SELECT 1")
@app.get("/string")
def string():
    return "done"
@app.get("/session")
def session():
    return str(db.session.scalar(ONE))
@app.get("/connect")
def connect():
    with db.engine.connect() as connection:
        return str(connection.scalar(ONE))
def request(turns):
    for _ in range(turns):
        body = app(EnvironBuilder(f"/{subject}").get_environ(), lambda *args: None)
        b"".join(body)
        getattr(body, "close", bool)()
def environ(turns):
    for _ in range(turns):
        EnvironBuilder("/").get_environ()
def checkout(turns):
    with app.test_request_context("/"):
        engine = db.engine
        for _ in range(turns):
            engine.connect().close()
{"environ": environ, "checkout": checkout}.get(subject, request)(turns)
"""
ROWS = {
    "checkout": "checkout+checkin",
    "string": "a view that returns a string",
    "session": "one query by db.session",
    "connect": "one query by engine.connect()",
}


def run() -> Iterator[Table]:
    """Count each turn, without and with the guard."""
    if shutil.which("valgrind") is None:
        yield Table("Instructions", ("not counted",), [["valgrind is not installed"]])
        return
    with tempfile.TemporaryDirectory() as folder:
        database = str(Path(folder) / "benchmark.sqlite")
        made = _of_a_turn("environ", "stock", database)  # by the benchmark itself
        rows = []
        for subject, name in ROWS.items():
            own = 0.0 if subject == "checkout" else made
            stock, guarded = (
                _of_a_turn(subject, kind, database) - own for kind in KINDS
            )
            ratio = f"{guarded / stock:.2f}"
            rows.append([name, figure(stock), figure(guarded), ratio])
    yield Table(
        f"SQLite, the mean of {TURNS} turns",
        ("thousands of instructions", *KINDS, "/ stock"),
        rows,
    )


def _of_a_turn(subject: str, kind: str, database: str) -> float:
    few, many = (
        _instructions(subject, kind, turns, database)
        for turns in (WARM_UP, WARM_UP + TURNS)
    )
    return (many - few) / TURNS / 1000


def _instructions(subject: str, kind: str, turns: int, database: str) -> int:
    """Return how many a whole process takes.

    :raises RuntimeError: if valgrind counted none.
    """
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    command = [sys.executable, "-c", CODE, subject, kind, str(turns), database]
    done = subprocess.run(
        [*valgrind, *command],
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
