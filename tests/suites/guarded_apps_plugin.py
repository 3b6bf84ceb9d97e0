"""A pytest plugin that puts a guard on each Flask app, and notes how tests end.

It is loaded by name in the environment of another project, in which nothing of this
folder can be imported but this module.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.engine.create
import sqlalchemy.pool
from flask import Flask
from sqlalchemy.engine import make_url

# How much of a failure is kept: the end, where the error stands.
MESSAGE_CHARACTERS = 3000
# How the guard's LeakWarning reads.
LEAK = ".* did not give back a connection of bind"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that the runner sets."""
    group = parser.getgroup("poolguard")
    group.addoption("--suite-guarded", action="store_true")
    group.addoption("--suite-files", type=Path)
    group.addoption("--suite-result", type=Path, required=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin before the project's conftest can make an app."""
    options = early_config.known_args_namespace
    early_config.pluginmanager.register(
        Recorder(options.suite_result, guarded=options.suite_guarded)
    )
    if options.suite_guarded:
        # Else each leak of a suite that makes all warnings errors would fail its test.
        early_config.addinivalue_line("filterwarnings", f"ignore:{LEAK}:UserWarning")
    if options.suite_files is not None:
        put_on_files(options.suite_files)


def put_on_files(folder: Path) -> None:
    """Give each engine on SQLite in memory a file of its own instead.

    In memory it has a pool with one connection, which no guard replaces.
    """
    make: Any = sqlalchemy.create_engine
    numbers = itertools.count(1)

    @functools.wraps(make)
    def create_engine(url: Any, **options: Any) -> Any:
        found = make_url(url)
        in_memory = found.database in (None, "", ":memory:") and not found.query
        if found.drivername in ("sqlite", "sqlite+pysqlite") and in_memory:
            # Flask-SQLAlchemy and tests set the pool that a database in memory needs.
            options.pop("poolclass", None)
            found = found.set(database=str(folder / f"{next(numbers)}.db"))
        return make(found, **options)

    # `engine_from_config` looks the function up in its own module.
    for namespace in (sqlalchemy, sqlalchemy.engine, sqlalchemy.engine.create):
        namespace.create_engine = create_engine  # type: ignore[attr-defined] # before the project imports it


class Recorder:
    """Counts apps, guards and pools, and notes what became of the tests."""

    def __init__(self, file: Path, *, guarded: bool) -> None:
        self.file = file
        self.outcomes: dict[str, str] = {}
        self.messages: dict[str, str] = {}
        self.pools: Counter[str] = Counter()
        self.apps = 0
        self.guards = 0
        self.guard_file: str | None = None
        self.count_pools()
        self.count_apps()
        if guarded:
            self.guard_apps()

    def count_pools(self) -> None:
        """Count the pools that are made, by the names of their classes."""

        # Not __init__, whose arguments SQLAlchemy reads from its signature.
        def count(cls: type[Any], *_: object, **__: object) -> Any:
            self.pools[cls.__name__] += 1
            return object.__new__(cls)

        sqlalchemy.pool.Pool.__new__ = count  # type: ignore[method-assign] # it has none of its own

    def count_apps(self) -> None:
        """Count the apps that are made."""
        init: Any = Flask.__init__

        @functools.wraps(init)
        def counted(app: Flask, *args: Any, **kwargs: Any) -> None:
            init(app, *args, **kwargs)
            self.apps += 1

        Flask.__init__ = counted  # type: ignore[assignment, method-assign] # every app is counted

    def guard_apps(self) -> None:
        """Put a guard on each app as soon as it is made."""
        import flask_poolguard

        self.guard_file = flask_poolguard.__file__
        init: Any = Flask.__init__

        @functools.wraps(init)
        def guarded(app: Flask, *args: Any, **kwargs: Any) -> None:
            init(app, *args, **kwargs)
            flask_poolguard.PoolGuard(app)
            self.guards += 1

        Flask.__init__ = guarded  # type: ignore[assignment, method-assign] # every app is guarded

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note the modules that could not be collected, or said to skip them."""
        if report.outcome != "passed":
            self.outcomes[report.nodeid] = f"{report.outcome} while collected"
            self.messages[report.nodeid] = report.longreprtext[-MESSAGE_CHARACTERS:]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test, unless it says nothing."""
        outcome = outcome_of(report)
        if outcome is None:
            return
        name = name_of(report)
        # A test that passed and then fails in its teardown is two outcomes.
        known = self.outcomes.get(name)
        self.outcomes[name] = f"{known}, {outcome}" if known else outcome
        if report.failed:
            self.messages[name] = report.longreprtext[-MESSAGE_CHARACTERS:]

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write it all down for the runner."""
        result = {
            "exit_status": int(exitstatus),
            "outcomes": self.outcomes,
            "messages": self.messages,
            "pools": self.pools,
            "apps": self.apps,
            "guards": self.guards,
            "guard_file": self.guard_file,
        }
        self.file.write_text(json.dumps(result))


def name_of(report: pytest.TestReport) -> str:
    """Return the test's id, with the subtest's if it is the report of one."""
    context = getattr(report, "context", None)
    if context is None:
        return report.nodeid
    words = [f"{key}={value!r}" for key, value in context.kwargs.items()]
    return f"{report.nodeid} ({' '.join([str(context.msg), *words])})"


def outcome_of(report: pytest.TestReport) -> str | None:
    """Return what a phase says of its test; a setup that went well says nothing."""
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    if report.when == "call" or report.skipped:
        return str(report.outcome)
    return f"error at {report.when}" if report.failed else None
