"""Connections that a leak, or their age, keeps from ever reaching another user."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tests.conftest import Database
from tests.support.shop import Shop
from tests.support.tracked import Tracked

LOCK = {
    "mysql": "SELECT GET_LOCK('never_reused', 0)",
    "postgresql": "SELECT pg_advisory_lock(4711)",
}


@pytest.fixture
def shop(served_database: Database) -> Iterator[Shop]:
    """Run an app on a server."""
    with Shop(served_database.url) as shop:
        yield shop


def leaked(shop: Shop, sql: str, caplog: pytest.LogCaptureFixture) -> str:
    """Serve a view that leaks a connection, and return the warning."""

    @shop.route
    def leak() -> str:
        shop.keep(shop.engine.connect()).execute(text(sql))
        return "taken"

    with caplog.at_level(logging.WARNING, "flask_poolguard"):
        assert shop.client.get("/leak").text == "taken"
    (record,) = [each for each in caplog.records if each.name == "flask_poolguard"]
    return record.getMessage()


def test_a_leak_with_a_lock_is_closed(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    message = leaked(shop, LOCK[shop.engine.dialect.name], caplog)
    assert "it was closed, because it may have a lock, or listen" in message
    assert shop.tracker.figures.counts["invalidated"] == 1
    assert (shop.out(), shop.engine.pool.checkedin()) == (0, 0)  # type: ignore[attr-defined] # a QueuePool's


def test_a_plain_leak_is_used_again(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    assert "rolled back and returned" in leaked(shop, "SELECT 1", caplog)
    assert (shop.out(), shop.engine.pool.checkedin()) == (0, 1)  # type: ignore[attr-defined] # a QueuePool's


def test_a_leak_outside_of_requests_is_closed(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "flask_poolguard"), shop.app.app_context():
        shop.keep(shop.engine.connect()).execute(text("SELECT 1"))
    (record,) = [each for each in caplog.records if each.name == "flask_poolguard"]
    assert "taken outside of a request or command" in record.getMessage()
    assert (shop.out(), shop.engine.pool.checkedin()) == (0, 0)  # type: ignore[attr-defined] # a QueuePool's


def test_one_that_is_older_than_the_apps_own_pool_recycle_is_replaced(
    served_database: Database,
) -> None:
    tracked = Tracked(served_database.url, pool_recycle=1000)
    numbers = []
    for seconds in (0, 900, 1100):
        with tracked.engine.connect() as connection:
            record = connection.connection._connection_record
            numbers.append(tracked.tracker.sessions_out()[0])
        record.starttime -= seconds
    with tracked.engine.connect():
        numbers.append(tracked.tracker.sessions_out()[0])
    first, *more = numbers
    assert more[:2] == [first, first]
    assert more[2] != first
    assert tracked.tracker.figures.counts["recycled"] == 1
    tracked.engine.dispose()
