"""What a report says of the database servers."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import current_app
from sqlalchemy import URL, NullPool, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from flask_poolguard.cli.status_view import render as report_text
from flask_poolguard.report import Server
from flask_poolguard.report.text import Page
from tests.conftest import Database
from tests.support import not_tested
from tests.support.database_server import APP_PASSWORD
from tests.support.pgbouncer import PgBouncer
from tests.support.proxy import SilentServer, TCPProxy
from tests.support.reporting import (
    MakeShop,
    found,
    pool_in,
    server_in,
    the_one,
    wait_for_questions,
)
from tests.support.servers import MissingServerError
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.every_product


@contextmanager
def session(url: URL) -> Iterator[None]:
    """Hold a session on a server that no guard knows of."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect():
        yield


def _identified(product: str) -> str:
    return " PASSWORD 'x'" if product == "PostgreSQL" else " IDENTIFIED BY 'x'"


class TestServers:
    def test_tell_product_limits_and_sessions(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        shop.use()
        server = served_database.running_server
        told = server_in(shop.report())
        assert told.product is not None
        assert told.product.startswith(server.product)
        assert told.reachable is True
        assert told.max_connections is not None
        assert told.ours == 1

    def test_are_asked_without_the_pool_and_left_at_once(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        server = served_database.running_server
        database = served_database.url.database
        shop.report()
        wait_until(
            lambda: not server.session_ids(database=database),
            what="the end of the report's own session",
        )
        assert (
            shop.app.extensions["poolguard"]
            .engines[0]
            .tracker.figures.counts["connects"]
            == 0
        )

    @pytest.mark.usefixtures("own_server")
    def test_count_everybody_but_those_who_ask(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        url = served_database.url
        server = served_database.running_server
        server.execute("CREATE USER teller" + _identified(server.product))
        # On MariaDB the database is the app's alone.
        where = url.database if server.product == "PostgreSQL" else None
        teller = server.url(user="teller", password="x", database=where)
        try:
            binds = {name: create_engine(url) for name in ("default", "a", "b")}
            shop = make_shop(**binds)
            shop.use("a")
            with session(url), session(teller):
                wait_until(
                    lambda: len(server.session_ids(user="")) == 3,
                    what="the end of all other sessions",
                )
                report = shop.report()
        finally:
            wait_until(lambda: not server.session_ids(user="teller"), what="its end")
            server.execute("DROP USER teller")
        assert [each.connections for each in report.servers] == [3, 3, 3]
        assert {each.bind: each.ours for each in report.servers} == {
            "default": 1,
            "a": 1,
            "b": 1,
        }

    @pytest.mark.usefixtures("own_server")
    def test_count_ours_by_all_binds_that_lead_there(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        url = served_database.url
        server = served_database.running_server
        server.execute("CREATE USER teller" + _identified(server.product))
        where = url.database if server.product == "PostgreSQL" else None
        teller = server.url(user="teller", password="x", database=where)
        try:
            # On MariaDB neither sees the other's sessions.
            shop = make_shop(default=create_engine(url), till=create_engine(teller))
            shop.use()
            shop.use("till")
            report = shop.report()
            shop.engines["till"].dispose()
        finally:
            wait_until(lambda: not server.session_ids(user="teller"), what="its end")
            server.execute("DROP USER teller")
        assert [each.ours for each in report.servers] == [2, 2]
        text = " ".join(report_text(report, Page(1000, break_words=False)).split())
        assert text.count("2 of them ours") == 1
        assert re.search(rf" till: \S+//teller@\S+ {server.product} ", text)

    def test_are_connected_to_as_the_pool_would(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        engine = create_engine(
            mariadb_url.set(password="wrong"),
            connect_args={"init_command": "SET SESSION wait_timeout = 77"},
        )
        seen: list[str] = []

        def log_in(
            dialect: object, record: Any, args: object, parameters: dict[str, Any]
        ) -> None:
            record.info["seen"] = True
            seen.append(current_app.name)
            parameters["password"] = APP_PASSWORD
            assert "77" in parameters["init_command"]

        event.listen(engine, "do_connect", log_in)
        report = make_shop(default=engine).report()
        assert server_in(report).reachable is True
        assert seen == ["shop"]

    def test_that_have_ended_all_of_the_sessions_have_none_of_ours(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        shop.use()
        server = served_database.running_server
        # Held, or the housekeeper may find it dead and close it before the report.
        with shop.engines["default"].connect() as connection:
            for number in server.session_ids(database=served_database.url.database):
                server.kill_session(number)
            assert server_in(shop.report()).ours == 0
            connection.invalidate()

    def test_of_async_drivers_are_unknown(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg_async")
        engine = create_async_engine(url)
        report = make_shop(default=engine.sync_engine).report()
        assert server_in(report) == Server(
            "default", None, None, None, None, None, None
        )
        assert not found(report, "server-unreachable")

    def test_are_not_made_up_for_sqlite(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        file = Path(str(sqlite_url.database))
        shop = make_shop(default=create_engine(sqlite_url))
        told = server_in(shop.report())
        assert told.reachable is None
        assert not file.exists()
        shop.use()
        told = server_in(shop.report())
        assert told.reachable is True
        assert told.product is not None
        assert told.product.startswith("SQLite 3")
        assert (told.max_connections, told.connections, told.ours) == (None,) * 3


class TestServersThatDoNotAnswer:
    def test_cost_less_than_three_seconds_together(
        self, make_shop: MakeShop, mariadb_url: URL, postgresql_url: URL
    ) -> None:
        with SilentServer() as silent:
            shop = make_shop(
                default=create_engine(mariadb_url),
                dumb=create_engine(mariadb_url.set(port=silent.port)),
                mute=create_engine(postgresql_url.set(port=silent.port)),
            )
            began_at = time.monotonic()
            report = shop.report()
            # What is promised; no measurement of how fast this machine is.
            assert time.monotonic() - began_at < 3
            assert server_in(report).reachable is True
            assert server_in(report, "dumb").reachable is False
            assert server_in(report, "mute").reachable is False
            assert len(found(report, "server-unreachable")) == 2
        wait_for_questions()

    def test_are_not_asked_again_while_a_question_is_open(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        with SilentServer() as silent:
            engine = create_engine(mariadb_url.set(port=silent.port))
            shop = make_shop(default=engine)
            for _ in range(3):
                assert server_in(shop.report()).reachable is False
            assert silent.connections == 1
        wait_for_questions()

    def test_are_asked_again_once_they_are_back(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        with TCPProxy.before(mariadb_url) as proxy:
            shop = make_shop(default=create_engine(mariadb_url.set(port=proxy.port)))
            proxy.drop()
            assert server_in(shop.report()).reachable is False
            proxy.resume()
            wait_for_questions()
            assert server_in(shop.report()).reachable is True

    def test_are_named_with_the_drivers_own_words(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        url = served_database.url.set(port=free_port())
        report = make_shop(default=create_engine(url)).report()
        (finding,) = found(report, "server-unreachable")
        assert finding.level == "critical"
        assert f"app@127.0.0.1:{url.port}" in finding.message
        assert "refused" in finding.message

    def test_are_named_once_with_all_their_binds(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        url = served_database.url.set(port=free_port())
        shop = make_shop(
            default=create_engine(url), reports=create_engine(url.set(database="other"))
        )
        finding = the_one(shop.report(), "server-unreachable")
        assert finding.message.startswith(
            f"The server of binds 'default' and 'reports', {url.drivername}://127.0.0.1"
            f":{url.port}, cannot be reached: "
        )

    def test_are_told_from_those_that_refuse_the_login(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        url = served_database.url.set(password="wrong")
        report = make_shop(default=create_engine(url)).report()
        finding = the_one(report, "server-unreachable")
        assert finding.level == "critical"
        assert " refuses the login of user app: " in finding.message
        assert "password" in finding.fix
        assert "HTTP 500" in str(finding.consequence)
        assert server_in(report).failure == "login"

    def test_are_told_from_those_that_take_a_connect_and_say_nothing(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        with TCPProxy.before(served_database.url) as proxy:
            url = served_database.url.set(port=proxy.port)
            shop = make_shop(default=create_engine(url))
            with shop.app.app_context(), shop.engines["default"].connect() as held:
                proxy.drop()
                report = shop.report()
                proxy.resume()
                held.rollback()
            finding = the_one(report, "server-unreachable")
            wait_for_questions()
        assert "accepts connections, but gives no answer within 2 s" in finding.message
        assert re.search(
            r"test_report_servers\.py:\d+ has held a connection of it for the longest"
            rf" time, \d\.\ds \(worker {os.getpid()}\)$",
            finding.message,
        )
        assert server_in(report).failure == "silent"

    def test_are_not_told_from_a_place_where_nobody_takes_a_connect(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            port = listener.getsockname()[1]
            with ExitStack() as stack:
                for _ in range(8):  # once the queue is full the kernel drops connects
                    end = stack.enter_context(socket.socket())
                    end.setblocking(False)
                    end.connect_ex(("127.0.0.1", port))
                url = mariadb_url.set(port=port)
                report = make_shop(default=create_engine(url)).report()
        assert "cannot be reached: no answer" in (
            the_one(report, "server-unreachable").message
        )
        assert server_in(report).failure == "away"
        wait_for_questions()

    @pytest.mark.process
    def test_may_be_poolers_that_have_no_connection_left(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        try:
            pooler = PgBouncer(postgresql_url, default_pool_size=1)
        except MissingServerError as error:
            not_tested.stop_test(str(error))
        with pooler:
            shop = make_shop(default=create_engine(pooler.url))
            with shop.app.app_context(), shop.engines["default"].connect() as held:
                held.exec_driver_sql("SELECT 1")
                report = shop.report()
            finding = the_one(report, "server-unreachable")
            wait_for_questions()
            shop.engines["default"].dispose()
        assert "accepts connections, but gives no answer" in finding.message
        assert "has held a connection of it for the longest time" in finding.message
        assert "SHOW POOLS" in finding.fix

    def test_never_give_away_a_password(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        engine = create_engine(mariadb_url)

        @event.listens_for(engine, "do_connect")
        def fail(*arguments: object) -> None:
            raise ValueError(f"cannot connect with {APP_PASSWORD}\nand more")

        (finding,) = found(make_shop(default=engine).report(), "server-unreachable")
        assert finding.message.endswith("ValueError: cannot connect with ***")

    def test_secrets_among_a_urls_options_are_left_out(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        options = {"password": APP_PASSWORD, "sslpassword": APP_PASSWORD}
        url = postgresql_url.update_query_dict(options)
        shop = make_shop(default=create_engine(url))
        shop.use()
        report = shop.report()
        assert pool_in(report).url.endswith(f"/{postgresql_url.database}")
