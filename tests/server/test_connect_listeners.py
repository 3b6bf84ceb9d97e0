"""What `connect` and `do_connect` listeners of an app set, and see, with a guard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from flask_poolguard.databases import for_dialect
from flask_poolguard.engines import carries_label
from flask_poolguard.engines.connect_args import read_timeout_of
from tests.conftest import Database, database_by
from tests.support.drivers import DRIVERS, driver_connection
from tests.support.guarded_app import guarded_engine, guarded_pool
from tests.support.reporting import MakeShop

pytestmark = pytest.mark.every_product

ALL_DRIVERS = [*DRIVERS, "postgresql+pg8000"]

# By dialect: how a session is set, and how it is asked for that.
SETTINGS = {
    "postgresql": (
        ["SET search_path TO tenant_a, public", "SET statement_timeout TO '7s'"],
        "SELECT current_setting('search_path'), current_setting('statement_timeout')",
    ),
    "mysql": (
        ["SET SESSION lock_wait_timeout = 7", "SET @tenant = 'tenant_a'"],
        "SELECT @@lock_wait_timeout, @tenant",
    ),
}
OPEN_TRANSACTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx",
}


@pytest.fixture(params=ALL_DRIVERS)
def database(request: pytest.FixtureRequest) -> Database:
    """Return a fresh database, by each driver."""
    return database_by(request.param, request)


@contextmanager
def engine_for(url: sa.URL, *, is_guarded: bool) -> Iterator[sa.Engine]:
    """Give an engine, with a guard or without."""
    if is_guarded:
        with guarded_engine(url) as engine:
            yield engine
        return
    engine = sa.create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def run(connection: Any, *statements: str) -> None:
    """Run statements on a driver's connection."""
    cursor = connection.cursor()
    for each in statements:
        cursor.execute(each)
    cursor.close()


@pytest.mark.parametrize("end", ["commit", "rollback", "nothing"])
class TestWhatAListenerSets:
    """Also a rollback of its own undoes no more than it does without a guard."""

    def test_is_the_same_with_a_guard(self, database: Database, end: str) -> None:
        stock, guarded = (
            self.seen(database.url, end, is_guarded=guarded)
            for guarded in (False, True)
        )
        assert guarded == stock
        if end != "rollback":
            assert stock[0] == stock[1]
            assert "tenant_a" in str(stock[0])

    def seen(self, url: sa.URL, end: str, *, is_guarded: bool) -> list[tuple[Any, ...]]:
        """Return the settings as two checkouts in a row have them."""
        statements, question = SETTINGS[url.get_backend_name()]
        found = []
        with engine_for(url, is_guarded=is_guarded) as engine:

            @sa.event.listens_for(engine, "connect")
            def settle(connection: Any, record: Any) -> None:
                run(connection, *statements)
                if end != "nothing":
                    getattr(connection, end)()

            for _ in range(2):
                with engine.connect() as connection:
                    found.append(tuple(connection.exec_driver_sql(question).one()))
                    connection.commit()
        return found

    def test_is_the_same_for_asyncpg(
        self, make_shop: MakeShop, postgresql_url: sa.URL, end: str
    ) -> None:
        """Its pool stays SQLAlchemy's own, which the guard only watches."""
        url = postgresql_url.set(drivername="postgresql+asyncpg")
        stock, guarded = create_async_engine(url), create_async_engine(url)
        make_shop(default=guarded.sync_engine).report()
        assert asyncio.run(self.seen_by(guarded, end)) == asyncio.run(
            self.seen_by(stock, end)
        )

    async def seen_by(self, engine: AsyncEngine, end: str) -> list[tuple[Any, ...]]:
        """Return what the first and second checkout have of an engine of asyncio."""
        statements, question = SETTINGS["postgresql"]
        found = []

        @sa.event.listens_for(engine.sync_engine, "connect")
        def settle(connection: Any, record: Any) -> None:
            run(connection, *statements)
            if end != "nothing":
                getattr(connection, end)()

        for _ in range(2):
            async with engine.connect() as connection:
                result = await connection.exec_driver_sql(question)
                found.append(tuple(result.one()))
                await connection.commit()
        await engine.dispose()
        return found


class TestTransactions:
    def test_one_that_a_listener_has_begun_stays_open(self, database: Database) -> None:
        seen: list[Any] = []
        with guarded_engine(database.url) as engine:
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE events (n INT)")
            engine.dispose()

            @sa.event.listens_for(engine, "connect")
            def begin(connection: Any, record: Any) -> None:
                run(connection, "INSERT INTO events VALUES (1)")

            with engine.connect() as connection:
                seen.append(connection.exec_driver_sql("SELECT n FROM events").scalar())
                connection.rollback()
                seen.append(connection.exec_driver_sql("SELECT n FROM events").scalar())
        assert seen == [1, None]

    @pytest.mark.usefixtures("own_server")
    def test_none_is_left_open_by_the_guards_questions(
        self, database: Database
    ) -> None:
        question = OPEN_TRANSACTIONS[database.url.get_backend_name()]
        with guarded_engine(database.url) as engine:
            pool = guarded_pool(engine)
            # Both questions are asked: also the one after a death.
            pool.limits._is_in_doubt = True
            connection = engine.raw_connection()
            assert pool.limits._killed is not None
            assert database.running_server.query(question) in ([("0",)], [(0,)])
            connection.close()

    def test_a_driver_that_does_not_tell_of_them_is_not_asked(
        self, postgresql_url: sa.URL
    ) -> None:
        family = for_dialect("postgresql")
        with driver_connection(postgresql_url) as driver:

            class Plain:
                """Has what PEP 249 asks for and nothing else."""

                cursor, rollback = driver.cursor, driver.rollback

            run(driver, "SET search_path TO tenant_a")
            assert family.idle_limit(Plain()).seconds is None
            assert "not asked" in family.idle_limit(Plain()).source
            assert family.killed_sessions(Plain()) is None
            cursor = driver.cursor()
            cursor.execute("SHOW search_path")
            assert cursor.fetchone() == ("tenant_a",)


def test_pg8000_is_asked_for_its_limit(postgresql_url: sa.URL) -> None:
    url = postgresql_url.set(drivername="postgresql+pg8000")
    with guarded_engine(url) as engine:

        @sa.event.listens_for(engine, "connect")
        def limit(connection: Any, record: Any) -> None:
            run(connection, "SET idle_session_timeout TO '600s'")

        with engine.connect():
            source = guarded_pool(engine).limits.recycle.source
    assert "idle_session_timeout 600 s" in source


class TestWhatTheGuardAdds:
    """It is added after all `do_connect` listeners, for the driver alone."""

    def test_is_seen_by_no_listener_whenever_it_came(self, database: Database) -> None:
        seen: list[set[str]] = []

        def look(_: Any, __: Any, ___: Any, keywords: dict[str, Any]) -> None:
            seen.append(set(keywords) - {"charset"})  # Flask-SQLAlchemy's own

        with engine_for(database.url, is_guarded=False) as engine:
            sa.event.listen(engine, "do_connect", look)
            connect_twice(engine)
        stock = seen.copy()
        with guarded_engine(database.url) as engine:
            sa.event.listen(engine, "do_connect", look)
            connect_twice(engine)
        assert seen == stock * 2

    def test_gives_way_to_what_a_listener_sets_by_default(
        self, mariadb_url: sa.URL
    ) -> None:
        with guarded_engine(mariadb_url) as engine:

            @sa.event.listens_for(engine, "do_connect")
            def limit(_: Any, __: Any, ___: Any, keywords: dict[str, Any]) -> None:
                keywords.setdefault("read_timeout", 7)
                keywords.setdefault("program_name", "mine")

            for _ in range(2):
                connection: Any = engine.raw_connection()
                driver = connection.dbapi_connection
                assert driver._read_timeout == 7
                assert driver._write_timeout is None
                assert driver._connect_attrs["program_name"] == "mine"
                connection.invalidate()

    def test_reaches_a_connection_of_the_dialects_by_a_listener(
        self, mariadb_url: sa.URL
    ) -> None:
        with guarded_engine(mariadb_url) as engine:

            @sa.event.listens_for(engine, "do_connect")
            def connect(dialect: Any, _: Any, arguments: Any, keywords: Any) -> Any:
                return dialect.connect(*arguments, **keywords)

            connection: Any = engine.raw_connection()
            driver = connection.dbapi_connection
            assert driver._connect_attrs["program_name"].startswith("shop@")
            assert driver._read_timeout is None
            connection.close()

    def test_is_kept_from_a_connection_of_a_listeners_own(
        self, mariadb_url: sa.URL
    ) -> None:
        with guarded_engine(mariadb_url) as engine:

            @sa.event.listens_for(engine, "do_connect")
            def connect(_: Any, __: Any, arguments: Any, keywords: Any) -> Any:
                return pymysql.connect(*arguments, **keywords, read_timeout=9)

            connection: Any = engine.raw_connection()
            driver = connection.dbapi_connection
            assert driver._connect_attrs.get("program_name") != "shop"
            assert (driver._read_timeout, driver.connect_timeout) == (9, 10)
            connection.close()
            assert read_timeout_of(engine.dialect) == 9
            assert not carries_label(engine.dialect)

    def test_keeps_to_the_checkouts_time_when_a_listener_connects_elsewhere(
        self, mariadb_url: sa.URL
    ) -> None:
        config = {"POOLGUARD_POOL_TIMEOUT": 3}
        with (
            guarded_engine(mariadb_url, **config) as engine,
            guarded_engine(mariadb_url) as other,
        ):

            @sa.event.listens_for(engine, "do_connect")
            def ask(*_: object) -> None:
                connect_twice(other)

            connection: Any = engine.raw_connection()
            assert connection.dbapi_connection.connect_timeout <= 3
            connection.close()


def connect_twice(engine: sa.Engine) -> None:
    """Take a connection, throw it away, and take another."""
    for _ in range(2):
        connection = engine.raw_connection()
        connection.invalidate()
