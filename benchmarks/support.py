"""What the measurements share: servers, engines with and without guard, rounds."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, TypeVar

import sqlalchemy as sa
from flask import Flask

from flask_poolguard import PoolGuard
from tests.support.servers import DatabaseServer, MariaDBServer, PostgreSQLServer

# What is compared. Without the guard, a pre-ping is what keeps connections that the
# server has closed from a view.
STOCK, PRE_PING, GUARDED = "stock", "pre_ping", "guarded"
SERVERS: tuple[type[DatabaseServer], ...] = (PostgreSQLServer, MariaDBServer)
T = TypeVar("T")

# Where state files are by default, if there is such a folder.
_SHM = "/dev/shm"  # noqa: S108 (each use makes a folder of its own in it)
IN_MEMORY = _SHM if os.access(_SHM, os.W_OK) else None

PACKAGES = ("Flask", "SQLAlchemy", "psycopg2-binary", "PyMySQL")


def machine() -> str:
    """Return in a line where and with what is measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{platform.system()} {platform.release().split('-')[0]},"
        f" {platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}, {packages}"
    )


@contextlib.contextmanager
def database(server_class: type[DatabaseServer]) -> Iterator[tuple[str, sa.URL]]:
    """Run a server; give its name with version and driver, and an empty database."""
    with server_class() as server:
        url = server.url(database=server.create_database())
        engine = sa.create_engine(url)
        with engine.connect():
            found = ".".join(map(str, engine.dialect.server_version_info or ()))
        engine.dispose()
        yield f"{server.product} {found}, {engine.dialect.driver}", url


@contextlib.contextmanager
def engines(
    url: sa.URL | str, *kinds: str, **options: Any
) -> Iterator[tuple[Flask, dict[str, sa.Engine]]]:
    """Give an app and an engine of each kind, of which one is guarded.

    :param options: arguments of `create_engine` for all of them.
    """
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        app = Flask("benchmark")
        app.config["POOLGUARD_STATE_DIR"] = folder
        made = {
            kind: sa.create_engine(url, pool_pre_ping=kind == PRE_PING, **options)
            for kind in kinds
        }
        guard = PoolGuard(app)
        if GUARDED in made:
            guard.register(made[GUARDED], app=app)
        try:
            yield app, made
        finally:
            for engine in made.values():
                engine.dispose()


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on one core.

    Where the scheduler wakes the server's process, on the same core or on another,
    changes a round trip by more than what the guard adds.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def in_turns(turns: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run each once per round, in an order that is reversed every round.

    So the machine's other work falls on all of them.
    """
    found: dict[str, list[T]] = {kind: [] for kind in turns}
    for number in range(rounds):
        for kind in list(turns)[:: -1 if number % 2 else 1]:
            found[kind].append(turns[kind]())
    return found


def microseconds(turn: Callable[[], None], turns: int) -> float:
    """Return the time that one turn takes."""
    start = time.perf_counter()
    for _ in range(turns):
        turn()
    return (time.perf_counter() - start) / turns * 1e6


def select(engine: sa.Engine) -> Callable[[], None]:
    """Return one turn: a transaction with one statement."""
    statement = sa.text("SELECT 1")

    def turn() -> None:
        with engine.connect() as connection:
            connection.execute(statement)

    return turn


def checkout(engine: sa.Engine) -> Callable[[], None]:
    """Return one turn: at the pool alone."""
    return lambda: engine.pool.connect().close()
