"""Engines as users set them up, by what pools their connections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, SingletonThreadPool

from benchmarks.support import GUARDED, PRE_PING, STOCK
from tests.support.pgbouncer import PgBouncer
from tests.support.private_server import MissingServerError

# So long a request waits for a connection, with each pool that can be told.
TIMEOUT_SECONDS = 30.0


class NotInstalledError(RuntimeError):
    """A contender is not there; the message says how to install it."""


@contextlib.contextmanager
def queue_pool(url: sa.URL, size: int, threads: int) -> Iterator[sa.Engine]:
    """Give an engine with SQLAlchemy's own pool, which a guard may replace."""
    with _engine(url, **_limits(size)) as engine:
        yield engine


@contextlib.contextmanager
def pre_ping(url: sa.URL, size: int, threads: int) -> Iterator[sa.Engine]:
    """Give an engine whose pool asks the server before each checkout."""
    with _engine(url, pool_pre_ping=True, **_limits(size)) as engine:
        yield engine


@contextlib.contextmanager
def per_thread(url: sa.URL, size: int, threads: int) -> Iterator[sa.Engine]:
    """Give an engine with a connection for each thread.

    The pool closes connections of other threads, in use or not, once there are more
    than its size, so that this is the number of threads.
    """
    pool = {"poolclass": SingletonThreadPool, "pool_size": threads + 1}
    with _engine(url, **pool) as engine:
        yield engine


@contextlib.contextmanager
def psycopg_pool(url: sa.URL, size: int, threads: int) -> Iterator[sa.Engine]:
    """Give an engine on psycopg's own pool, set up as its documentation says.

    `close_returns` makes the `close` of SQLAlchemy's `NullPool` give back.
    """
    with _psycopg_pool(url, size, check=False) as engine:
        yield engine


@contextlib.contextmanager
def psycopg_pool_check(url: sa.URL, size: int, threads: int) -> Iterator[sa.Engine]:
    """Give the same, with a look at each connection before it is lent."""
    with _psycopg_pool(url, size, check=True) as engine:
        yield engine


@contextlib.contextmanager
def dbutils(url: sa.URL, size: int, threads: int) -> Iterator[sa.Engine]:
    """Give an engine on DBUtils' pool.

    It pings each connection before it is lent, where the driver can. Its own rollback
    is off, because SQLAlchemy sends one.
    """
    try:
        from dbutils.pooled_db import PooledDB
    except ImportError as error:
        raise NotInstalledError("not installed: pip install DBUtils") from error
    dialect = _dialect(url)
    pool = PooledDB(
        dialect.loaded_dbapi,
        maxconnections=size,
        blocking=True,
        reset=False,
        **_arguments(dialect, url),
    )
    # Else psycopg's dialect looks for hstore by a function that takes none but
    # psycopg's own connections.
    options = {"use_native_hstore": False} if dialect.driver == "psycopg" else {}
    try:
        with _null_pool(url, lambda: _Lent(pool.connection()), **options) as engine:
            yield engine
    finally:
        pool.close()


@contextlib.contextmanager
def pgbouncer(url: sa.URL, size: int, threads: int) -> Iterator[sa.Engine]:
    """Give an engine without a pool, behind PgBouncer.

    Without prepared statements: PgBouncer before 1.21 has none in this mode.
    """
    try:
        server = PgBouncer(url, default_pool_size=size, pool_mode="transaction")
    except MissingServerError as error:
        raise NotInstalledError("not installed: apt-get install pgbouncer") from error
    with (
        server,
        _engine(
            server.url, poolclass=NullPool, connect_args={"prepare_threshold": None}
        ) as engine,
    ):
        yield engine


Contender = Callable[[sa.URL, int, int], AbstractContextManager[sa.Engine]]
# Each takes the database, how many connections it may have, and how many threads
# will ask for them.
CONTENDERS: dict[str, Contender] = {
    STOCK: queue_pool,
    GUARDED: queue_pool,
    PRE_PING: pre_ping,
    "psycopg_pool": psycopg_pool,
    # psycopg_pool's, that is.
    "with its check": psycopg_pool_check,
    "DBUtils": dbutils,
    "one per thread": per_thread,
    "PgBouncer": pgbouncer,
}
# For these alone there is only one database.
POSTGRESQL_ONLY = {"psycopg_pool", "with its check", "PgBouncer"}


class _Lent:
    """A connection of DBUtils' that has what SQLAlchemy's dialects ask of a driver's.

    DBUtils passes on what all drivers have. The dialects of psycopg and PyMySQL call
    more than that as soon as they have connected.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._connection, name)
        except AttributeError:
            return getattr(self._connection.dbapi_connection, name)


def _limits(size: int) -> dict[str, Any]:
    return {"pool_size": size, "max_overflow": 0, "pool_timeout": TIMEOUT_SECONDS}


@contextlib.contextmanager
def _psycopg_pool(url: sa.URL, size: int, check: bool) -> Iterator[sa.Engine]:
    try:
        from psycopg_pool import ConnectionPool
    except ImportError as error:
        raise NotInstalledError("not installed: pip install psycopg_pool") from error
    with (
        ConnectionPool(
            kwargs=_arguments(_dialect(url), url),
            min_size=size,
            max_size=size,
            timeout=TIMEOUT_SECONDS,
            check=ConnectionPool.check_connection if check else None,
            close_returns=True,
            open=True,
        ) as pool,
        _null_pool(url, pool.getconn) as engine,
    ):
        pool.wait()
        yield engine


@contextlib.contextmanager
def _null_pool(
    url: sa.URL, creator: Callable[[], Any], **options: Any
) -> Iterator[sa.Engine]:
    """Give an engine that borrows from another pool, and keeps nothing itself."""
    with _engine(url, poolclass=NullPool, creator=creator, **options) as engine:
        yield engine


@contextlib.contextmanager
def _engine(url: sa.URL, **options: Any) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def _dialect(url: sa.URL) -> sa.Dialect:
    """Return a dialect with its driver's module."""
    engine = sa.create_engine(url)
    return engine.dialect


def _arguments(dialect: sa.Dialect, url: sa.URL) -> dict[str, Any]:
    """Return what SQLAlchemy itself would connect with."""
    arguments, options = dialect.create_connect_args(url)
    if arguments:
        raise ValueError(f"{dialect.driver} takes {arguments} without names")
    return dict(options)
