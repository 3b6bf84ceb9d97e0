"""Views that are coroutines: their event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import pytest
from flask import stream_with_context
from sqlalchemy import text

from tests.conftest import Database
from tests.support.shop import (
    SEED,
    WAYS,
    Shop,
    Step,
    Witness,
    name_of,
    raises,
    take_connection,
    take_db_session,
)

FLASK = tuple(int(part) for part in version("flask").split(".")[:3])
COUNT = text("SELECT COUNT(*) FROM item")
LOGGER = "flask_poolguard"


@pytest.fixture
def shop(database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[Shop]:
    """Run an app; the guard's warnings are the subject of other tests."""
    caplog.set_level(logging.CRITICAL, LOGGER)
    with Shop(database.url) as shop:
        yield shop


class TestAsyncViews:
    @pytest.mark.parametrize("take", WAYS, ids=name_of)
    @pytest.mark.parametrize("raises", [False, True])
    def test_what_the_view_forgot_is_back_with_the_end_of_the_request(
        self, shop: Shop, take: Step, raises: bool
    ) -> None:
        # Not logged: a record would keep the traceback, that the event loop's thread.
        shop.app.register_error_handler(ZeroDivisionError, lambda error: "failed")

        @shop.route
        async def misuse() -> str:
            await asyncio.sleep(0)
            take(shop)
            await asyncio.sleep(0)
            if raises:
                raise ZeroDivisionError
            return "taken"

        answer = "failed" if raises else "taken"
        assert shop.client.get("/misuse").text == answer
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_a_tidy_view_is_no_leak(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, LOGGER)

        @shop.route
        async def tidy() -> str:
            shop.db.session.add(shop.Item(name="added"))
            await asyncio.sleep(0)
            shop.db.session.commit()
            return str(shop.db.session.scalar(COUNT))

        assert shop.client.get("/tidy").text == "2"
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", SEED, SEED]
        assert [r for r in caplog.records if r.name == LOGGER] == []

    def test_a_leak_is_named_by_endpoint_and_line(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, LOGGER)

        @shop.route
        async def misuse() -> str:
            take_connection(shop)
            return "taken"

        shop.client.get("/misuse")
        (record,) = [r for r in caplog.records if r.name == LOGGER]
        assert record.getMessage().startswith("misuse did not give back")
        assert "tests/support/shop.py:" in record.getMessage()

    def test_tasks_of_one_view_give_back_what_each_forgot(self, shop: Shop) -> None:
        @shop.route
        async def gather() -> str:
            async def work() -> None:
                await asyncio.sleep(0)
                shop.keep(shop.engine.connect()).scalar(COUNT)

            await asyncio.gather(*(work() for _ in range(4)))
            return str(shop.out())

        assert shop.client.get("/gather").text == "4"
        assert shop.out() == 0

    def test_what_a_thread_of_the_view_forgot_is_back(self, shop: Shop) -> None:
        @shop.route
        async def threaded() -> str:
            await asyncio.to_thread(take_connection, shop)
            return str(shop.out())

        assert shop.client.get("/threaded").text == "1"
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_an_inner_context_leaves_the_views_connection_alone(
        self, shop: Shop
    ) -> None:
        @shop.route
        async def nested() -> str:
            connection = shop.keep(shop.engine.connect())
            async with shop_context(shop):
                shop.keep(shop.engine.connect()).scalar(COUNT)
                await asyncio.sleep(0)
            assert shop.out() == 1
            return str(connection.scalar(COUNT))

        assert shop.client.get("/nested").text == "1"
        assert shop.out() == 0

    def test_async_teardown_functions_may_raise(self, shop: Shop) -> None:
        @shop.app.teardown_appcontext
        async def fail(error: BaseException | None) -> None:
            if shop.app.config.get("FAILS"):
                raise ZeroDivisionError

        @shop.route
        async def misuse() -> str:
            take_db_session(shop)
            return "taken"

        shop.app.config["FAILS"] = True
        with raises(ZeroDivisionError):
            shop.client.get("/misuse")
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    @pytest.mark.skipif(  # stream_with_context fails there in async views
        FLASK < (3, 1, 2),
        reason="before Flask 3.1.2 stream_with_context fails in async views",
    )
    def test_the_view_may_return_a_stream(self, shop: Shop) -> None:
        @shop.route
        async def stream() -> Iterator[str]:
            connection = shop.keep(shop.engine.connect())
            await asyncio.sleep(0)

            def generate() -> Iterator[str]:
                for _ in range(3):
                    yield str(connection.scalar(COUNT))
                yield str(shop.db.session.scalar(COUNT))

            return stream_with_context(generate())

        response = shop.client.get("/stream")
        assert shop.out() >= 1
        assert response.text == "1111"
        response.close()
        assert shop.out() == 0


def shop_context(shop: Shop) -> Any:
    """Push an app context around a coroutine's block."""

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        with shop.app.app_context():
            yield

    return context()
