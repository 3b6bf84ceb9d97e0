"""Outcomes of `flask pool tune` that were made up, and the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flask_poolguard.tune import latency
from flask_poolguard.tune.experiment import Step
from flask_poolguard.tune.outcome import Outcome, summarise
from flask_poolguard.tune.planning import RunPlan
from flask_poolguard.tune.scalability import Law
from flask_poolguard.tune.work import Work
from tests.support import forked_python
from tests.support.database_server import APP_PASSWORD

LAW = Law(100.0, 0.05, 0.004)
APP = "tests.apps.tuned:create_app"


def a_plan(**changes: Any) -> RunPlan:
    """Return a plan."""
    values: dict[str, Any] = {
        "app": "shop",
        "bind": "default",
        "url": "mysql+pymysql://app@db/shop",
        "server": "MariaDB 10.11.6",
        "works": (Work("url", "/search?q=tea", 3), Work("url", "/basket", 1)),
        "processes": 2,
        "threads": 48,
        "cores": 8,
        "sizes": (1, 2, 3, 4, 6, 8, 12, 16, 24),
        "rounds": 3,
        "seconds": 2.0,
        "limit": "without --max-size",
    }
    return RunPlan(**{**values, **changes})


def a_step(size: int, per_second: float, **changes: Any) -> Step:
    """Return a step; its latencies follow from Little's law, for 96 threads."""
    values: dict[str, Any] = {
        "size": size,
        "per_second": per_second,
        "latencies": {latency.bucket_of(96 / per_second): round(per_second * 2)},
        "statuses": {(0, 200): round(per_second * 2)},
        "busy": float(size),
        "process_cores": 0.3,
        "machine_share": 0.4,
    }
    return Step(**{**values, **changes})


def an_outcome(
    throughput: Callable[[float], float] = LAW.throughput,
    plan: RunPlan | None = None,
    steps: Callable[[Step], Step] = lambda step: step,
    rounds: int = 3,
) -> Outcome:
    """Return the outcome of a run in which rounds differ by 1 %.

    :param throughput: by connections of all processes.
    :param steps: changes each step.
    :param rounds: how many were run.
    """
    plan = plan or a_plan()
    made = [
        steps(a_step(size, throughput(size * plan.processes) * (1 + 0.01 * (n - 1))))
        for n in range(rounds)
        for size in plan.sizes
    ]
    return summarise(plan, made, "2026-11-23T05:00:00+00:00")


def command(*arguments: str, debug: bool = True) -> list[str]:
    """Return the command line of `flask pool tune` for `tests.apps.tuned`."""
    flask = [sys.executable, "-m", "flask", "--app", APP]
    return [*flask, *(["--debug"] if debug else []), "pool", "tune", *arguments]


def run(
    env: Mapping[str, str], *arguments: str, debug: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the command; nothing that it prints may tell a secret."""
    line = command(*arguments, debug=debug)
    done = forked_python.run(line, env={**os.environ, **env}, seconds=110)
    assert APP_PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_json(env: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Return what `--json` prints of a run that succeeds."""
    done = run(env, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    # The app's own first line comes before.
    found: dict[str, Any] = json.loads(done.stdout)
    return found
