"""Make a small guarded app, and look at its connections from both sides."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_poolguard import PoolGuard
from flask_poolguard.pool import GuardedPool

# By dialect, what asks a session for its own number.
SESSION_ID = {
    "mysql": "SELECT CONNECTION_ID()",
    "mariadb": "SELECT CONNECTION_ID()",
    "postgresql": "SELECT pg_backend_pid()",
}


def make_app(url: sa.URL | str, **config: Any) -> Flask:
    """Return an app with Flask-SQLAlchemy and a guard.

    :param config: keys of `app.config`.
    """
    app = Flask("shop")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, **config)
    SQLAlchemy(app)
    PoolGuard(app)
    return app


def engine_of(app: Flask, bind: str | None = None) -> sa.Engine:
    """Return an engine of an app as its views find it."""
    with app.app_context():
        engine: sa.Engine = app.extensions["sqlalchemy"].engines[bind]
    return engine


def guarded_pool(engine: sa.Engine) -> GuardedPool:
    """Return an engine's pool, which must be a guarded one."""
    assert isinstance(engine.pool, GuardedPool), engine.pool
    return engine.pool


@contextmanager
def guarded_engine(url: sa.URL | str, **config: Any) -> Iterator[sa.Engine]:
    """Give the engine of an app of its own, for use outside any context."""
    app = make_app(url, **config)
    engine = engine_of(app)
    try:
        yield engine
    finally:
        engine.dispose()


def session_id(connection: sa.Connection) -> int:
    """Return the server's number of the session behind a connection."""
    number = connection.scalar(sa.text(SESSION_ID[connection.dialect.name]))
    return int(number)


def checked_out_id(engine: sa.Engine) -> int:
    """Take a connection, ask for its session's number and give it back."""
    with engine.connect() as connection:
        return session_id(connection)


class Clock:
    """A monotonic clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def of(self, engine: sa.Engine) -> Clock:
        """Let a guarded pool go by this clock."""
        guarded_pool(engine).clock = self
        return self


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the guard warned of so far."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "flask_poolguard" and record.levelno >= logging.WARNING
    ]
