"""Make guarded apps in this process, and look into their reports."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flask import Flask
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, text

from flask_poolguard import PoolGuard
from flask_poolguard.report import (
    Finding,
    Plan,
    PoolStatus,
    Report,
    Server,
    make_report,
)
from tests.support.database_server import APP_PASSWORD
from tests.support.waiting import wait_until


class Shop:
    """A guarded app of this process, with engines of its own."""

    def __init__(self, config: dict[str, Any], **engines: Engine) -> None:
        self.app = Flask("shop")
        self.app.config.update(config)
        self.engines = engines
        self.guard = PoolGuard(self.app)
        for name, engine in engines.items():
            self.guard.register(engine, name=name)

    def report(self) -> Report:
        """Return the report; what it shows must be JSON and tell no secret."""
        with self.app.app_context():
            report = self.guard.report()
        assert APP_PASSWORD not in json.dumps(report.to_dict(), allow_nan=False)
        return report

    def diagnose(self, plan: Plan | None = None, seconds: float = 0.0) -> Report:
        """Return the report of a plan, or of two looks at the servers."""
        state = self.app.extensions["poolguard"]
        self.report()  # finds the engines
        report = make_report(
            self.app, state.config, state.engines, plan=plan, seconds=seconds
        )
        assert APP_PASSWORD not in json.dumps(report.to_dict(), allow_nan=False)
        return report

    def use(self, bind: str = "default") -> None:
        """Take a connection and give it back."""
        with self.app.app_context(), self.engines[bind].connect() as connection:
            connection.execute(text("SELECT 1"))


MakeShop = Callable[..., Shop]


@contextmanager
def shops() -> Iterator[MakeShop]:
    """Give a function that makes guarded apps, and clear up after them."""
    made: list[Shop] = []

    def make(config: dict[str, Any] | None = None, **engines: Engine) -> Shop:
        made.append(Shop(config or {}, **engines))
        return made[-1]

    yield make
    for shop in made:
        for engine in shop.engines.values():
            engine.dispose()
        shop.app.extensions["poolguard"].app_tracker.remove_file()


def pool_in(report: Report, bind: str = "default") -> PoolStatus:
    """Return the figures of a bind's pool in the one worker that there is."""
    (worker,) = report.workers
    assert worker.pid == os.getpid()
    (pool,) = [pool for pool in worker.pools if pool.bind == bind]
    return pool


def server_in(report: Report, bind: str = "default") -> Server:
    """Return what a bind's server said."""
    (server,) = [server for server in report.servers if server.bind == bind]
    return server


def found(report: Report, code: str) -> list[Finding]:
    """Return the findings with this code."""
    return [finding for finding in report.findings if finding.code == code]


def the_one(report: Report, code: str) -> Finding:
    """Return the only finding with this code."""
    (finding,) = found(report, code)
    assert finding.consequence
    return finding


@contextmanager
def sessions(url: URL, count: int = 1, **arguments: Any) -> Iterator[list[Connection]]:
    """Hold so many sessions on a server that no guard knows of.

    :param arguments: of the driver.
    """
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    with ExitStack() as stack:
        yield [stack.enter_context(engine.connect()) for _ in range(count)]


def wait_for_questions() -> None:
    """Wait until no thread asks a server any more."""
    wait_until(
        lambda: all(each.name != "poolguard-report" for each in threading.enumerate()),
        what="the end of all questions",
    )
