"""What a report finds between the app and its server: networks, poolers, releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import URL, create_engine, make_url

from flask_poolguard.databases import ServerView, for_dialect
from flask_poolguard.report.rules import faulty_versions
from flask_poolguard.report.rules.network import remote_hosts
from tests.conftest import database_by, started
from tests.support import not_tested
from tests.support.drivers import REQUIRED_DRIVERS, driver_connection
from tests.support.pgbouncer import PgBouncer
from tests.support.private_server import MissingServerError
from tests.support.proxy import RenumberingProxy, TCPProxy
from tests.support.reporting import MakeShop, found, server_in, the_one
from tests.support.servers import DatabaseServer, MariaDBServer, PostgreSQLServer


@pytest.fixture(params=REQUIRED_DRIVERS)
def url(request: pytest.FixtureRequest) -> URL:
    """Return the URL of a fresh database, by each driver."""
    return database_by(request.param, request).url


@pytest.fixture(scope="module")
def tls_postgresql() -> Iterator[DatabaseServer]:
    """Run a PostgreSQL server that offers TLS."""
    yield from started(lambda: PostgreSQLServer(tls=True))


class TestTLS:
    @pytest.mark.parametrize("driver", ["postgresql+psycopg2", "postgresql+psycopg"])
    def test_is_missed_by_the_hosts_name(
        self, make_shop: MakeShop, postgresql_url: URL, driver: str
    ) -> None:
        # libpq connects to the address and goes by the name otherwise.
        url = postgresql_url.set(drivername=driver, host="db.shop.example")
        url = url.update_query_dict({"hostaddr": "127.0.0.1"})
        finding = the_one(make_shop(default=create_engine(url)).report(), "tls")
        assert finding.message == (
            "Bind 'default' talks to db.shop.example without TLS"
        )
        assert "sslmode=verify-full" in finding.fix

    @pytest.mark.parametrize("driver", ["postgresql+psycopg2", "postgresql+psycopg"])
    def test_is_seen_on_postgresql(
        self, make_shop: MakeShop, tls_postgresql: DatabaseServer, driver: str
    ) -> None:
        url = tls_postgresql.url(
            database=tls_postgresql.create_database(),
            drivername=driver,
            hostaddr="127.0.0.1",
            sslmode="require",
        ).set(host="db.shop.example")
        report = make_shop(default=create_engine(url)).report()
        assert server_in(report).reachable
        assert not found(report, "tls")
        plain = url.update_query_dict({"sslmode": "disable"})
        assert found(make_shop(default=create_engine(plain)).report(), "tls")

    def test_is_seen_on_mariadb(
        self, make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect = pymysql.connect

        def connect_here(**arguments: Any) -> Any:
            return connect(**{**arguments, "host": "127.0.0.1"})

        monkeypatch.setattr(pymysql, "connect", connect_here)
        with MariaDBServer(tls=True) as server:
            plain = server.url(database=server.create_database())
            plain = plain.set(host="db.shop.example")
            url = plain.update_query_dict(server.tls_query())
            report = make_shop(default=create_engine(url)).report()
            assert server_in(report).reachable
            assert not found(report, "tls")
            # PyMySQL 1.2 takes TLS by itself where the server offers it.
            engine = create_engine(plain, connect_args={"ssl_disabled": True})
            finding = the_one(make_shop(default=engine).report(), "tls")
        assert "ssl_ca=" in finding.fix

    def test_is_not_missed_on_this_machine(self, make_shop: MakeShop, url: URL) -> None:
        assert not found(make_shop(default=create_engine(url)).report(), "tls")

    @pytest.mark.parametrize(
        ("text", "hosts"),
        [
            ("postgresql://localhost/x", []),
            ("postgresql://127.8.0.1/x", []),
            ("postgresql://[::1]/x", []),
            ("postgresql://10.0.0.5/x", ["10.0.0.5"]),
            ("postgresql:///x?host=/run/postgresql", []),
            ("postgresql:///x", []),
            ("postgresql:///x?host=a:5432&host=localhost:1", ["a"]),
            ("postgresql:///x?host=a.example,b.example", ["a.example", "b.example"]),
            ("postgresql:///x?host=::1", []),
            ("postgresql:///x?host=::1,2001:db8::5", ["2001:db8::5"]),
            ("postgresql://localhost/x?hostaddr=10.0.0.9", ["10.0.0.9"]),
            ("postgresql:///x?host=/run/postgresql&hostaddr=::1", []),
            ("postgresql://db/x?hostaddr=10.0.0.9", ["db"]),
            ("mysql+pymysql://db/x?unix_socket=/run/mysqld.sock", []),
            ("mysql+pymysql://db/x", ["db"]),
            ("mysql+pymysql://DB.LOCALHOST/x", []),
        ],
    )
    def test_is_asked_of_hosts_elsewhere_only(
        self, text: str, hosts: list[str]
    ) -> None:
        assert remote_hosts(make_url(text)) == hosts


class TestProxy:
    def test_is_known_by_a_number_that_is_not_the_servers(
        self, make_shop: MakeShop, url: URL
    ) -> None:
        with RenumberingProxy.before(url) as proxy:
            engine = create_engine(url.set(port=proxy.port))
            shop = make_shop(default=engine)
            finding = the_one(shop.report(), "proxy")
            engine.dispose()
        assert finding.level == "info"
        assert "POOLGUARD_IDLE_LIMIT" in finding.fix
        is_psycopg = url.drivername == "postgresql+psycopg"
        assert ("prepare_threshold" in finding.fix) == is_psycopg

    def test_is_none_where_bytes_are_passed_on_as_they_are(
        self, make_shop: MakeShop, url: URL
    ) -> None:
        with TCPProxy.before(url) as proxy:
            engine = create_engine(url.set(port=proxy.port))
            report = make_shop(default=engine).report()
            engine.dispose()
        assert server_in(report).reachable
        assert not found(report, "proxy")

    def test_of_many_connections_exceeds_no_budget(
        self, make_shop: MakeShop, url: URL
    ) -> None:
        with RenumberingProxy.before(url) as proxy:
            engine = create_engine(url.set(port=proxy.port))
            shop = make_shop({"POOLGUARD_MAX_OVERFLOW": 1000}, default=engine)
            shop.use()
            assert not found(shop.report(), "budget")
            engine.dispose()

    def test_on_the_way_leaves_tls_unknown_on_mariadb(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        with RenumberingProxy.before(mariadb_url) as proxy:
            url = mariadb_url.set(port=proxy.port)
            with driver_connection(url) as connection:
                assert for_dialect("mysql").view(connection).is_encrypted is None
        with driver_connection(mariadb_url) as connection:
            assert for_dialect("mysql").view(connection).is_encrypted is False

    @pytest.mark.process
    @pytest.mark.parametrize("driver", ["postgresql+psycopg2", "postgresql+psycopg"])
    @pytest.mark.parametrize("mode", ["session", "transaction"])
    def test_is_found_in_pgbouncer(
        self, make_shop: MakeShop, postgresql_url: URL, driver: str, mode: str
    ) -> None:
        try:
            pooler = PgBouncer(postgresql_url, pool_mode=mode)
        except MissingServerError as error:
            not_tested.stop_test(str(error))
        with pooler:
            url = pooler.url.set(drivername=driver)
            shop = make_shop(default=create_engine(url))
            shop.use()
            report = shop.report()
            finding = the_one(report, "proxy")
            shop.engines["default"].dispose()
        assert "PgBouncer" in finding.message
        assert server_in(report).connections is not None
        assert server_in(report).ours is None

    @pytest.mark.parametrize(
        ("handshake", "server", "is_proxied"),
        [(7, 7, False), (7, 8, True), (5, 2**32 + 5, False), (None, 7, False)],
    )
    def test_is_told_by_the_32_bits_that_a_handshake_has(
        self, handshake: int | None, server: int, is_proxied: bool
    ) -> None:
        limit: Any = None
        view = ServerView("x", limit, handshake_id=handshake, session_id=server)
        assert view.is_proxied is is_proxied


class TestReleases:
    @pytest.mark.parametrize(
        ("module", "driver", "faulty", "sound"),
        [
            (pymysql, "mysql+pymysql", "1.1.0", "1.1.1"),
            (psycopg, "postgresql+psycopg", "3.1.11", "3.1.12"),
        ],
    )
    def test_of_drivers_with_a_known_fault_are_named(
        self,
        make_shop: MakeShop,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
        module: Any,
        driver: str,
        faulty: str,
        sound: str,
    ) -> None:
        url = database_by(driver, request).url
        shop = make_shop(a=create_engine(url), b=create_engine(url))
        monkeypatch.setattr(module, "__version__", faulty)
        finding = the_one(shop.report(), "driver")
        assert f" {faulty} has a known fault" in finding.message
        assert f">={sound}'" in finding.fix
        monkeypatch.setattr(module, "__version__", sound)
        assert not found(shop.report(), "driver")

    @pytest.mark.parametrize(
        ("product", "version", "is_faulty"),
        [
            ("PostgreSQL", (14, 3), True),
            ("PostgreSQL", (14, 4), False),
            ("PostgreSQL", (13, 9), False),
            ("MySQL", (8, 0, 29), True),
            ("MySQL", (8, 0, 30), False),
            ("MySQL", (8, 0, 38), True),
            ("MySQL", (8, 0, 39), False),
            ("MySQL", (8, 4, 1), True),
            ("MySQL", (9, 0, 1), False),
            ("MariaDB", (10, 11, 6), False),
        ],
    )
    def test_of_servers_with_a_known_fault_are_known(
        self, product: str, version: tuple[int, ...], is_faulty: bool
    ) -> None:
        faults = [
            each
            for each in faulty_versions._SERVER_FAULTS
            if each.has(product, version)
        ]
        assert len(faults) == is_faulty

    def test_of_servers_are_asked_for(
        self,
        make_shop: MakeShop,
        postgresql_url: URL,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        assert not found(shop.report(), "server-version")
        with driver_connection(postgresql_url) as connection:
            version = for_dialect("postgresql").view(connection).version
        assert version is not None
        fault = faulty_versions._Fault(
            "PostgreSQL", version, (version[0] + 1, 0), "critical", "It is faulty."
        )
        monkeypatch.setattr(faulty_versions, "_SERVER_FAULTS", (fault,))
        finding = the_one(shop.report(), "server-version")
        assert finding.message.startswith(f"127.0.0.1:{postgresql_url.port} runs")

    def test_are_read_from_what_drivers_say(self) -> None:
        assert faulty_versions.numbers("2.9.13 (dt dec pq3 ext lo64)") == (2, 9, 13)
        assert faulty_versions.numbers("unknown") == ()
