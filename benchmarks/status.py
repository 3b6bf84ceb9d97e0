"""``flask pool status --json`` with 16 workers, against ``flask routes``."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.gunicorn import GunicornApp
from tests.support.servers import PostgreSQLServer

WORKERS = 16
RUNS = 9


def main() -> None:
    """Print the medians of both commands, run in turns."""
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
        run([*command, "seed"], env)
        with GunicornApp(
            "example_app:create_app()", Path(folder), workers=WORKERS, env=env
        ) as app:
            for _ in range(50 * WORKERS):
                app.get("/")
                if seen(run([*command, "pool", "status", "--json"], env)) == WORKERS:
                    break
            status, routes = [], []
            for _ in range(RUNS):
                status.append(timed([*command, "pool", "status", "--json"], env))
                routes.append(timed([*command, "routes"], env))
            added = statistics.median(status) - statistics.median(routes)
            print(
                f"  {WORKERS} workers: status {statistics.median(status):.3f} s,"
                f" routes {statistics.median(routes):.3f} s, added {added:.3f} s"
            )


def seen(output: str) -> int:
    """Return how many workers a report lists."""
    return len(json.loads(output)["workers"])


def run(command: list[str], env: dict[str, str]) -> str:
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
    run(command, env)
    return time.perf_counter() - start
