"""``flask pool status --json`` with 16 workers, against ``flask routes``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.figures import Table, difference, ratio, spread
from benchmarks.support import in_turns
from tests.support.gunicorn import GunicornApp
from tests.support.servers import PostgreSQLServer

WORKERS = 16
RUNS = 9


def run() -> Iterator[Table]:
    """Measure both commands, run in turns."""
    with (
        PostgreSQLServer() as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        env = {
            "DATABASE_URL": server.url(
                database=server.create_database()
            ).render_as_string(hide_password=False),
            "POOLGUARD_STATE_DIR": folder,
            "EXAMPLE_INSTANCE_PATH": folder,
        }
        command = [sys.executable, "-m", "flask", "--app", "example_app"]
        output([*command, "seed"], env)
        with GunicornApp(
            "example_app:create_app()", Path(folder), workers=WORKERS, env=env
        ) as app:
            status = [*command, "pool", "status", "--json"]
            for _ in range(50):
                for _ in range(4 * WORKERS):
                    app.get("/")
                if seen(output(status, env)) == WORKERS:
                    break
            else:
                raise RuntimeError(f"Not all of the {WORKERS} workers got a request")
            found = in_turns(
                {
                    "routes": partial(timed, [*command, "routes"], env),
                    "status": partial(timed, status, env),
                },
                RUNS,
            )
    times = found["routes"], found["status"]
    yield Table(
        f"{WORKERS} workers, whole commands",
        ("seconds", "flask routes", "flask pool status --json", "ratio"),
        [["", *map(spread, times), ratio(*times[::-1])]],
        [f"The status takes {difference(*times[::-1])} s longer."],
    )


def seen(report: str) -> int:
    """Return how many workers a report lists."""
    return len(json.loads(report)["workers"])


def output(command: list[str], env: dict[str, str]) -> str:
    """Return what a command prints."""
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    ).stdout


def timed(command: list[str], env: dict[str, str]) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    output(command, env)
    return time.perf_counter() - start
