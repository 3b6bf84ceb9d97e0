"""Make guarded apps in this process, and look into their reports."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from sqlalchemy import Engine, text

from flask_poolguard import PoolGuard
from flask_poolguard.reports import Finding, PoolStatus, Report, Server
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
        shop.app.extensions["poolguard"].books.remove_file()


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


def wait_for_questions() -> None:
    """Wait until no thread asks a server any more."""
    wait_until(
        lambda: all(each.name != "poolguard-report" for each in threading.enumerate()),
        what="the end of all questions",
    )
