"""A pytest plugin that runs SQLAlchemy's own tests on a pool of our choice.

It is loaded by name, in a process of its own (see `sqlalchemy_suite`), and works as
early as a plugin can: SQLAlchemy's tests and its testing package look up the name
`QueuePool` when they are imported.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

# SQLAlchemy's testing package must not be imported here: it does that itself, after
# it told pytest to rewrite its assertions.
import sqlalchemy
import sqlalchemy.pool
import sqlalchemy.pool.impl

from flask_poolguard.pool import GuardedPool
from tests.support.sqlalchemy_deviations import deviations

STOCK, GUARDED = "stock", "guarded"
# Where SQLAlchemy 2.0.31 to 2.1.9 and its tests take the name from. Dialects look it
# up in `sqlalchemy.pool` each time that they choose a pool.
NAMESPACES = (sqlalchemy, sqlalchemy.pool, sqlalchemy.pool.impl)
# The part of a class's name that says which database it runs on.
BACKEND = re.compile(r"_[a-z]+\+\w+(?=::)")


def stable_id(node_id: str) -> str:
    """Return a test's id without its folder, its database and its kind of pool."""
    name = BACKEND.sub("", node_id.rpartition("/")[2])
    return name.replace(GuardedPool.__name__, "QueuePool")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that the runner sets."""
    group = parser.getgroup("poolguard")
    group.addoption("--suite-pool", choices=(STOCK, GUARDED), required=True)
    group.addoption("--suite-result", type=Path, required=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Put the pool in its place, before SQLAlchemy's conftest is imported."""
    options = early_config.known_args_namespace
    early_config.pluginmanager.register(Recorder(options))
    if options.suite_pool == GUARDED:
        for namespace in NAMESPACES:
            namespace.QueuePool = GuardedPool  # type: ignore[attr-defined] # to be tested


class Recorder:
    """Notes what became of the tests, and which pools they made."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.guarded = options.suite_pool == GUARDED
        self.file: Path = options.suite_result
        self.outcomes: dict[str, str] = {}
        self.pools: Counter[str] = Counter()
        self.count_pools()

    def count_pools(self) -> None:
        """Count the pools that are made, by the names of their classes."""

        # Not __init__, whose arguments SQLAlchemy reads from its signature.
        def count(cls: type[Any], *_: object, **__: object) -> Any:
            self.pools[cls.__name__] += 1
            return object.__new__(cls)

        sqlalchemy.pool.Pool.__new__ = count  # type: ignore[method-assign] # it has none of its own

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Expect the tests that are listed as deviations to fail."""
        if not self.guarded:
            return
        on_server = bool(config.getoption("dburi"))
        files = {item.path.name for item in items}
        reasons = deviations(*files, on_server=on_server)
        for item in items:
            reason = reasons.get(stable_id(item.nodeid))
            if reason is not None:
                # A deviation shows in what a test asserts; any other error is a bug.
                item.add_marker(
                    pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)
                )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's outcome: the call's, unless another phase is worse."""
        name = stable_id(report.nodeid)
        outcome: str = report.outcome
        if outcome == "skipped" and hasattr(report, "wasxfail"):
            outcome = "xfailed"
        if outcome != "passed" or report.when == "call":
            self.outcomes[name] = outcome

    def pytest_sessionfinish(self) -> None:
        """Write it all down for the runner."""
        result = {
            "sqlalchemy": sqlalchemy.__file__,
            "outcomes": self.outcomes,
            "pools": self.pools,
        }
        self.file.write_text(json.dumps(result))
