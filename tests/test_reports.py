"""Reports made within a process: figures, servers, findings."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app
from sqlalchemy import URL, Engine, NullPool, StaticPool, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from flask_poolguard import PoolGuard
from flask_poolguard.reports import Finding, PoolStatus, Report, Server
from tests.conftest import Database
from tests.support.database_server import APP_PASSWORD
from tests.support.proxy import SilentServer, TCPProxy
from tests.support.servers import MariaDBServer
from tests.support.waiting import free_port, wait_until


class Shop:
    """A guarded app of this process, with engines of its own."""

    def __init__(self, config: dict[str, Any], **engines: Engine) -> None:
        self.app = Flask("shop")
        self.app.config.update(config)
        self.engines = engines
        self.guard = PoolGuard(self.app)
        for name, engine in engines.items():
            self.guard.register(engine, name=name)

    def report(self) -> Report:
        """Return the report; what it shows must be JSON and tell no secret."""
        with self.app.app_context():
            report = self.guard.report()
        assert APP_PASSWORD not in json.dumps(report.to_dict(), allow_nan=False)
        return report

    def use(self, bind: str = "default") -> None:
        """Take a connection and give it back."""
        with self.app.app_context(), self.engines[bind].connect() as connection:
            connection.execute(text("SELECT 1"))


MakeShop = Callable[..., Shop]


@pytest.fixture
def make_shop() -> Iterator[MakeShop]:
    """Return a function that makes guarded apps, and clear up after them."""
    shops: list[Shop] = []

    def make(config: dict[str, Any] | None = None, **engines: Engine) -> Shop:
        shops.append(Shop(config or {}, **engines))
        return shops[-1]

    yield make
    for shop in shops:
        for engine in shop.engines.values():
            engine.dispose()
        shop.app.extensions["poolguard"].books.remove_file()


def pool_in(report: Report, bind: str = "default") -> PoolStatus:
    """Return the figures of a bind's pool in the one worker that there is."""
    (worker,) = report.workers
    assert worker.pid == os.getpid()
    (pool,) = [pool for pool in worker.pools if pool.bind == bind]
    return pool


def server_in(report: Report, bind: str = "default") -> Server:
    """Return what a bind's server said."""
    (server,) = [server for server in report.servers if server.bind == bind]
    return server


def found(report: Report, code: str) -> list[Finding]:
    """Return the findings with this code."""
    return [finding for finding in report.findings if finding.code == code]


@contextmanager
def session(url: URL) -> Iterator[None]:
    """Hold a session on a server that no guard knows of."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect():
        yield


class TestOwnProcess:
    def test_is_a_worker_like_any_other(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        with shop.app.test_request_context("/nowhere"):
            connection = shop.engines["default"].connect()
            report = shop.report()
            connection.close()
        pool = pool_in(report)
        (holder,) = pool.holders
        assert (pool.checked_out, pool.idle, pool.checkouts) == (1, 0, 1)
        assert holder.endpoint == "/nowhere"
        assert holder.server_id is not None
        assert server_in(report).ours == 1

    def test_says_what_a_pool_that_keeps_its_class_does_not_tell(
        self, make_shop: MakeShop
    ) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        shop = make_shop(default=engine)
        shop.use()
        pool = pool_in(shop.report())
        unknown = (
            pool.size,
            pool.checked_out,
            pool.idle,
            pool.overflow,
            pool.checkouts,
            pool.peak_checked_out,
            pool.closed.recycled,
        )
        assert unknown == (None,) * 7
        assert pool.connects == 1

    def test_counts_the_connections_of_a_null_pool(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url, poolclass=NullPool))
        shop.use()
        shop.use()
        pool = pool_in(shop.report())
        assert (pool.size, pool.overflow) == (None, None)
        assert (pool.connects, pool.checkouts, pool.checked_out) == (2, 2, 0)
        assert (pool.waiting, pool.timeouts) == (0, 0)

    def test_shows_a_pool_without_limits_as_such(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        engine = create_engine(mariadb_url, max_overflow=-1)
        shop = make_shop(default=engine)
        shop.use()
        report = shop.report()
        assert pool_in(report).is_unlimited
        (finding,) = found(report, "budget")
        assert "any number of connections" in finding.message


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
            shop.app.extensions["poolguard"].engines[0].ledger.figure("connects") == 0
        )

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
            "default": 0,
            "a": 1,
            "b": 0,
        }

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

    def test_that_know_none_of_the_numbers_leave_ours_unknown(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        shop.use()
        server = served_database.running_server
        for number in server.session_ids(database=served_database.url.database):
            server.kill_session(number)
        assert server_in(shop.report()).ours is None

    def test_of_async_drivers_are_unknown(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg_async")
        engine = create_async_engine(url)
        report = make_shop(default=engine.sync_engine).report()
        assert server_in(report) == Server("default", *[None] * 6)
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


def _identified(product: str) -> str:
    return " IDENTIFIED BY 'x'" if product == "MariaDB" else " PASSWORD 'x'"


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
        _wait_for_questions()

    def test_are_not_asked_again_while_a_question_is_open(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        with SilentServer() as silent:
            engine = create_engine(mariadb_url.set(port=silent.port))
            shop = make_shop(default=engine)
            for _ in range(3):
                assert server_in(shop.report()).reachable is False
            assert silent.connections == 1
        _wait_for_questions()

    def test_are_asked_again_once_they_are_back(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        with TCPProxy(str(mariadb_url.host), int(mariadb_url.port or 0)) as proxy:
            shop = make_shop(default=create_engine(mariadb_url.set(port=proxy.port)))
            proxy.drop()
            assert server_in(shop.report()).reachable is False
            proxy.resume()
            _wait_for_questions()
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


def _wait_for_questions() -> None:
    """Wait until no thread asks a server any more."""
    wait_until(
        lambda: all(each.name != "poolguard-report" for each in threading.enumerate()),
        what="the end of all questions",
    )


class TestBudget:
    def test_is_a_finding_when_the_server_allows_less(
        self, make_shop: MakeShop
    ) -> None:
        with MariaDBServer(max_connections=20) as server:
            url = server.url(database=server.create_database())
            config = {"POOLGUARD_MAX_OVERFLOW": 6}
            shop = make_shop(
                config, default=create_engine(url), reports=create_engine(url)
            )
            shop.use("default")
            shop.use("reports")
            report = shop.report()
        (finding,) = found(report, "budget")
        assert finding.level == "warning"
        assert finding.message == (
            f"1 worker may open 22 connections to 127.0.0.1:{url.port}: 1 × 11"
            " (default) + 1 × 11 (reports); the server allows 20"
        )
        assert "POOLGUARD_POOL_SIZE or POOLGUARD_MAX_OVERFLOW" in finding.fix
        assert "20 at most" in finding.fix

    def test_is_none_when_the_server_allows_as_many(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        shop.use()
        assert not found(shop.report(), "budget")


class TestRecycle:
    @pytest.mark.parametrize("with_a_worker", [True, False])
    def test_above_the_servers_limit_is_a_finding(
        self, make_shop: MakeShop, with_a_worker: bool
    ) -> None:
        with MariaDBServer(wait_timeout=600) as server:
            url = server.url(database=server.create_database())
            shop = make_shop(default=create_engine(url, pool_recycle=3600))
            if with_a_worker:
                shop.use()
            report = shop.report()
        assert len(report.workers) == with_a_worker
        (finding,) = found(report, "recycle")
        assert finding.message == (
            "create_engine(pool_recycle=…) of 'default' = 3600 s of bind 'default' is"
            " not below the server's idle limit of 600 s, so it cannot protect idle"
            " connections"
        )
        assert "derives 500 s" in finding.fix
        assert "below 600" in finding.fix

    def test_goes_by_the_sessions_own_limit(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        engine = create_engine(
            mariadb_url,
            pool_recycle=100,
            connect_args={"init_command": "SET SESSION wait_timeout = 60"},
        )
        shop = make_shop(default=engine)
        shop.use()
        (finding,) = found(shop.report(), "recycle")
        assert "limit of 60 s" in finding.message

    def test_below_it_or_derived_is_none(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(
            default=create_engine(mariadb_url),
            other=create_engine(mariadb_url, pool_recycle=60),
        )
        shop.use("default")
        shop.use("other")
        report = shop.report()
        assert not found(report, "recycle")
        pool = pool_in(report)
        assert pool.recycle_seconds == 24000
        assert pool.recycle_source == "wait_timeout 28800 s × 5/6"


class TestLeaks:
    def test_are_one_finding_per_endpoint_and_line(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        kept = []

        def leak() -> str:
            kept.append(shop.engines["default"].connect())
            return "leaked"

        shop.app.add_url_rule("/one", "one", leak)
        shop.app.add_url_rule("/two", "two", leak)
        client = shop.app.test_client()
        for path in ("/one", "/two", "/two"):
            client.get(path)
        two, one = found(shop.report(), "leak")
        assert two.message.startswith("two did not give back 2 connections taken at ")
        assert one.message.startswith("one did not give back 1 connection taken at ")

    def test_beyond_those_that_are_told_apart_are_counted(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        kept = []

        def leak(name: str) -> str:
            kept.append(shop.engines["default"].connect())
            return name

        client_of = shop.app.test_client
        for number in range(18):
            shop.app.add_url_rule(
                f"/{number}", f"view{number}", leak, defaults={"name": "x"}
            )
        for number in range(18):
            client_of().get(f"/{number}")
        *told, rest = found(shop.report(), "leak")
        assert len(told) == 16
        assert rest.message.startswith("2 connections more not given back")


class TestTheReport:
    def test_is_frozen(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        report = make_shop(default=create_engine(sqlite_url)).report()
        with pytest.raises(dataclasses.FrozenInstanceError):
            report.app = "till"  # type: ignore[misc] # what is tested

    def test_puts_the_worst_finding_first(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        engine = create_engine(mariadb_url.set(port=free_port()))
        levels = [each.level for each in make_shop(default=engine).report().findings]
        assert levels == ["critical", "info"]

    def test_of_an_app_without_any_bind_says_so_by_being_empty(
        self, make_shop: MakeShop
    ) -> None:
        report = make_shop().report()
        assert (report.workers, report.servers, report.binds) == ((), (), ())

    def test_names_folders_that_cannot_be_used(
        self, make_shop: MakeShop, sqlite_url: URL, tmp_path: Path
    ) -> None:
        folder = tmp_path / "open-to-all"
        folder.mkdir()
        folder.chmod(0o777)
        shop = make_shop(
            {"POOLGUARD_STATE_DIR": str(folder)}, default=create_engine(sqlite_url)
        )
        (finding,) = found(shop.report(), "state-folder")
        assert str(folder) in finding.message
        assert "0700" in finding.fix

    def test_names_a_live_workers_file_that_cannot_be_read(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        path = shop.app.extensions["poolguard"].books.path
        os.truncate(path, 4000)
        report = shop.report()
        (finding,) = found(report, "state-file")
        assert str(path) in finding.message
        assert str(os.getpid()) in finding.message
        # It is there, but nothing is claimed about its pools.
        (worker,) = report.workers
        assert worker.pools == ()

    def test_names_a_worker_of_another_version(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        with open(shop.app.extensions["poolguard"].books.path, "r+b") as file:
            file.seek(7)
            file.write(b"\x02")
        (finding,) = found(shop.report(), "layout")
        assert f"Worker {os.getpid()}" in finding.message
        assert "Restart" in finding.fix
