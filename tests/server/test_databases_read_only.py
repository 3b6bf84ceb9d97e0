"""A server that became read-only is told from a session that wanted to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from flask_poolguard.databases import for_dialect
from tests.support.drivers import MYSQL_DRIVERS, POSTGRESQL_DRIVERS
from tests.support.servers import DatabaseServer, MariaDBServer, PostgreSQLServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product

MYSQLS = pytest.mark.parametrize("drivername", MYSQL_DRIVERS)
PSYCOPGS = pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
WRITE = "INSERT INTO notes VALUES (1)"


@contextmanager
def connected(url: sa.URL) -> Iterator[sa.Connection]:
    """Connect without a pool."""
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        yield connection


def make_table(url: sa.URL) -> None:
    """Create what the tests write to."""
    with connected(url) as connection:
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER)")
        connection.commit()


def write_is_refused_for_good(connection: sa.Connection, sql: str = WRITE) -> bool:
    """Write in vain, and judge the error bare and as SQLAlchemy wraps it."""
    with pytest.raises(sa.exc.DBAPIError) as caught:
        connection.exec_driver_sql(sql)
    family = for_dialect(connection.dialect.name)
    driver_connection = connection.connection.driver_connection
    assert caught.value.orig is not None
    answer = family.means_read_only(caught.value, driver_connection)
    assert family.means_read_only(caught.value.orig, driver_connection) is answer
    return answer


@pytest.fixture
def mariadb_table(
    own_server: None, mariadb: DatabaseServer, mariadb_url: sa.URL
) -> Iterator[sa.URL]:
    """Return the URL of a database with a table, on a server left writable."""
    make_table(mariadb_url)
    yield mariadb_url
    mariadb.execute("SET GLOBAL read_only = 0")


@pytest.fixture
def postgresql_table(postgresql_url: sa.URL) -> sa.URL:
    """Return the URL of a database with a table."""
    make_table(postgresql_url)
    return postgresql_url


@MYSQLS
class TestMariaDB:
    def test_the_server_became_read_only(
        self, drivername: str, mariadb: DatabaseServer, mariadb_table: sa.URL
    ) -> None:
        with connected(mariadb_table.set(drivername=drivername)) as connection:
            connection.exec_driver_sql("SELECT 1")
            mariadb.execute("SET GLOBAL read_only = 1")
            assert write_is_refused_for_good(connection)

    def test_its_storage_is_read_only(
        self, drivername: str, mariadb: DatabaseServer
    ) -> None:
        # After the fast shutdown of the others, InnoDB would have to write.
        with MariaDBServer(innodb_fast_shutdown=1) as server:
            url = server.url(database=server.create_database(), drivername=drivername)
            make_table(url)
            server.restart(innodb_read_only=1)
            with connected(url) as connection:
                assert write_is_refused_for_good(connection)

    def test_the_transaction_wanted_it(
        self, drivername: str, mariadb_table: sa.URL
    ) -> None:
        with connected(mariadb_table.set(drivername=drivername)) as connection:
            connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
            connection.rollback()
            assert not write_is_refused_for_good(connection)

    def test_another_option_is_in_the_way(
        self, drivername: str, mariadb: DatabaseServer
    ) -> None:
        with MariaDBServer(secure_file_priv="/usr/lib") as server:
            server.execute("GRANT FILE ON *.* TO app@'%'")
            with connected(server.url(drivername=drivername)) as connection:
                outfile = "SELECT 1 INTO OUTFILE '/elsewhere/file'"
                assert not write_is_refused_for_good(connection, outfile)

    def test_another_error(self, drivername: str, mariadb_table: sa.URL) -> None:
        with connected(mariadb_table.set(drivername=drivername)) as connection:
            assert not write_is_refused_for_good(connection, "INSERT INTO nowhere")


class TestMySQL:
    @pytest.mark.parametrize(
        ("code", "text", "expected"),
        [
            (1290, "Der Server läuft mit der Option --super-read-only", True),
            (1290, "Der Server läuft mit der Option --read_only", True),
            (1290, "Der Server läuft mit der Option --secure-file-priv", False),
            (1836, "Nur lesen", True),
            (1874, "Nur lesen", True),
            (1792, "In der Transaktion nur lesen", False),
        ],
    )
    def test_the_numbers_count_whatever_the_language(
        self, code: int, text: str, expected: bool
    ) -> None:
        error = pymysql.OperationalError(code, text)
        assert for_dialect("mysql").means_read_only(error, object()) is expected


@PSYCOPGS
class TestPostgreSQL:
    def test_the_server_became_read_only(
        self, drivername: str, postgresql: DatabaseServer
    ) -> None:
        with PostgreSQLServer() as server:
            url = server.url(database=server.create_database(), drivername=drivername)
            make_table(url)
            with connected(url) as connection:
                server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
                server.execute("SELECT pg_reload_conf()")

                def has_heard() -> bool:
                    seen = "SHOW default_transaction_read_only"
                    state = connection.exec_driver_sql(seen).scalar()
                    connection.rollback()
                    return state == "on"

                wait_until(has_heard, what="the reload")
                assert write_is_refused_for_good(connection)

    def test_the_role_became_read_only(
        self, drivername: str, postgresql: DatabaseServer, postgresql_table: sa.URL
    ) -> None:
        url = postgresql_table.set(drivername=drivername)
        postgresql.execute(
            f"ALTER ROLE app IN DATABASE {url.database}"
            " SET default_transaction_read_only = on"
        )
        with connected(url) as connection:
            assert write_is_refused_for_good(connection)

    def test_the_server_is_a_standby(
        self, drivername: str, postgresql: DatabaseServer
    ) -> None:
        with PostgreSQLServer(wal_level="replica") as server:
            url = server.url(database=server.create_database(), drivername=drivername)
            make_table(url)
            server.stop()
            (server.folder / "data" / "standby.signal").touch()
            server.start()
            with connected(url) as connection:
                assert write_is_refused_for_good(connection)

    def test_the_session_wanted_it(
        self, drivername: str, postgresql_table: sa.URL
    ) -> None:
        with connected(postgresql_table.set(drivername=drivername)) as connection:
            connection.execution_options(postgresql_readonly=True)
            assert not write_is_refused_for_good(connection)

    def test_another_error(self, drivername: str, postgresql_table: sa.URL) -> None:
        with connected(postgresql_table.set(drivername=drivername)) as connection:
            assert not write_is_refused_for_good(connection, "INSERT INTO nowhere")

    def test_a_closed_connection_cannot_say_what_it_wanted(
        self, drivername: str, postgresql_table: sa.URL
    ) -> None:
        with connected(postgresql_table.set(drivername=drivername)) as connection:
            driver_connection = connection.connection.driver_connection
            assert driver_connection is not None
            driver_connection.close()
            error = psycopg.errors.ReadOnlySqlTransaction("nur lesen")
            family = for_dialect("postgresql")
            assert family.means_read_only(error, driver_connection)


@pytest.mark.parametrize("dialect", ["sqlite", "oracle"])
def test_others_are_never_known_to_be_read_only(dialect: str) -> None:
    error = psycopg.errors.ReadOnlySqlTransaction("nur lesen")
    assert not for_dialect(dialect).means_read_only(error, object())
