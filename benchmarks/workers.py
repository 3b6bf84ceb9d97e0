"""What reading the state files and ``flask pool status`` take as workers become more.

The workers are idle forks, each with one connection to PostgreSQL. Reading the files is
processor time within this process; the command is a process of its own each time, and
so is ``flask routes``, which says what any command of the app takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa

from benchmarks.figures import Curve, Table, difference, ratio, spread
from benchmarks.processes import REPOSITORY
from benchmarks.status import output, timed
from benchmarks.support import IN_MEMORY, database, in_turns
from flask_poolguard.state.reader import read_workers
from tests.support.servers import PostgreSQLServer

WORKERS = (1, 4, 16, 64)
# Of the commands; reading has four times as many.
RUNS = 7
READINGS = 20
COMMAND = [sys.executable, "-m", "flask", "--app", "benchmarks.app:create_app"]
STATUS = [*COMMAND, "pool", "status", "--json"]
READ, ROUTES, SHOWN = "reading", "flask routes", "flask pool status"

# By number of workers, what was found.
Found = dict[int, list[float]]


def run() -> Iterator[Table]:
    """Measure with more and more workers."""
    reading: Found = {}
    commands: dict[str, Found] = {ROUTES: {}, SHOWN: {}}
    with database(PostgreSQLServer) as (name, url):
        for count in WORKERS:
            with workers(url, count) as env:
                folder = env["POOLGUARD_STATE_DIR"]
                reading[count] = [read(folder, count) for _ in range(4 * RUNS)]
                found = in_turns(
                    {
                        ROUTES: partial(timed, [*COMMAND, "routes"], env),
                        SHOWN: partial(timed, STATUS, env),
                    },
                    RUNS,
                )
            for kind, times in found.items():
                commands[kind][count] = times
    curve = Curve("workers-files", "workers", "reading all files, ms", {READ: reading})
    yield Table(
        "State files, processor time of reading them all",
        ("workers", "ms", "ms each"),
        [
            [str(n), spread(times), spread([each / n for each in times])]
            for n, times in reading.items()
        ],
        [curve.steepest()],
        curve,
    )
    curve = Curve("workers-status", "workers", "whole command, s", commands)
    yield Table(
        f"{name}, whole commands, seconds",
        ("workers", ROUTES, SHOWN, "ratio", "added"),
        [
            [
                str(n),
                spread(commands[ROUTES][n]),
                spread(commands[SHOWN][n]),
                ratio(commands[SHOWN][n], commands[ROUTES][n]),
                difference(commands[SHOWN][n], commands[ROUTES][n]),
            ]
            for n in WORKERS
        ],
        [curve.steepest()],
        curve,
    )


@contextlib.contextmanager
def workers(url: sa.URL, count: int) -> Iterator[dict[str, str]]:
    """Run workers; give the environment of the app.

    :raises RuntimeError: if not all of them are up.
    """
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        env = {
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "GUARDED": "yes",
            "POOL_TIMEOUT": "30",
            "POOLGUARD_STATE_DIR": folder,
            "WORK_SECONDS": "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker_processes", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env={**os.environ, **env},
        )
        # It ends when its standard input is closed, as by leaving this.
        with process:
            if process.stdout is None or not process.stdout.readline():
                raise RuntimeError(f"The {count} workers did not start")
            listed = len(json.loads(output(STATUS, env))["workers"])
            if listed != count:
                raise RuntimeError(f"{listed} workers are listed, not {count}")
            yield env


def read(folder: str, count: int) -> float:
    """Return the processor time of reading all state files, in ms.

    :raises RuntimeError: if they are not as many as the workers.
    """
    start = time.process_time()
    for _ in range(READINGS):
        found = read_workers(folder)
    took = time.process_time() - start
    if len(found.workers) != count:
        raise RuntimeError(f"{len(found.workers)} files were read, not {count}")
    return took / READINGS * 1000
