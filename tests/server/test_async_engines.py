"""Async engines in an app whose async views each run in an event loop of their own."""

from __future__ import annotations

import gc
import logging
from typing import Any

import flask_sqlalchemy_lite
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool, StaticPool

from flask_poolguard import ConfigError, PoolGuard
from flask_poolguard.engines import Guarded
from flask_poolguard.report.self_check import log_findings
from tests.support.guarded_app import make_app, warnings_of
from tests.support.reporting import found

NOWHERE = "postgresql+asyncpg://app@127.0.0.1:1/shop"
# Of a connection that is cut off, because its event loop is gone.
UNCLOSED = "ignore::pytest.PytestUnraisableExceptionWarning"
pytestmark = pytest.mark.filterwarnings(UNCLOSED)
ONE = sa.text("SELECT 1")


@pytest.fixture(params=["asyncpg", "psycopg_async"])
def async_url(request: pytest.FixtureRequest, postgresql_url: sa.URL) -> sa.URL:
    return postgresql_url.set(drivername=f"postgresql+{request.param}")


class AsyncShop:
    """An app with an async engine of its own, and a view that uses it."""

    def __init__(self, url: sa.URL | str, **config: Any) -> None:
        self.app = Flask("shop")
        self.app.config.update(config)
        self.guard = PoolGuard(self.app)
        self.engine: AsyncEngine = create_async_engine(url)
        self.guard.register(self.engine)

        @self.app.get("/")
        async def view() -> str:
            async with self.engine.connect() as connection:
                return str(await connection.scalar(ONE))

    @property
    def guarded(self) -> Guarded:
        with self.app.app_context():
            (found,) = self.app.extensions["poolguard"].engines
        guarded: Guarded = found
        return guarded


class TestFinding:
    def test_a_pool_that_keeps_connections_is_found_and_logged_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = AsyncShop(NOWHERE)
        for _ in range(2):  # refused: nothing listens
            assert shop.app.test_client().get("/").status_code >= 500
        (finding,) = found(shop.guard.report(shop.app), "async-pool")
        assert finding.level == "warning"
        assert "'default'" in finding.message
        assert "AsyncAdaptedQueuePool" in finding.message
        assert 'POOLGUARD_POOL_CLASS = "null"' in finding.fix
        assert "poolclass=NullPool" in finding.fix
        state = shop.app.extensions["poolguard"]
        caplog.clear()
        for _ in range(2):
            log_findings(shop.app, state.engines, state.app_tracker.path, state.logged)
        (line,) = [each for each in warnings_of(caplog) if "async-pool" in each]
        assert finding.message in line

    def test_its_remedy_works(self, async_url: sa.URL) -> None:
        shop = AsyncShop(async_url, POOLGUARD_POOL_CLASS="null")
        client = shop.app.test_client()
        assert [client.get("/").text for _ in range(4)] == ["1"] * 4
        assert found(shop.guard.report(shop.app), "async-pool") == []
        assert shop.guarded.tracker.figures.counts["connects"] == 4
        assert shop.guarded.tracker.figures.counts["leaks"] == 0

    def test_without_it_the_second_view_fails(self, postgresql_url: sa.URL) -> None:
        url = postgresql_url.set(drivername="postgresql+asyncpg")
        shop = AsyncShop(url, PROPAGATE_EXCEPTIONS=False)
        logging.getLogger("shop").disabled = True
        client = shop.app.test_client()
        assert [client.get("/").status_code for _ in range(2)] == [200, 500]
        logging.getLogger("shop").disabled = False
        shop.guarded.engine.dispose(close=False)
        gc.collect()

    def test_an_engine_that_is_not_async_is_none(self, sqlite_url: sa.URL) -> None:
        app = make_app(sqlite_url)
        assert found(PoolGuard().report(app), "async-pool") == []


class TestSettings:
    def test_sizes_take_effect(self) -> None:
        shop = AsyncShop(
            NOWHERE,
            POOLGUARD_POOL_SIZE=2,
            POOLGUARD_BINDS={
                "default": {"max_overflow": 1, "pool_timeout": 3, "pool_recycle": 60}
            },
        )
        pool = shop.guarded.engine.pool
        assert type(pool) is AsyncAdaptedQueuePool
        assert (pool.size(), pool._max_overflow, pool.timeout()) == (2, 1, 3)
        assert pool._recycle == 60
        facts = shop.guarded.tracker.facts
        assert (facts.size, facts.max_overflow) == (2, 1)

    def test_without_any_the_pool_stays(self) -> None:
        shop = AsyncShop(NOWHERE)
        pool = shop.engine.sync_engine.pool
        assert shop.guarded.engine.pool is pool

    def test_a_pool_of_another_size_serves(self, async_url: sa.URL) -> None:
        shop = AsyncShop(async_url, POOLGUARD_POOL_SIZE=1, POOLGUARD_MAX_OVERFLOW=0)

        async def use() -> list[Any]:
            with shop.app.app_context():
                values = []
                for _ in range(3):
                    async with shop.engine.connect() as connection:
                        values.append(await connection.scalar(ONE))
                await shop.engine.dispose()
                return values

        assert shop.app.ensure_sync(use)() == [1, 1, 1]
        tracker = shop.guarded.tracker
        assert (
            tracker.figures.counts["connects"],
            tracker.figures.counts["leaks"],
        ) == (1, 0)

    def test_connections_that_are_out_are_closed_when_they_come_back(
        self, async_url: sa.URL
    ) -> None:
        shop = AsyncShop(async_url, POOLGUARD_POOL_CLASS="null")

        async def use() -> None:
            async with shop.engine.connect() as idle:
                await idle.scalar(ONE)
            async with shop.engine.connect() as connection:
                old = shop.engine.sync_engine.pool
                async with shop.engine.connect() as second:
                    await second.scalar(ONE)
                with shop.app.app_context():
                    assert type(shop.engine.sync_engine.pool) is NullPool
                assert isinstance(old, QueuePool)
                assert old.checkedin() == 0
                raw = await connection.get_raw_connection()
                driver: Any = raw.driver_connection
            assert driver.is_closed() if "asyncpg" in str(async_url) else driver.closed

        shop.app.ensure_sync(use)()
        gc.collect()

    def test_what_an_async_pool_cannot_do_is_an_error_for_its_bind(self) -> None:
        shop = AsyncShop(NOWHERE, POOLGUARD_BINDS={"default": {"max_idle": 9}})
        with pytest.raises(
            ConfigError,
            match=r"POOLGUARD_BINDS\['default'\]\['max_idle'\] = 9 has no effect on"
            r" bind 'default', .* AsyncAdaptedQueuePool\. Remove it",
        ):
            _ = shop.guarded

    def test_what_no_bind_can_follow_is_an_error(self) -> None:
        shop = AsyncShop(NOWHERE, POOLGUARD_MAX_IDLE=9)
        with pytest.raises(ConfigError, match="POOLGUARD_MAX_IDLE = 9 has no effect"):
            _ = shop.guarded

    def test_what_another_bind_follows_is_a_warning(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = AsyncShop(NOWHERE, POOLGUARD_MAX_IDLE=9)
        shop.guard.register(sa.create_engine(sqlite_url), name="files")
        with shop.app.app_context():
            pass
        (warning,) = warnings_of(caplog)
        assert "POOLGUARD_MAX_IDLE = 9 has no effect on bind 'default'" in warning

    def test_a_database_in_memory_needs_none(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make_app("sqlite://", POOLGUARD_POOL_SIZE=9, POOLGUARD_MAX_IDLE=9)
        with app.app_context():
            (guarded,) = app.extensions["poolguard"].engines
        assert type(guarded.engine.pool) is StaticPool
        assert warnings_of(caplog) == []

    def test_a_contradiction_of_an_engines_own_size_is_an_error(self) -> None:
        app = Flask("shop")
        app.config.update(
            SQLALCHEMY_ASYNC_ENGINES={"default": {"url": NOWHERE, "pool_size": 3}},
            POOLGUARD_POOL_SIZE=2,
        )
        flask_sqlalchemy_lite.SQLAlchemy(app, require_default_engine=False)
        PoolGuard(app)
        with pytest.raises(ConfigError, match="POOLGUARD_POOL_SIZE is 2, but"):
            app.app_context().push()


class TestLine:
    @pytest.fixture
    def lite(self, async_url: sa.URL) -> Flask:
        app = Flask("shop")
        app.config.update(
            SQLALCHEMY_ASYNC_ENGINES={"default": async_url},
            POOLGUARD_POOL_CLASS="null",
        )
        app.extensions["lite"] = flask_sqlalchemy_lite.SQLAlchemy(
            app, require_default_engine=False
        )
        PoolGuard(app)
        return app

    def sites(self, app: Flask) -> list[str]:
        (tracker,) = app.extensions["poolguard"].app_tracker.trackers
        return [each.site() for each in tracker.out.values()]

    def test_of_a_session_of_the_extension_is_the_views(self, lite: Flask) -> None:
        sites: list[str] = []

        @lite.get("/")
        async def view() -> str:
            session = lite.extensions["lite"].async_session
            value = await session.scalar(ONE)  # here
            sites.extend(self.sites(lite))
            await session.close()  # the extension does so in another event loop
            return str(value)

        assert lite.test_client().get("/").text == "1"
        assert [each.endswith(self.line("# here")) for each in sites] == [True]

    def test_of_an_engine_is_the_views(self, async_url: sa.URL) -> None:
        shop = AsyncShop(async_url, POOLGUARD_POOL_CLASS="null")
        sites: list[str] = []

        async def helper() -> str:
            async with shop.engine.connect() as connection:  # there
                sites.extend(self.sites(shop.app))
                return str(await connection.scalar(ONE))

        @shop.app.get("/nested")
        async def nested() -> str:
            return await helper()

        assert shop.app.test_client().get("/nested").text == "1"
        assert [each.endswith(self.line("# there")) for each in sites] == [True]

    def line(self, mark: str) -> str:
        with open(__file__, encoding="utf-8") as lines:
            numbers = [number for number, each in enumerate(lines, 1) if mark in each]
        assert numbers
        return f"server/test_async_engines.py:{numbers[0]}"
