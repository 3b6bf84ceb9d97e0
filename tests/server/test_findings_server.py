"""What a report finds in what servers say of their sessions and limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pymysql
import pytest
from pymysql.constants import CLIENT
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import DBAPIError

from flask_poolguard.databases import Loss, for_dialect
from flask_poolguard.report import collect
from flask_poolguard.report.rules import idle_sessions
from tests.conftest import Database
from tests.support.drivers import DRIVERS, MYSQL_DRIVERS, driver_connection
from tests.support.reporting import (
    MakeShop,
    found,
    pool_in,
    server_in,
    sessions,
    the_one,
)
from tests.support.servers import DatabaseServer, MariaDBServer
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.every_product


class TestInteractiveTimeout:
    @pytest.fixture
    def limited(self, own_server: None, mariadb: DatabaseServer) -> Iterator[None]:
        """Give the server's interactive sessions a limit of their own."""
        mariadb.execute("SET GLOBAL interactive_timeout = 60")
        yield
        mariadb.execute("SET GLOBAL interactive_timeout = 28800")

    @pytest.mark.usefixtures("limited")
    @pytest.mark.parametrize("driver", MYSQL_DRIVERS)
    def test_is_found_where_the_client_calls_itself_interactive(
        self, make_shop: MakeShop, mariadb_url: URL, driver: str
    ) -> None:
        mariadb_url = mariadb_url.set(drivername=driver)
        flags = {"client_flag": CLIENT.INTERACTIVE}
        shop = make_shop(
            default=create_engine(mariadb_url, connect_args=flags),
            plain=create_engine(mariadb_url),
        )
        report = shop.report()
        finding = the_one(report, "interactive-timeout")
        assert finding.message.startswith("Sessions of bind 'default' may idle for 60")
        assert "wait_timeout of 28800 s" in finding.message
        assert server_in(report).idle_timeout_seconds == 60
        assert server_in(report, "plain").idle_timeout_seconds == 28800

    @pytest.mark.usefixtures("limited")
    @pytest.mark.parametrize("driver", MYSQL_DRIVERS)
    def test_is_not_taken_for_that_of_an_init_command(
        self, make_shop: MakeShop, mariadb_url: URL, driver: str
    ) -> None:
        arguments = {"init_command": "SET SESSION wait_timeout = 60"}
        engine = create_engine(
            mariadb_url.set(drivername=driver), connect_args=arguments
        )
        report = make_shop(default=engine).report()
        assert server_in(report).idle_timeout_seconds == 60
        assert not found(report, "interactive-timeout")

    def test_is_not_spoken_of_where_both_are_the_same(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        flags = {"client_flag": CLIENT.INTERACTIVE}
        shop = make_shop(default=create_engine(mariadb_url, connect_args=flags))
        assert not found(shop.report(), "interactive-timeout")


class TestRecycle:
    def test_is_judged_by_the_known_limit_too(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_IDLE_LIMIT": 300},
            default=create_engine(mariadb_url, pool_recycle=600),
        )
        for _ in range(2):  # without a worker, then with one
            finding = the_one(shop.report(), "recycle")
            assert "not below POOLGUARD_IDLE_LIMIT of 300 s" in finding.message
            assert "derives 250 s" in finding.fix
            shop.use()

    def test_is_judged_by_the_learned_limit_too(
        self, make_shop: MakeShop, mariadb_url: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr("flask_poolguard.pool.idle_deaths._clock", lambda: now[0])
        shop = make_shop(default=create_engine(mariadb_url, pool_recycle=600))
        shop.use()
        pool: Any = shop.engines["default"].pool
        for idle in (301.0, 305.0, 302.0):
            assert not found(shop.report(), "recycle")
            pool.limits.died(idle, Loss.UNKNOWN)
            pool.limits.explain(lambda: None)
            now[0] += 100
            pool.tend()
        finding = the_one(shop.report(), "recycle")
        assert "not below the learned idle limit of 301 s" in finding.message


class TestSleeping:
    @pytest.fixture
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count a second of sleep as long."""
        monkeypatch.setattr(idle_sessions, "_LONG_SECONDS", 1.0)

    @pytest.mark.usefixtures("soon")
    def test_sessions_are_named_with_user_number_and_longest(
        self, make_shop: MakeShop
    ) -> None:
        with MariaDBServer(max_connections=20) as server:
            url = server.url(database=server.create_database())
            shop = make_shop(default=create_engine(url))
            with sessions(url, 9):
                shop.use()
                wait_until(
                    lambda: found(shop.report(), "sleeping"), what="ten that sleep"
                )
                finding = the_one(shop.report(), "sleeping")
            shop.engines["default"].dispose()
        assert finding.message.startswith("10 of the 20 connections that 127.0.0.1:")
        assert "app 10 (longest " in finding.message
        assert "1 in this app's pools here" in finding.message
        assert finding.level == "warning"
        assert "POOLGUARD_MAX_IDLE" in finding.fix
        assert "wait_timeout" in finding.fix

    @pytest.mark.usefixtures("soon")
    def test_sessions_that_are_few_are_in_nobodys_way(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        with sessions(served_database.url, 3):
            threading.Event().wait(1.1)
            assert not found(shop.report(), "sleeping")

    def test_sessions_that_do_so_for_a_moment_do_not_count(
        self, make_shop: MakeShop
    ) -> None:
        with MariaDBServer(max_connections=20) as server:
            url = server.url(database=server.create_database())
            shop = make_shop(default=create_engine(url))
            with sessions(url, 14):
                assert not found(shop.report(), "sleeping")


Between = Callable[[Callable[[], None]], None]


@pytest.fixture
def between_looks(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Return a function that lets something happen between the two looks."""

    def let_happen(act: Callable[[], None]) -> None:
        clock = SimpleNamespace(sleep=lambda seconds: act())
        monkeypatch.setattr(collect, "time", clock)

    return let_happen


class TestAbortedClients:
    def test_that_appear_between_two_looks_are_one_line(
        self,
        make_shop: MakeShop,
        served_database: Database,
        between_looks: Between,
    ) -> None:
        url, server = served_database.url, served_database.running_server
        shop = make_shop(default=create_engine(url), reports=create_engine(url))
        engine = create_engine(url)
        victims = [engine.connect() for _ in range(2)]

        def kill() -> None:
            for number in numbers:
                server.kill_session(number)

        numbers = server.session_ids(database=url.database)
        assert len(numbers) == 2
        between_looks(kill)
        report = shop.diagnose(seconds=3.0)
        for victim in victims:
            victim.invalidate()
        engine.dispose()
        finding = the_one(report, "aborted-clients")
        assert finding.level == "info"
        counter = "Aborted_clients"
        if server.product == "PostgreSQL":
            counter = "sessions_killed"
        assert finding.message == (
            f"2 sessions of 127.0.0.1:{url.port} ended without a logout within 3 s"
            f" ({counter})"
        )

    def test_of_long_ago_are_none(self, make_shop: MakeShop) -> None:
        with MariaDBServer() as server:
            url = server.url(database=server.create_database())
            shop = make_shop(default=create_engine(url))
            engine = create_engine(url)
            victims = [engine.connect() for _ in range(10)]
            for number in server.session_ids():
                server.kill_session(number)
            for victim in victims:
                victim.invalidate()
            engine.dispose()
            # The first look sees them: both report what has come since.
            for seconds in (0.0, 0.1):
                assert not found(shop.diagnose(seconds=seconds), "aborted-clients")


class TestConnectionErrors:
    def test_are_critical_while_they_rise(
        self, make_shop: MakeShop, between_looks: Between
    ) -> None:
        # Fewer than 10 are not to be had.
        with MariaDBServer(max_connections=10) as server:
            url = server.url(database=server.create_database())
            shop = make_shop(default=create_engine(url))
            assert not found(shop.diagnose(seconds=0.1), "connection-errors")

            # The server lets one more in, to see whether it is an administrator.
            root = server.url(
                user="root", password=None, unix_socket=str(server.socket_path)
            )

            def refuse() -> None:
                with pytest.raises(DBAPIError, match="1040"):
                    create_engine(url).connect()

            def fill() -> None:
                with sessions(url, 10):
                    refuse()
                    with sessions(root):
                        refuse()
                wait_until(lambda: not server.session_ids(), what="their end")

            between_looks(fill)
            rising = the_one(shop.diagnose(seconds=3.0), "connection-errors")
            between_looks(lambda: None)
            later = the_one(shop.diagnose(seconds=3.0), "connection-errors")
        assert rising.level == "critical"
        assert "refused 1 connects within 3 s" in rising.message
        assert "max_connections (now 10)" in rising.fix
        assert later.level == "info"
        assert "was full at times and refused 1 of" in later.message

    def test_that_are_not_counted_show_in_the_most_that_were_open(
        self, make_shop: MakeShop
    ) -> None:
        with MariaDBServer(max_connections=10) as server:
            url = server.url(database=server.create_database())
            shop = make_shop(default=create_engine(url))
            with sessions(url, 10), pytest.raises(DBAPIError, match="1040"):
                create_engine(url).connect()
            finding = the_one(shop.report(), "connection-errors")
        assert finding.level == "info"
        assert "Max_used_connections is 11, max_connections 10" in finding.message

    def test_are_not_derived_from_what_was_open_before_the_limit_was_lowered(
        self, make_shop: MakeShop
    ) -> None:
        with MariaDBServer(max_connections=30) as server:
            url = server.url(database=server.create_database())
            with sessions(url, 20):
                pass
            for maximum in (10, 20):
                server.execute(f"SET GLOBAL max_connections = {maximum}")
                shop = make_shop(default=create_engine(url))
                assert not found(shop.report(), "connection-errors")

    def test_are_not_derived_from_what_is_open_at_a_second_port(
        self, make_shop: MakeShop
    ) -> None:
        port = free_port()
        with MariaDBServer(
            max_connections=10, extra_port=port, extra_max_connections=20
        ) as server:
            url = server.url(database=server.create_database())
            with sessions(url.set(port=port), 11):
                shop = make_shop(default=create_engine(url))
                assert not found(shop.report(), "connection-errors")
                shop.engines["default"].dispose()


SHORT_PAUSE = {"options": "-c idle_in_transaction_session_timeout=2000"}


class TestIdleInTransactionTimeout:
    def test_that_is_missing_is_told_while_a_session_would_need_it(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop = make_shop(
            {"POOLGUARD_HELD_WARNING": 1}, default=create_engine(postgresql_url)
        )
        with shop.app.app_context(), shop.engines["default"].connect() as connection:
            connection.execute(text("SELECT 1"))
            assert not found(shop.report(), "idle-in-transaction-timeout")
            wait_until(
                lambda: found(shop.report(), "idle-in-transaction-timeout"),
                what="a second in the transaction",
            )
            finding = the_one(shop.report(), "idle-in-transaction-timeout")
        assert finding.level == "info"
        assert 'ALTER ROLE "app" SET' in finding.fix
        assert not found(shop.report(), "idle-in-transaction-timeout")

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("postgresql", SHORT_PAUSE),
            ("mariadb", {"init_command": "SET idle_transaction_timeout = 2"}),
        ],
    )
    def test_that_is_shorter_than_connections_are_held_is_a_warning(
        self,
        make_shop: MakeShop,
        request: pytest.FixtureRequest,
        name: str,
        options: dict[str, str],
    ) -> None:
        url: URL = request.getfixturevalue(f"{name}_url")
        shop = make_shop(default=create_engine(url, connect_args=options))
        with shop.app.app_context(), shop.engines["default"].connect() as connection:

            def is_held_for_long() -> bool:
                connection.execute(text("SELECT 1"))  # else the server ends it
                return (pool_in(shop.report()).longest_held_seconds or 0) > 2

            assert not is_held_for_long()
            assert not found(shop.report(), "idle-in-transaction-timeout")
            wait_until(is_held_for_long, what="two seconds of holding")
            finding = the_one(shop.report(), "idle-in-transaction-timeout")
        assert finding.level == "warning"
        assert "timeout 2 s)" in finding.message

    @pytest.mark.parametrize(
        ("name", "options", "sql"),
        [
            ("postgresql", SHORT_PAUSE, "SELECT pg_sleep(60)"),
            ("postgresql", SHORT_PAUSE, None),
            (
                "mariadb",
                {"init_command": "SET idle_transaction_timeout = 2"},
                "SELECT SLEEP(60)",
            ),
        ],
        ids=["works on PostgreSQL", "has no transaction", "works on MariaDB"],
    )
    def test_strikes_no_session_that_does_not_pause_within_a_transaction(
        self,
        make_shop: MakeShop,
        request: pytest.FixtureRequest,
        name: str,
        options: dict[str, str],
        sql: str | None,
    ) -> None:
        url: URL = request.getfixturevalue(f"{name}_url")
        server: DatabaseServer = request.getfixturevalue(name)
        shop = make_shop(default=create_engine(url, connect_args=options))
        done = threading.Event()

        def hold() -> None:
            with (
                suppress(DBAPIError),  # it is killed in the end
                shop.app.app_context(),
                shop.engines["default"].connect() as connection,
            ):
                if sql is not None:
                    connection.execute(text(sql))
                done.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            wait_until(
                lambda: (
                    shop.report().workers
                    and (pool_in(shop.report()).longest_held_seconds or 0) > 2
                ),
                what="two seconds of holding",
            )
            assert not found(shop.report(), "idle-in-transaction-timeout")
        finally:
            done.set()
            for number in server.session_ids(database=url.database):
                with suppress(DBAPIError, pymysql.Error, psycopg.Error):
                    server.kill_session(number)
            holder.join(60)


class TestServerView:
    """What a refused question costs."""

    @pytest.mark.parametrize("driver", [each for each in DRIVERS if "postgres" in each])
    @pytest.mark.parametrize("in_transaction", [False, True])
    def test_of_one_refused_question_has_all_others(
        self,
        postgresql: DatabaseServer,
        postgresql_url: URL,
        driver: str,
        in_transaction: bool,
    ) -> None:
        name = postgresql_url.database
        postgresql.execute(
            "REVOKE SELECT ON pg_catalog.pg_stat_database FROM PUBLIC", database=name
        )
        url = postgresql_url.set(drivername=driver)
        with driver_connection(url) as connection:
            if in_transaction:
                connection.cursor().execute("SELECT 1")
            view = for_dialect("postgresql").view(connection)
        assert view.counters is None
        assert view.reserved == 3
        assert view.sessions is not None
        assert view.idle_in_transaction_limit is not None
        assert view.is_encrypted is False

    def test_of_old_servers_has_what_they_know(
        self, postgresql13: DatabaseServer
    ) -> None:
        url = postgresql13.url(database=postgresql13.create_database())
        with driver_connection(url) as connection:
            view = for_dialect("postgresql").view(connection)
        assert view.counters is None  # from 14 on
        assert view.reserved == 3
        assert view.version is not None
        assert view.version[0] == 13
