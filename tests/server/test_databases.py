"""What servers say of themselves, asked through every driver at hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pymysql.cursors
import pytest
import sqlalchemy as sa

from flask_poolguard.databases import Database, IdleLimit, for_dialect
from flask_poolguard.databases.mysql_view import product_of
from tests.conftest import Database as FreshDatabase
from tests.support.drivers import (
    MYSQL_AND_MARIADB_DRIVERS,
    POSTGRESQL_DRIVERS,
    driver_connection,
)
from tests.support.servers import DatabaseServer

pytestmark = pytest.mark.every_product

Connect = Callable[[sa.URL], Any]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that connects as SQLAlchemy would, without a pool."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(driver_connection(url))


def family(url: sa.URL) -> Database:
    """Return what is known of the family that a URL belongs to."""
    return for_dialect(url.get_backend_name())


class TestFamilies:
    @pytest.mark.parametrize("name", ["mysql", "mariadb"])
    def test_mysql_and_mariadb_are_one(self, name: str) -> None:
        assert type(for_dialect(name)).__name__ == "MySQL"

    def test_a_server_that_nobody_knows_has_no_limit_and_says_so(self) -> None:
        unknown = for_dialect("oracle")
        connection = sqlite3.connect(":memory:")
        with closing(connection):
            limit = unknown.idle_limit(connection)
            assert limit == IdleLimit(None, "no idle limit is known for oracle")
            assert unknown.server_id(connection) is None
            assert not unknown.is_in_mid_query(connection)
            assert unknown.view(connection).product == "oracle"
            assert unknown.view(connection).connections is None

    def test_sqlite_claims_no_sessions(self) -> None:
        sqlite = for_dialect("sqlite")
        connection = sqlite3.connect(":memory:")
        with closing(connection):
            view = sqlite.view(connection)
            assert view.product == f"SQLite {sqlite3.sqlite_version}"
            assert view.idle_limit == IdleLimit(None, "SQLite has no idle limit")
            assert view.max_connections is None
            assert view.session_ids is None
            assert sqlite.server_id(connection) is None
            assert not sqlite.is_in_mid_query(connection)


class TestServerId:
    @pytest.mark.parametrize("drivername", MYSQL_AND_MARIADB_DRIVERS)
    def test_it_is_mariadbs_connection_id(
        self, drivername: str, connect: Connect, mariadb_url: sa.URL
    ) -> None:
        self.check(connect, mariadb_url.set(drivername=drivername), "CONNECTION_ID()")

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_it_is_postgresqls_backend_pid(
        self, drivername: str, connect: Connect, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        self.check(connect, url, "pg_backend_pid()")

    def check(self, connect: Connect, url: sa.URL, function: str) -> None:
        connection = connect(url)
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SELECT {function}")
            assert family(url).server_id(connection) == cursor.fetchone()[0]

    def test_a_closed_connection_never_raises(
        self, served_database: FreshDatabase, connect: Connect
    ) -> None:
        connection = connect(served_database.url)
        known = family(served_database.url).server_id(connection)
        connection.close()
        assert family(served_database.url).server_id(connection) in (known, None)

    def test_a_driver_that_cannot_tell_is_unknown(
        self, served_database: FreshDatabase
    ) -> None:
        assert family(served_database.url).server_id(object()) is None


class TestMidQuery:
    @pytest.mark.parametrize("drivername", ["mysql+pymysql", "mariadb+pymysql"])
    def test_an_unread_server_side_cursor_of_pymysql_is_one(
        self, drivername: str, connect: Connect, mariadb_url: sa.URL
    ) -> None:
        mysql = family(mariadb_url)
        connection = connect(mariadb_url.set(drivername=drivername))
        assert not mysql.is_in_mid_query(connection)
        cursor = connection.cursor(pymysql.cursors.SSCursor)
        cursor.execute(
            "WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL"
            " SELECT number + 1 FROM numbers WHERE number < 1000)"
            " SELECT number FROM numbers"
        )
        cursor.fetchone()
        assert mysql.is_in_mid_query(connection)
        cursor.fetchall()
        assert not mysql.is_in_mid_query(connection)

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_an_open_transaction_of_postgresql_is_none(
        self, drivername: str, connect: Connect, postgresql_url: sa.URL
    ) -> None:
        connection = connect(postgresql_url.set(drivername=drivername))
        postgresql = family(postgresql_url)
        assert not postgresql.is_in_mid_query(connection)
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT 1")
        assert not postgresql.is_in_mid_query(connection)

    def test_a_command_of_psycopg_whose_answer_is_unread_is_one(
        self, connect: Connect, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg")
        connection = connect(url)
        connection.pgconn.send_query(b"SELECT 1")
        assert family(url).is_in_mid_query(connection)


class TestView:
    @pytest.mark.parametrize("drivername", MYSQL_AND_MARIADB_DRIVERS)
    def test_mariadb_names_itself_its_limits_and_its_sessions(
        self,
        drivername: str,
        connect: Connect,
        mariadb: DatabaseServer,
        mariadb_url: sa.URL,
    ) -> None:
        url = mariadb_url.set(drivername=drivername)
        other, asking = connect(url), connect(url)
        view = family(url).view(asking)
        ((version,),) = mariadb.query("SELECT VERSION()")
        assert view.product == f"{mariadb.product} {str(version).partition('-')[0]}"
        assert view.idle_limit == IdleLimit(28800, "wait_timeout 28800 s")
        assert view.max_connections == 300
        assert view.session_ids is not None
        assert family(url).server_id(other) in view.session_ids
        assert family(url).server_id(asking) not in view.session_ids
        assert view.connections is not None
        assert view.connections >= 1

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_postgresql_names_itself_its_limits_and_its_sessions(
        self,
        drivername: str,
        connect: Connect,
        postgresql: DatabaseServer,
        postgresql_url: sa.URL,
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        other, asking = connect(url), connect(url)
        view = family(url).view(asking)
        ((version,),) = postgresql.query("SHOW server_version")
        assert view.product == f"PostgreSQL {str(version).partition(' ')[0]}"
        assert view.idle_limit.seconds is None
        assert view.max_connections == 200
        assert view.session_ids is not None
        assert family(url).server_id(other) in view.session_ids
        assert family(url).server_id(asking) not in view.session_ids

    @pytest.mark.usefixtures("own_server")
    def test_the_sessions_of_other_users_count_as_well(
        self, served_database: FreshDatabase, connect: Connect
    ) -> None:
        url, server = served_database.url, served_database.running_server
        asking = connect(url)
        before = family(url).view(asking).connections
        administrator = connect(
            server.url(
                user=server.admin_user,
                password=None,
                **(
                    {"unix_socket": str(server.socket_path)}
                    if server.product != "PostgreSQL"
                    else {"host": str(server.socket_path.parent), "dbname": "postgres"}
                ),
            )
        )
        assert before is not None
        assert family(url).view(asking).connections == before + 1
        administrator.close()

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_looking_leaves_no_transaction_open(
        self,
        drivername: str,
        connect: Connect,
        postgresql: DatabaseServer,
        postgresql_url: sa.URL,
    ) -> None:
        connection = connect(postgresql_url.set(drivername=drivername))
        family(postgresql_url).view(connection)
        ((state,),) = postgresql.query(
            "SELECT state FROM pg_stat_activity"
            f" WHERE pid = {connection.info.backend_pid}"
        )
        assert state == "idle"
        assert not connection.autocommit

    def test_a_driver_whose_transactions_cannot_be_seen_is_rolled_back(
        self, connect: Connect, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        driver = connect(postgresql_url)

        class Plain:
            """Has what PEP 249 asks for and nothing else."""

            cursor = driver.cursor
            rollback = driver.rollback

        view = family(postgresql_url).view(Plain())
        assert view.product.startswith("PostgreSQL ")
        ((state,),) = postgresql.query(
            f"SELECT state FROM pg_stat_activity WHERE pid = {driver.info.backend_pid}"
        )
        assert state == "idle"


class TestProduct:
    @pytest.mark.parametrize(
        ("version", "product"),
        [
            ("10.11.6-MariaDB-0+deb12u1", "MariaDB 10.11.6"),
            ("5.5.5-10.4.32-MariaDB-log", "MariaDB 10.4.32"),
            ("11.4.2-MariaDB", "MariaDB 11.4.2"),
            ("8.0.36", "MySQL 8.0.36"),
            ("8.0.36-0ubuntu0.22.04.1", "MySQL 8.0.36"),
            ("5.7.44-log", "MySQL 5.7.44"),
        ],
    )
    def test_a_version_becomes_a_name_and_a_number(
        self, version: str, product: str
    ) -> None:
        assert product_of(version) == product
