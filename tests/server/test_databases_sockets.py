"""The sockets of connections are found, and connects are limited in time."""

from __future__ import annotations

import os
import socket
from typing import Any

import psycopg
import psycopg2
import pytest

from flask_poolguard.databases import for_dialect
from tests.conftest import Database as FreshDatabase
from tests.support.drivers import REQUIRED_DRIVERS, driver_connection
from tests.support.proxy import SilentServer
from tests.support.servers import DatabaseServer, MariaDBServer, PostgreSQLServer

pytestmark = pytest.mark.every_product


def peer_of(number: int) -> Any:
    """Return the address at the other end of a socket."""
    with socket.socket(fileno=os.dup(number)) as duplicate:
        return duplicate.getpeername()


class TestFileno:
    def test_it_is_the_tcp_socket(self, driver_database: FreshDatabase) -> None:
        family = for_dialect(driver_database.url.get_backend_name())
        with driver_connection(driver_database.url) as connection:
            fileno = family.fileno_of(connection)
            assert fileno is not None
            assert peer_of(fileno()) == ("127.0.0.1", driver_database.url.port)

    def test_it_is_the_unix_socket(self, driver_database: FreshDatabase) -> None:
        server, url = driver_database.running_server, driver_database.url
        where = {"unix_socket": str(server.socket_path), "host": "localhost"}
        if url.get_backend_name() == "postgresql":
            where = {"host": str(server.socket_path.parent)}
        with driver_connection(url, **where) as connection:
            fileno = for_dialect(url.get_backend_name()).fileno_of(connection)
            assert fileno is not None
            assert peer_of(fileno()) == str(server.socket_path)

    @pytest.mark.parametrize("drivername", REQUIRED_DRIVERS)
    def test_it_is_the_socket_below_tls(
        self, drivername: str, request: pytest.FixtureRequest
    ) -> None:
        mysql = drivername.startswith("mysql")
        request.getfixturevalue("mariadb" if mysql else "postgresql")
        kind: type[DatabaseServer] = MariaDBServer if mysql else PostgreSQLServer
        with kind(tls=True) as server:
            url = server.url(
                database=server.create_database(),
                drivername=drivername,
                **server.tls_query(),
            )
            with driver_connection(url) as connection:
                fileno = for_dialect(url.get_backend_name()).fileno_of(connection)
                assert fileno is not None
                assert peer_of(fileno()) == ("127.0.0.1", server.port)

    def test_the_driver_closed_it(self, driver_database: FreshDatabase) -> None:
        family = for_dialect(driver_database.url.get_backend_name())
        with driver_connection(driver_database.url) as connection:
            fileno = family.fileno_of(connection)
            assert fileno is not None
            connection.close()
            assert self.is_closed(fileno)

    @pytest.mark.parametrize("driver_database", REQUIRED_DRIVERS, indirect=True)
    def test_the_driver_found_it_closed(self, driver_database: FreshDatabase) -> None:
        server, url = driver_database.running_server, driver_database.url
        family = for_dialect(url.get_backend_name())
        with driver_connection(url) as connection:
            fileno = family.fileno_of(connection)
            session_id = family.server_id(connection)
            assert fileno is not None
            assert session_id is not None
            server.kill_session(session_id)
            assert fileno() >= 0
            with pytest.raises(Exception) as caught:  # noqa: PT011 # any driver's
                connection.cursor().execute("SELECT 1")
            assert family.means_lost(caught.value)
            assert self.is_closed(fileno)

    def is_closed(self, fileno: Any) -> bool:
        """Tell whether there is no socket any more."""
        try:
            return bool(fileno() < 0)
        except Exception:
            return True

    @pytest.mark.parametrize("dialect", ["mysql", "postgresql", "sqlite", "oracle"])
    def test_a_driver_without_a_socket(self, dialect: str) -> None:
        assert for_dialect(dialect).fileno_of(object()) is None


class TestTimeLimitOfConnects:
    def test_pymysql_gets_one(self) -> None:
        assert self.limited("mysql", host="db") == {"host": "db", "connect_timeout": 5}

    def test_postgresql_gets_one(self) -> None:
        limited = {"host": "db", "connect_timeout": 5}
        assert self.limited("postgresql", host="db") == limited

    @pytest.mark.parametrize("dialect", ["sqlite", "oracle"])
    def test_others_get_none(self, dialect: str) -> None:
        assert self.limited(dialect, host="db") == {"host": "db"}

    @pytest.mark.parametrize(
        ("dialect", "seconds", "expected"),
        [
            ("mysql", 0.2, 1),
            ("mysql", 2.2, 3),
            ("postgresql", 0.2, 2),
            ("postgresql", 2.2, 3),
        ],
    )
    def test_it_is_in_whole_seconds_and_not_below_what_the_driver_can(
        self, dialect: str, seconds: float, expected: int
    ) -> None:
        limited = self.limited(dialect, seconds)
        assert limited["connect_timeout"] == expected
        assert isinstance(limited["connect_timeout"], int)

    @pytest.mark.parametrize(
        ("dialect", "driver", "left", "expected"),
        [
            ("mysql", "pymysql", 60, 5),
            ("mysql", "pymysql", 2.7, 2.7),
            ("mysql", "pymysql", 0.6, 0.6),
            ("mysql", "pymysql", -1, 0.5),
            ("mysql", "mysqldb", 2.7, 2),
            ("mysql", "mysqldb", 2.97, 3),
            ("mysql", "mysqldb", 0.3, 1),
            ("postgresql", "psycopg2", 60, 5),
            ("postgresql", "psycopg2", 3.7, 3),
            ("postgresql", "psycopg", 3.97, 4),
            ("postgresql", "psycopg", 0.3, 2),
        ],
    )
    def test_it_is_not_longer_than_what_is_left_as_far_as_the_driver_can(
        self, dialect: str, driver: str, left: float, expected: float
    ) -> None:
        arguments: dict[str, Any] = {}
        for_dialect(dialect).limit_connect(arguments, driver, 5, left)
        assert arguments == {"connect_timeout": expected}

    @pytest.mark.parametrize("seconds", [0.7, 60])
    def test_the_users_own_stays_however_much_is_left(self, seconds: float) -> None:
        arguments = {"connect_timeout": seconds}
        for_dialect("mysql").limit_connect(arguments, "pymysql", 5, 1)
        assert arguments == {"connect_timeout": seconds}

    @pytest.mark.parametrize(
        ("dialect", "arguments"),
        [
            ("mysql", {"connect_timeout": 60}),
            ("mysql", {"connection_timeout": 60}),
            ("postgresql", {"connect_timeout": 60}),
            ("postgresql", {"connect_timeout": "60"}),
            ("postgresql", {"service": "shop"}),
            ("postgresql", {"dsn": "host=db connect_timeout=60"}),
            ("postgresql", {"dsn": "connect_timeout = 60 host=db"}),
            ("postgresql", {"dsn": "service=shop"}),
            ("postgresql", {"conninfo": "postgresql://db/shop?connect_timeout=60"}),
            ("postgresql", {"conninfo": "postgresql://db/?a=b&connect_timeout=60"}),
        ],
    )
    def test_one_that_is_there_stays(
        self, dialect: str, arguments: dict[str, Any]
    ) -> None:
        assert self.limited(dialect, **arguments) == arguments

    @pytest.mark.parametrize("name", ["PGCONNECT_TIMEOUT", "PGSERVICE"])
    def test_one_of_the_environment_stays(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "60")
        assert self.limited("postgresql") == {}

    def test_words_of_a_conninfo_that_only_look_like_one(self) -> None:
        limited = self.limited("postgresql", dsn="host=db dbname=no_service")
        assert limited["connect_timeout"] == 5

    @pytest.mark.parametrize("driver", [psycopg2, psycopg])
    def test_libpq_keeps_to_it(self, driver: Any) -> None:
        with SilentServer() as server:
            arguments = {"host": server.host, "port": server.port}
            limited = self.limited("postgresql", 0.5, **arguments)
            with pytest.raises(driver.OperationalError, match="timeout expired"):
                driver.connect(**limited)

    def limited(
        self, dialect: str, seconds: float = 5, **arguments: Any
    ) -> dict[str, Any]:
        """Return a driver's arguments after they were limited."""
        driver = {"mysql": "pymysql", "postgresql": "psycopg2"}.get(dialect, dialect)
        for_dialect(dialect).limit_connect(arguments, driver, seconds)
        return arguments
