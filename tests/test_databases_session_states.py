"""Servers are asked what sessions do: nothing, a query, or nothing but hold locks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from flask_poolguard.databases import for_dialect
from tests.conftest import Database as FreshDatabase
from tests.support.drivers import POSTGRESQL_DRIVERS
from tests.support.transactions import transaction_is_open
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product


class Session:
    """A connection, and the server's number of its session."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.family = for_dialect(connection.dialect.name)
        number = self.family.server_id(self.driver_connection)
        assert number is not None
        self.number = number

    @property
    def driver_connection(self) -> object:
        """Return the driver's connection."""
        return self.connection.connection.driver_connection

    def execute(self, sql: str) -> None:
        """Run a statement in a transaction that stays open."""
        self.connection.exec_driver_sql(sql)

    def states(self, *sessions: Session) -> Mapping[int, str]:
        """Ask what sessions do."""
        ids = [each.number for each in sessions]
        return self.family.session_states(self.driver_connection, ids)


@contextmanager
def session(url: sa.URL) -> Iterator[Session]:
    """Open a session without a pool."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.rollback()
        yield Session(connection)


def make_table(url: sa.URL) -> None:
    """Create what the tests read and write."""
    with session(url) as each:
        each.execute("CREATE TABLE notes (id INTEGER)")
        each.execute("INSERT INTO notes VALUES (1)")
        each.connection.commit()


class TestStates:
    def test_idle(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        with session(url) as asking, session(url) as other:
            assert asking.states(other) == {other.number: "idle"}

    @pytest.mark.usefixtures("process_privilege")
    def test_idle_in_a_transaction(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        make_table(url)
        with session(url) as asking, session(url) as other:
            other.execute("UPDATE notes SET id = 2")
            self.wait_for_innodb()
            assert asking.states(other) == {other.number: "idle in transaction"}
            other.connection.rollback()
            self.wait_for_innodb()
            assert asking.states(other) == {other.number: "idle"}

    def wait_for_innodb(self) -> None:
        """Let the time pass in which InnoDB repeats its last answer, 0.1 s from the
        last question: asking more often would put its next look off for ever.
        """
        time.sleep(0.2)

    def test_idle_in_a_transaction_that_failed(self, postgresql_url: sa.URL) -> None:
        with session(postgresql_url) as asking, session(postgresql_url) as other:
            with pytest.raises(sa.exc.ProgrammingError):
                other.execute("SELECT nothing")
            assert asking.states(other) == {other.number: "idle in transaction"}

    def test_running_a_query(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        sleep = "SELECT pg_sleep(60)"
        if url.get_backend_name() == "mysql":
            sleep = "SELECT SLEEP(60)"
        with session(url) as asking, session(url) as other:

            def run() -> None:
                with pytest.raises(sa.exc.DBAPIError):
                    other.execute(sleep)

            thread = threading.Thread(target=run)
            thread.start()
            state = {other.number: "active"}
            wait_until(lambda: asking.states(other) == state)
            driver_database.running_server.kill_session(other.number)
            thread.join()

    def test_several_at_once(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        with session(url) as asking, session(url) as first, session(url) as second:
            assert asking.states(first, second) == {
                first.number: "idle",
                second.number: "idle",
            }

    def test_nothing_is_asked_about_nobody(self) -> None:
        for dialect in ("mysql", "postgresql"):
            assert for_dialect(dialect).session_states(object(), []) == {}

    @pytest.mark.parametrize("dialect", ["sqlite", "oracle"])
    def test_others_have_none(self, dialect: str) -> None:
        assert for_dialect(dialect).session_states(object(), [1]) == {}


class TestLeftOut:
    def test_a_session_that_is_gone(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        with session(url) as asking, session(url) as other:
            driver_database.running_server.kill_session(other.number)
            assert asking.states(other) == {}

    def test_a_session_of_another_user(self, driver_database: FreshDatabase) -> None:
        server = driver_database.running_server
        url = server.url(user=server.admin_user, password=None)
        if url.get_backend_name() == "mysql":
            url = url.update_query_dict({"unix_socket": str(server.socket_path)})
        else:
            url = url.set(host=str(server.socket_path.parent), database="postgres")
        with session(driver_database.url) as asking, session(url) as other:
            assert asking.states(other) == {}


class TestLimits:
    def test_without_the_privilege_a_transaction_of_mariadb_counts_as_idle(
        self, mariadb_url: sa.URL
    ) -> None:
        make_table(mariadb_url)
        with session(mariadb_url) as asking, session(mariadb_url) as other:
            other.execute("UPDATE notes SET id = 2")
            assert asking.states(other) == {other.number: "idle"}

    def test_a_session_that_is_lost_is_an_error(
        self, driver_database: FreshDatabase
    ) -> None:
        url = driver_database.url
        with session(url) as asking, session(url) as other:
            driver_connection = asking.driver_connection
            driver_database.running_server.kill_session(asking.number)
            with pytest.raises(Exception) as caught:  # noqa: PT011 # any driver's
                asking.family.session_states(driver_connection, [other.number])
            assert asking.family.means_lost(caught.value)
            asking.connection.invalidate()


class TestNothingIsLeftBehind:
    @pytest.mark.usefixtures("process_privilege")
    def test_no_transaction_is_open(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        server = driver_database.running_server
        make_table(url)
        with session(url) as asking, session(url) as other:

            def is_in_transaction() -> bool:
                if url.get_backend_name() == "mysql":
                    return transaction_is_open(asking.connection, server)
                ((state,),) = server.query(
                    f"SELECT state FROM pg_stat_activity WHERE pid = {asking.number}"
                )
                return bool(state == "idle in transaction")

            asking.states(other)
            assert not is_in_transaction()
            asking.execute("SELECT * FROM notes")
            assert is_in_transaction()  # it would be seen

    @pytest.mark.parametrize("drivername", POSTGRESQL_DRIVERS)
    def test_an_open_transaction_stays_open(
        self, drivername: str, postgresql_url: sa.URL
    ) -> None:
        url = postgresql_url.set(drivername=drivername)
        with session(url) as asking, session(url) as other:
            asking.execute("CREATE TEMPORARY TABLE mine (id INTEGER) ON COMMIT DROP")
            asking.states(other)
            asking.execute("SELECT * FROM mine")
