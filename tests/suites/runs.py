"""Run a project's tests once, in a process and a copy of its source of their own."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.suites import guarded_apps_plugin
from tests.suites.environments import Environment, unpack
from tests.suites.projects import Project
from tests.support.processes import Daemon

# The longest of the tests takes some seconds; one that waits for ever is ended.
TEST_SECONDS = 90
RUN_SECONDS = 3600

PLUGIN = Path(guarded_apps_plugin.__file__)
# Settings of the machine or of this project that would change what a suite does.
FOREIGN = ("PYTEST_", "FLASK_", "SQLALCHEMY_", "DATABASE_", "POOLGUARD_", "COVERAGE_")


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a suite.

    :ivar exit_status: pytest's.
    :ivar outcomes: by test id.
    :ivar messages: the end of the traceback of each test that failed.
    :ivar pools: how many pools were made, by the names of their classes.
    :ivar guards: how many of the `apps` have one.
    :ivar guard_file: where the guard was imported from.
    :ivar log: what pytest printed.
    """

    exit_status: int
    outcomes: dict[str, str]
    messages: dict[str, str]
    pools: dict[str, int]
    apps: int
    guards: int
    guard_file: str | None
    log: str = ""

    @property
    def summary(self) -> str:
        """Return pytest's last line, with apps and pools, for people."""
        pools = ", ".join(f"{n} {name}" for name, n in sorted(self.pools.items()))
        last_line = self.log.strip().rpartition("\n")[2].strip("= ")
        return f"{last_line}; {self.apps} apps, {self.guards} guards; pools: {pools}"


class BrokenRunError(RuntimeError):
    """A suite did not run to its end."""


def run(
    project: Project, environment: Environment, folder: Path, guard: Path | None
) -> Run:
    """Run a project's tests to the end.

    :param folder: an empty one to work in.
    :param guard: the folder that the guard is installed in; without it none is used.
    :raises BrokenRunError: if it did not end, or left no result.
    """
    # Suites leave files in their source and their home, so no two runs share one.
    root = unpack(environment.archive, folder / "source")
    result = folder / "result.json"
    command = [
        *(str(environment.python), "-m", "pytest", "-q", "--tb=short"),
        *("-p", PLUGIN.stem, "--timeout", str(TEST_SECONDS)),
        *("--suite-result", str(result), *project.arguments),
    ]
    if guard is not None:
        command.append("--suite-guarded")
    if project.on_files:
        files = folder / "files"
        files.mkdir()
        command += ["--suite-files", str(files)]
    process = Daemon(
        command, log=folder / "log.txt", env=_variables(folder, guard), cwd=root
    )
    try:
        process.process.wait(RUN_SECONDS)
    except subprocess.TimeoutExpired:
        tail = process.log_tail()
        raise BrokenRunError(f"It took over {RUN_SECONDS} s:\n{tail}") from None
    finally:
        process.stop()
    log = process.log_text()
    if not result.exists():
        raise BrokenRunError(f"It left no result:\n{log[-3000:]}")
    return Run(log=log, **json.loads(result.read_text()))


def _variables(folder: Path, guard: Path | None) -> dict[str, str]:
    """Return an environment in which a suite finds no settings of this machine."""
    home, temporary, path = folder / "home", folder / "tmp", folder / "path"
    for each in (home, temporary, path):
        each.mkdir()
    # Of this folder only the plugin: the project has a package `tests` as well.
    (path / PLUGIN.name).symlink_to(PLUGIN)
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN)
    }
    return known | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": os.pathsep.join(str(each) for each in (path, guard) if each),
    }
