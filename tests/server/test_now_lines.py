"""Which line runs now, of what is held or waited for; and a login that is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError

from flask_poolguard.state.status import PoolStatus
from flask_poolguard.tracking import running_lines
from tests.conftest import Database
from tests.support.reporting import MakeShop, Shop, pool_in
from tests.support.waiting import wait_until

FILE = "tests/server/test_now_lines.py"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look also at what is held, or waited for, for less than a second."""
    monkeypatch.setattr(running_lines, "LOOKED_AT", 0.0)


@pytest.fixture
def shop(make_shop: MakeShop, served_database: Database) -> Shop:
    """Return an app with a pool of one connection."""
    engine = create_engine(
        served_database.url, pool_size=1, max_overflow=0, pool_timeout=60
    )
    return make_shop(default=engine)


class Views:
    """A user loader that takes a connection, and a report that goes on with it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.is_held, self.may_end = threading.Event(), threading.Event()

    def load_user(self) -> Any:
        return self.shop.engines["default"].connect()  # THE LINE THAT TAKES

    def make_report(self) -> None:
        with self.shop.app.test_request_context("/report"):
            connection = self.load_user()
            self.is_held.set()
            self.slow_part()
            connection.close()

    def slow_part(self) -> None:
        self.may_end.wait(60)  # THE LINE THAT RUNS


@contextmanager
def holding(shop: Shop) -> Iterator[Views]:
    """Let a thread hold the connection."""
    views = Views(shop)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(views.make_report)
        try:
            assert views.is_held.wait(30)
            yield views
        finally:
            views.may_end.set()
            done.result(30)


def figures(shop: Shop) -> PoolStatus:
    """Return the pool's figures after a round of the housekeeper."""
    for tracker in shop.app.extensions["poolguard"].app_tracker.trackers:
        tracker.tend()
    return pool_in(shop.report())


def line(mark: str) -> int:
    """Return the number of a marked line of this file."""
    with open(__file__, encoding="utf-8") as file:
        (number,) = [
            number
            for number, text in enumerate(file, 1)
            if text.endswith(f"# {mark}\n")
        ]
    return number


def test_of_a_holder_is_not_where_it_took_the_connection(shop: Shop) -> None:
    with holding(shop):
        (holder,) = figures(shop).holders
    assert holder.site is not None
    assert holder.site.endswith(f":{line('THE LINE THAT TAKES')}")
    assert holder.now is not None
    assert holder.now.endswith(f":{line('THE LINE THAT RUNS')} in slow_part")
    assert holder.now_seconds is not None
    assert holder.now_seconds < 30
    assert figures(shop).holders == ()


@pytest.mark.every_product
def test_is_the_apps_own_while_a_driver_waits_for_an_answer(
    shop: Shop, served_database: Database
) -> None:
    """PyMySQL waits in Python code of its own."""
    is_mysql = served_database.url.get_backend_name() == "mysql"
    query = "SELECT SLEEP(2)" if is_mysql else "SELECT pg_sleep(2)"
    shop.use()  # so that there is a pool to look at

    def ask() -> None:
        with shop.app.app_context(), shop.engines["default"].connect() as connection:
            connection.exec_driver_sql(query)  # THE LINE THAT ASKS

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(ask)
        lines = []
        while not done.done():
            lines += [each.now for each in figures(shop).holders if each.now]
        done.result(30)
    assert lines
    assert {each.rpartition(":")[2] for each in lines} == {
        f"{line('THE LINE THAT ASKS')} in ask"
    }


def test_is_known_of_those_who_wait(shop: Shop) -> None:
    with holding(shop) as views, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(shop.use) for _ in range(2)]
        wait_until(lambda: figures(shop).waiting == 2, what="two that wait")
        (found,) = figures(shop).waiting_lines
        views.may_end.set()
        for each in waiting:
            each.result(30)
    assert found.count == 2
    assert found.site.endswith(" in use")
    assert figures(shop).waiting_lines == ()


def test_is_not_that_of_another_who_had_the_connection(shop: Shop) -> None:
    with holding(shop):
        figures(shop)
    with shop.app.app_context(), shop.engines["default"].connect():
        # No round of the housekeeper since.
        (holder,) = pool_in(shop.report()).holders
        assert holder.now is None


def test_is_not_looked_for_where_nothing_is_held_for_long(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_lines, "LOOKED_AT", 1e6)
    looked: list[object] = []
    monkeypatch.setattr(running_lines, "describe_activities", looked.append)
    with holding(shop):
        assert figures(shop).holders[0].now is None
    assert not looked


def test_a_kept_connection_has_none(shop: Shop) -> None:
    with shop.app.app_context():
        connection = shop.engines["default"].connect()
        shop.guard.keep(connection)
        (holder,) = figures(shop).holders
        connection.close()
    assert holder.kept
    assert holder.now is None


@pytest.mark.every_product
def test_a_refused_login_is_an_obstacle_until_one_succeeds(
    make_shop: MakeShop, served_database: Database
) -> None:
    engine = create_engine(served_database.url)
    password = {"password": served_database.url.password}

    @event.listens_for(engine, "do_connect")
    def change(*arguments: Any) -> None:
        arguments[-1].update(password)

    shop = make_shop(default=engine)
    shop.use()
    engine.dispose()
    right = password["password"]
    password["password"] = "geheim"
    for _ in range(2):
        with pytest.raises(OperationalError) as caught:
            shop.use()
    (note,) = caught.value.__notes__
    assert "the server refuses the login of bind 'default'" in note
    assert "geheim" not in note
    found = figures(shop)
    assert (found.obstacle, found.unavailable) == ("login", 2)
    assert found.obstacle_seconds is not None
    password["password"] = right
    shop.use()
    assert figures(shop).obstacle is None
