"""Run `check` as a monitoring system would, and read what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support import forked_python
from tests.support.database_server import APP_PASSWORD
from tests.support.desk import APP

# The line of a plugin, by section 2.6 of the Monitoring Plugins Development Guidelines.
LINE = re.compile(r"POOL (OK|WARNING|CRITICAL|UNKNOWN) - ([^|]+?)(?: \| (.+))?")
DATUM = re.compile(
    r"'([^'=]+)'=(?:(-?[0-9.]+)(|s|%|c)|U)((?:;(?:~|@)?[0-9.:]*){0,2}(?:;[0-9.]*){0,2})"
)
STATES = ["OK", "WARNING", "CRITICAL", "UNKNOWN"]

# Cron and NRPE set hardly anything.
BARE = {
    "PATH": os.defpath,
    "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    **forked_python.read_at_start(os.environ),
}


@dataclass(frozen=True, slots=True)
class Check:
    """What a check said.

    :ivar data: figures by label; None is unknown.
    """

    state: str
    text: str
    data: Mapping[str, float | None]
    line: str


def check(env: Mapping[str, str], *arguments: str) -> Check:
    """Run `flask pool check`."""
    command = [sys.executable, "-m", "flask", "--app", APP, "pool", "check"]
    return read(run([*command, *arguments], {**os.environ, **env}))


def check_without_app(*arguments: str, env: Mapping[str, str] | None = None) -> Check:
    """Run `python -m flask_poolguard check`, knowing nothing of the app."""
    return read(run_module("check", *arguments, env=env))


def run_module(
    *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m flask_poolguard`."""
    command = [sys.executable, "-m", "flask_poolguard", *arguments]
    return run(command, {**BARE, **(env or {})})


def run(command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it must tell no secret."""
    done = forked_python.run(command, env=env)
    assert APP_PASSWORD not in done.stdout + done.stderr
    return done


def read(done: subprocess.CompletedProcess[str]) -> Check:
    """Read the one line, which must be as the guidelines want it."""
    assert done.stdout.endswith("\n"), done.stderr
    (line,) = done.stdout.splitlines()
    found = LINE.fullmatch(line)
    assert found is not None, line
    assert "Traceback" not in done.stderr
    state, text, perfdata = found.groups()
    assert done.returncode == STATES.index(state), line
    data: dict[str, float | None] = {}
    for each in re.findall(r"'[^']*'=\S*", perfdata or ""):
        datum = DATUM.fullmatch(each)
        assert datum is not None, each
        data[datum[1]] = None if datum[2] is None else float(datum[2])
    return Check(state, text, data, line)
