"""What a report says of sessions that are held though their server has ended them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine

from flask_poolguard.cli.holders_view import held_now, render
from flask_poolguard.engines import Guarded
from flask_poolguard.report import Detail, Report, make_report, servers
from flask_poolguard.report.text import Page
from tests.conftest import Database
from tests.support.guarded_app import session_id
from tests.support.reporting import (
    MakeShop,
    Shop,
    found,
    pool_in,
    server_in,
    the_one,
)
from tests.support.waiting import wait_until

# The server's list has the sessions of all its clients.
pytestmark = [pytest.mark.every_product, pytest.mark.usefixtures("own_server")]

LIMITS = {
    "mysql": ({"init_command": "SET SESSION wait_timeout = 1"}, "wait_timeout 1 s"),
    "postgresql": (
        {"options": "-c idle_in_transaction_session_timeout=1s"},
        "idle_in_transaction_session_timeout 1 s",
    ),
}


def limited(url: URL) -> Engine:
    """Return an engine whose sessions may idle for a second."""
    return create_engine(url, connect_args=LIMITS[url.get_backend_name()][0])


def report_of(shop: Shop) -> Report:
    """Return a report that asked for sessions."""
    shop.report()  # so that the app has looked for its engines
    state = shop.app.extensions["poolguard"]
    with shop.app.app_context():
        return make_report(
            shop.app, state.config, state.engines, detail=Detail.SESSIONS
        )


def begin(connection: Connection) -> int:
    """Leave a transaction open; return the server's number of its session."""
    connection.exec_driver_sql("SELECT 1")
    return session_id(connection)


def wait_for_end(database: Database, number: int) -> None:
    """Wait until the server does not know a session any more."""
    server = database.running_server
    wait_until(
        lambda: number not in server.session_ids(database=database.url.database),
        what="the end of the session",
    )


def held_for(shop: Shop, seconds: float) -> bool:
    """Tell whether a connection has been held for longer."""
    return pool_in(shop.report()).holders[0].held_seconds > seconds


class TestSessionGone:
    def test_is_found_with_its_holder_and_the_limit_that_it_met(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=limited(served_database.url))
        with shop.app.app_context(), shop.engines["default"].connect() as held:
            number = begin(held)
            wait_for_end(served_database, number)
            wait_until(lambda: held_for(shop, 1.0), what="a second")
            report = report_of(shop)
            held.invalidate()
        source = LIMITS[served_database.url.get_backend_name()][1]
        finding = the_one(report, "session-gone")
        assert finding.level == "warning"
        assert re.fullmatch(
            "The server has ended a session of bind 'default' that is still held:"
            r" \(outside any request\) at \S*test_report_gone\.py:\d+"
            r"(, now at \S+ in \w+)?, for \d+\.\ds"  # looked at after a second
            rf" \(worker {os.getpid()}\); its limit for idle ones is shorter"
            rf" \({source}\)",
            finding.message,
        )
        assert "raise that limit" in finding.fix
        (held_then,) = held_now(report)
        assert (held_then.server_id, held_then.gone) == (number, True)
        page = Page(1000, break_words=False)
        text = render(report, [held_then], 0, page)
        assert f"session {number} gone: the server has ended it" in text
        assert " session-gone: The server has ended a session" in text
        # Nothing is unknown for that.
        told = server_in(report)
        assert told.ours == 0
        assert not any("knows none" in each for each in told.sessions_hidden)
        assert all(each.owner is None for each in told.sessions or ())

    def test_is_found_of_one_that_somebody_ended(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        engine = shop.engines["default"]
        with shop.app.app_context(), engine.connect() as held:
            with engine.connect(), engine.connect():
                pass  # two more that idle
            number = begin(held)
            served_database.running_server.kill_session(number)
            wait_for_end(served_database, number)
            wait_until(lambda: held_for(shop, 1.0), what="a second")
            report = shop.report()
            held.invalidate()
        finding = the_one(report, "session-gone")
        assert "limit" not in finding.message
        assert "who ended it" in finding.fix
        assert server_in(report).ours == 2

    def test_is_not_said_where_the_workers_may_be_on_another_server(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        with shop.app.app_context(), shop.engines["default"].connect() as held:
            number = begin(held)
            served_database.running_server.kill_session(number)
            wait_for_end(served_database, number)
            wait_until(lambda: held_for(shop, 1.0), what="a second")
            report = shop.report()
            held.invalidate()
        assert not found(report, "session-gone")

    def test_is_not_said_of_what_idles_in_a_pool(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        engine = shop.engines["default"]
        with shop.app.app_context(), engine.connect() as held:
            with engine.connect() as other, engine.connect():
                number = begin(other)
            begin(held)
            wait_until(lambda: held_for(shop, 1.0), what="a second")
            served_database.running_server.kill_session(number)
            wait_for_end(served_database, number)
            assert not found(shop.report(), "session-gone")

    def test_is_not_said_of_one_given_back_before_the_server_was_asked(
        self,
        make_shop: MakeShop,
        served_database: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shop = make_shop(default=limited(served_database.url))
        engine = shop.engines["default"]
        finish = servers.finish

        def give_back_and_ask(_: Any, engines: Sequence[Guarded]) -> Any:
            held.invalidate()
            wait_for_end(served_database, number)
            return finish(servers.begin(engines), engines)

        with shop.app.app_context(), engine.connect() as held:
            number = begin(held)

            def is_old() -> bool:
                begin(held)  # keeps it from its limit
                return held_for(shop, 1.0)

            wait_until(is_old, what="a second")
            monkeypatch.setattr(servers, "finish", give_back_and_ask)
            report = shop.report()
            monkeypatch.undo()
        assert pool_in(report).holders[0].server_id == number
        assert not found(report, "session-gone")
