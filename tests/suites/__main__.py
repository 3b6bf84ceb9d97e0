"""Run test suites of other projects without and with the guard, and compare them.

    python -m tests.suites                        all of them
    python -m tests.suites flask-sqlalchemy …     these

`GUARD_CHECKOUT` names the folder of another checkout, whose guard is tested then.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.suites.comparison import Comparison, compare
from tests.suites.environments import MissingProjectError, install_guard, prepare
from tests.suites.projects import PROJECTS, Project
from tests.suites.runs import BrokenRunError, Run, run
from tests.support.app_server import REPOSITORY
from tests.support.not_tested import MARK

CHECKOUT = "GUARD_CHECKOUT"
# Lines of a failure that are printed: the last ones say what was raised.
MESSAGE_LINES = 12


def main() -> int:
    """Run the suites that were asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites")
    parser.add_argument("suites", nargs="*", metavar="suite", help=", ".join(PROJECTS))
    parser.add_argument(
        "--tests", help="for pytest, instead of the whole suite; '-k session', say"
    )
    options = parser.parse_args()
    names: list[str] = options.suites or list(PROJECTS)
    unknown = [name for name in names if name not in PROJECTS]
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(PROJECTS)}")
    checkout = Path(os.environ.get(CHECKOUT) or REPOSITORY).resolve()
    print(f"The guard is that of {checkout}.", flush=True)
    with tempfile.TemporaryDirectory(prefix="suites-") as name:
        guard = Path(name) / "guard"
        install_guard(checkout, guard)
        ended_well = [
            _try(_narrowed(PROJECTS[each], options.tests), Path(name) / each, guard)
            for each in names
        ]
    return 0 if all(ended_well) else 1


def _narrowed(project: Project, tests: str | None) -> Project:
    """Return the project with some of its tests only, of which one must pass."""
    if tests is None:
        return project
    print(f"{project.name}: only {tests}. This says nothing about the rest of it.")
    # Which of them make pools is not known.
    return replace(project, arguments=tuple(shlex.split(tests)), minimum=1, pools=False)


def _try(project: Project, folder: Path, guard: Path) -> bool:
    """Run a suite and print what was found; tell whether the guard changed nothing."""
    print(f"\n{project.name} {project.version}", flush=True)
    try:
        return _run(project, folder, guard).passed
    except BrokenRunError as error:
        print(f"  FAILED: {error}", flush=True)
        return False
    except MissingProjectError as error:
        print(f"  {MARK}{error}", flush=True)
        # Without network a developer can still run the other suites, CI cannot.
        return not os.environ.get("CI")


def _run(project: Project, folder: Path, guard: Path) -> Comparison:
    environment = prepare(project)
    runs: list[Run] = []
    for label, used in (("stock", None), ("stock again", None), ("guarded", guard)):
        started = time.monotonic()
        place = folder / label.replace(" ", "-")
        place.mkdir(parents=True)
        runs.append(run(project, environment, place, used))
        seconds = time.monotonic() - started
        print(f"  {label}: {runs[-1].summary} ({seconds:.0f} s)", flush=True)
    comparison = compare(project, *runs)
    _print(comparison)
    return comparison


def _print(comparison: Comparison) -> None:
    print(f"  {comparison.counts()}, {len(comparison.differences)} differ")
    for test, (first, second) in comparison.unstable.items():
        print(f"  not compared, unstable in stock: {test} ({first}, then {second})")
    for difference in comparison.differences:
        print(f"  DIFFERS: {difference}")
        for line in difference.message.splitlines()[-MESSAGE_LINES:]:
            print(f"      {line}")
    for fault in comparison.faults:
        print(f"  FAILED: {fault}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
