"""What a report finds wrong with the pools."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, create_engine

from tests.conftest import Database
from tests.support.evidence import answered, changed, found_by_rules
from tests.support.reporting import MakeShop, found, pool_in
from tests.support.servers import MariaDBServer

pytestmark = pytest.mark.every_product


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
            "1 worker may open 22 connections: 1 × 11 (default) + 1 × 11 (reports);"
            f" the server 127.0.0.1:{url.port} allows 20"
        )
        assert "POOLGUARD_POOL_SIZE or POOLGUARD_MAX_OVERFLOW" in finding.fix
        assert "18 at most, which leaves a tenth free" in finding.fix

    @pytest.mark.parametrize(("threads", "level"), [(10, "info"), (11, "warning")])
    def test_is_a_hint_where_the_threads_cannot_use_as_many(
        self, make_shop: MakeShop, threads: int, level: str
    ) -> None:
        with MariaDBServer(max_connections=20) as server:
            url = server.url(database=server.create_database())
            config = {"POOLGUARD_MAX_OVERFLOW": 6}
            shop = make_shop(
                config, default=create_engine(url), reports=create_engine(url)
            )
            shop.use("default")
            shop.use("reports")
            evidence = answered(shop, threads=threads)
        (finding,) = found_by_rules(evidence, "budget")
        assert finding.level == level
        assert finding.message.startswith(
            f"1 worker may open 22 connections (their {threads} threads can use"
            f" {2 * threads} at once, one per thread and bind): 1 × 11 (default)"
        )
        assert ("Nothing has to be done" in finding.fix) == (level == "info")

    def test_goes_by_more_per_thread_where_that_was_seen(
        self, make_shop: MakeShop
    ) -> None:
        with MariaDBServer(max_connections=20) as server:
            url = server.url(database=server.create_database())
            config = {"POOLGUARD_POOL_SIZE": 30}
            shop = make_shop(config, default=create_engine(url))
            shop.use()
            evidence = answered(shop, threads=8)
        nested = changed(evidence, usage={"nesting": 3})
        (finding,) = found_by_rules(nested, "budget")
        assert finding.level == "warning"
        assert (
            "their 8 threads can use 24 at once, by what they have used so far"
        ) in finding.message

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
