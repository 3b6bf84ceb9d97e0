"""Servers list their sessions and tell what each does: nothing, a query, or nothing but
hold locks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from flask_poolguard.databases import (
    ServerSession,
    SessionList,
    for_dialect,
    merge_sessions,
)
from flask_poolguard.databases.types import Hidden, shorten_statement
from flask_poolguard.pool.session_probe import SessionProbe
from tests.conftest import Database as FreshDatabase
from tests.support.database_server import APP_PASSWORD
from tests.support.drivers import POSTGRESQL_DRIVERS
from tests.support.servers import APP_USER, DatabaseServer, MariaDBServer
from tests.support.transactions import transaction_is_open
from tests.support.waiting import wait_until

# The server's list has the sessions of all its clients.
pytestmark = [pytest.mark.every_product, pytest.mark.usefixtures("own_server")]

SLEEP = {"mysql": "SELECT SLEEP(30)", "postgresql": "SELECT pg_sleep(30)"}
# Begins a transaction that the server's own list shows.
BEGIN = {
    "mysql": "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    "postgresql": "SELECT 1",
}


@pytest.fixture
def server() -> Iterator[DatabaseServer]:
    """Run a MariaDB that keeps connection attributes."""
    with MariaDBServer(performance_schema="ON") as server:
        yield server


class Client:
    """A connection without a pool, and the server's number of its session."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.dialect = connection.dialect.name
        self.family = for_dialect(self.dialect)
        number = self.family.server_id(self.raw)
        assert number is not None
        self.number = number

    @property
    def raw(self) -> object:
        """Return the driver's connection."""
        return self.connection.connection.driver_connection

    def execute(self, sql: str) -> None:
        """Run a statement in a transaction that stays open."""
        self.connection.exec_driver_sql(sql)

    def list(self, *, with_sql: bool = False) -> SessionList:
        """Ask for all sessions."""
        return self.family.sessions(self.raw, with_sql=with_sql)

    def hidden(self) -> Sequence[str]:
        """Ask for all sessions and return what of them cannot be seen."""
        return [str(each) for each in self.list().hidden]

    def states(self, *clients: Client) -> Mapping[int, str]:
        """Ask what sessions do."""
        ids = [each.number for each in clients]
        found = self.family.sessions(self.raw, only=ids).sessions
        return {each.id: each.state for each in found if each.state is not None}

    def sees(self, other: Client, *, with_sql: bool = False) -> ServerSession:
        """Ask for all sessions and return another's."""
        found = self.list(with_sql=with_sql).sessions
        (session,) = [each for each in found if each.id == other.number]
        return session


@contextmanager
def client(url: sa.URL) -> Iterator[Client]:
    """Open a session."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.rollback()
        yield Client(connection)


@contextmanager
def busy(runner: Client, sql: str, server: DatabaseServer) -> Iterator[None]:
    """Let a session run a statement, and end it at the end."""

    def run() -> None:
        with pytest.raises(sa.exc.DBAPIError):
            runner.execute(sql)
        runner.connection.invalidate()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        server.kill_session(runner.number)
        thread.join(30)


class TestList:
    def test_shows_who_is_connected_and_not_the_one_that_asks(
        self, served_database: FreshDatabase
    ) -> None:
        url = served_database.url
        with client(url) as asking, client(url) as other:
            ids = {each.id for each in asking.list().sessions}
            assert other.number in ids
            assert asking.number not in ids
            seen = asking.sees(other)
        assert seen.user == APP_USER
        assert seen.database == url.database
        assert seen.client is not None
        assert seen.client.startswith("127.0.0.1:")
        assert seen.state == "idle"
        assert seen.state_seconds is not None
        assert seen.statement is None

    def test_tells_what_is_known_of_a_sessions_age(
        self, postgresql_url: sa.URL, mariadb_url: sa.URL
    ) -> None:
        with client(postgresql_url) as asking, client(postgresql_url) as other:
            age = asking.sees(other).age_seconds
            assert age is not None
            assert age >= 0
        with client(mariadb_url) as asking, client(mariadb_url) as other:
            assert asking.sees(other).age_seconds is None

    @pytest.mark.usefixtures("process_privilege")
    def test_tells_an_open_transaction_from_idling(
        self, served_database: FreshDatabase
    ) -> None:
        url = served_database.url
        with client(url) as asking, client(url) as other:
            other.execute(BEGIN[other.dialect])
            self.wait_for_innodb()
            assert asking.sees(other).state == "idle in transaction"
            other.connection.rollback()
            self.wait_for_innodb()
            assert asking.sees(other).state == "idle"

    def wait_for_innodb(self) -> None:
        """Let the time pass in which InnoDB repeats its last answer, 0.1 s from the
        last question: asking more often would put its next look off for ever.
        """
        time.sleep(0.2)

    def test_counts_an_aborted_transaction_as_idle_in_one(
        self, postgresql_url: sa.URL
    ) -> None:
        with client(postgresql_url) as asking, client(postgresql_url) as other:
            with pytest.raises(sa.exc.DBAPIError):
                other.execute("SELECT nothing")
            assert asking.sees(other).state == "idle in transaction"

    def test_leaves_no_transaction_open(
        self,
        postgresql_url: sa.URL,
        mariadb_url: sa.URL,
        mariadb: DatabaseServer,
    ) -> None:
        with client(postgresql_url) as asking, client(postgresql_url) as other:
            asking.list(with_sql=True)
            assert other.sees(asking).state == "idle"
        with client(mariadb_url) as asking:
            asking.list(with_sql=True)
            assert not transaction_is_open(asking.connection, mariadb)

    def test_leaves_out_the_servers_own_threads(
        self, served_database: FreshDatabase
    ) -> None:
        server = served_database.running_server
        admin = server.url(
            user=server.admin_user,
            password=None,
            **(
                {"unix_socket": str(server.socket_path)}
                if server.product != "PostgreSQL"
                else {"host": str(server.socket_path.parent)}
            ),
        ).set(host=None, port=server.port)
        with client(admin.set(database=served_database.url.database)) as asking:
            assert all(each.user for each in asking.list().sessions)

    def test_is_empty_where_there_is_no_server(self) -> None:
        assert for_dialect("sqlite").sessions(None, with_sql=True) == SessionList()
        (hidden,) = for_dialect("oracle").sessions(None, with_sql=True).hidden
        assert "oracle" in hidden.reason


class TestStatements:
    def test_are_shown_only_if_asked_for(self, served_database: FreshDatabase) -> None:
        url = served_database.url
        with client(url) as asking, client(url) as other:
            sql = SLEEP[other.dialect]
            with busy(other, f"{sql} -- secret", served_database.running_server):
                # A driver may send a BEGIN of its own first.
                wait_until(
                    lambda: (
                        asking.sees(other, with_sql=True).statement
                        == f"{sql} -- secret"
                    ),
                    what="it to run",
                )
                assert asking.sees(other).statement is None

    def test_are_one_short_harmless_line(self, served_database: FreshDatabase) -> None:
        url = served_database.url
        with client(url) as asking, client(url) as other:
            sql = f"{' ' * 500}\n{SLEEP[other.dialect]} -- \x1b[31m\t\n" + "/*é*/" * 99
            with busy(other, sql, served_database.running_server):

                def statement() -> str:
                    shown = asking.sees(other, with_sql=True).statement or ""
                    # A driver may send a BEGIN of its own first.
                    return "" if shown == "BEGIN" else shown

                wait_until(statement, what="it to run")
                shown = statement()
        assert shown.startswith(f"{SLEEP[other.dialect]} -- ?[31m /*é*/")
        assert len(shown) == 80
        assert shown.endswith("…")
        assert shown.isprintable()

    def test_of_an_open_transaction_are_the_last(self, postgresql_url: sa.URL) -> None:
        with client(postgresql_url) as asking, client(postgresql_url) as other:
            other.execute("SELECT 42")
            assert asking.sees(other, with_sql=True).statement == "SELECT 42"
            other.connection.rollback()
            assert asking.sees(other, with_sql=True).statement is None

    @pytest.mark.parametrize("sql", [None, "", "  \n "])
    def test_that_are_nothing_are_none(self, sql: str | None) -> None:
        assert not shorten_statement(sql)


class TestWhatCannotBeSeen:
    def test_labels_without_performance_schema(self, mariadb_url: sa.URL) -> None:
        with client(mariadb_url) as asking, client(mariadb_url) as other:
            assert asking.sees(other).label is None
            assert "labels of sessions (performance_schema is off)" in asking.hidden()

    def test_transactions_without_the_process_privilege(
        self, mariadb_url: sa.URL
    ) -> None:
        with client(mariadb_url) as asking, client(mariadb_url) as other:
            other.execute(BEGIN["mysql"])
            assert asking.sees(other).state == "idle"
            assert (
                "other users' sessions, and transactions that are open (run: GRANT"
                " PROCESS ON *.* TO 'app'@'%')"
            ) in asking.hidden()

    @pytest.mark.parametrize("user", ["o'neil", "back\\slash", "tick`s"])
    def test_names_a_statement_that_lets_them_be_seen(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL, user: str
    ) -> None:
        account = "`{}`@'127.0.0.%'".format(user.replace("`", "``"))
        mariadb.execute(f"CREATE USER {account} IDENTIFIED BY '{APP_PASSWORD}'")
        url = mariadb_url.set(username=user, database="information_schema")
        try:
            with client(url) as asking:
                found = [each.reason for each in asking.list().hidden]
            (statement,) = [each for each in found if each.startswith("run: ")]
            mariadb.execute(statement.removeprefix("run: "))
            with client(url) as asking:
                assert not any("GRANT" in each for each in asking.hidden())
        finally:
            mariadb.execute(f"DROP USER {account}")

    def test_of_two_users_is_said_once(self) -> None:
        lists = [
            SessionList(
                hidden=(Hidden("labels", "off"), Hidden("states", f"GRANT {n}"))
            )
            for n in (1, 2)
        ]
        lists.append(SessionList(hidden=(Hidden("states", "GRANT 3"),)))
        assert merge_sessions(lists, without=()).hidden == (
            Hidden("states", "GRANT 1"),
        )

    @pytest.mark.usefixtures("process_privilege")
    def test_is_not_claimed_of_transactions_with_it(self, mariadb_url: sa.URL) -> None:
        with client(mariadb_url) as asking:
            assert not any("PROCESS" in each for each in asking.hidden())

    def test_what_other_users_do_on_postgresql(
        self, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        postgresql.execute("CREATE USER teller PASSWORD 'x'")
        url = postgresql_url.set(username="teller", password="x")
        try:
            with client(postgresql_url) as asking, client(url) as other:
                other.execute("SET application_name = 'till'")
                other.execute("SELECT 42")
                seen = asking.sees(other, with_sql=True)
                (hidden,) = asking.hidden()
                _, _, statement = hidden.rstrip(")").partition("run: ")
                postgresql.execute(statement)
                try:
                    assert asking.hidden() == []
                finally:
                    postgresql.execute("REVOKE pg_read_all_stats FROM app")
        finally:
            wait_until(lambda: not postgresql.session_ids(user="teller"), what="end")
            postgresql.execute("DROP USER teller")
        assert (seen.user, seen.label) == ("teller", "till")
        assert (seen.state, seen.statement, seen.age_seconds) == (None, None, None)
        assert hidden == (
            'what other users\' sessions do (run: GRANT pg_read_all_stats TO "app")'
        )

    def test_what_sessions_do_that_postgresql_does_not_track(
        self, postgresql: DatabaseServer, postgresql_url: sa.URL
    ) -> None:
        name = postgresql_url.database
        postgresql.execute(f'ALTER DATABASE "{name}" SET track_activities = off')
        with client(postgresql_url) as asking, client(postgresql_url) as other:
            seen = asking.sees(other, with_sql=True)
            (hidden,) = asking.hidden()
        assert (seen.state, seen.statement) == (None, None)
        assert "track_activities" in hidden
        assert "GRANT" not in hidden

    def test_nothing_of_the_own_users_on_postgresql(
        self, postgresql_url: sa.URL
    ) -> None:
        with client(postgresql_url) as asking, client(postgresql_url):
            assert asking.hidden() == []


class TestMariaDBWithPerformanceSchema:
    def test_shows_the_labels_of_the_own_account_without_a_privilege(
        self, server: DatabaseServer
    ) -> None:
        url = server.url()
        named = url.update_query_dict({"program_name": "till@web1:7"})
        with client(url) as asking, client(named) as other, client(url) as nameless:
            assert asking.sees(other).label == "till@web1:7"
            assert asking.sees(nameless).label == ""
            assert not any("label" in each for each in asking.hidden())

    def test_shows_those_of_all_accounts_with_one(self, server: DatabaseServer) -> None:
        server.execute(f"CREATE USER teller IDENTIFIED BY '{APP_PASSWORD}'")
        url = server.url()
        foreign = server.url(user="teller", program_name="till@web1:7")
        server.execute(f"GRANT PROCESS ON *.* TO {APP_USER}@'%'")
        with client(foreign) as other:
            with client(url) as asking:
                assert asking.sees(other).label is None
            server.execute(f"GRANT SELECT ON performance_schema.* TO {APP_USER}@'%'")
            with client(url) as asking:
                assert asking.sees(other).label == "till@web1:7"


def test_a_session_ends_by_the_statement_that_is_said_to_end_it(
    served_database: FreshDatabase,
) -> None:
    url = served_database.url
    with client(url) as asking, client(url) as other:
        sql = other.family.kill_statement(other.number)
        assert sql is not None
        asking.execute(sql)
        asking.connection.rollback()
        wait_until(
            lambda: all(each.id != other.number for each in asking.list().sessions),
            what="the end of the session",
        )
        other.connection.invalidate()


@pytest.mark.parametrize("dialect", ["sqlite", "oracle"])
def test_where_sessions_are_not_known_nothing_ends_one(dialect: str) -> None:
    assert for_dialect(dialect).kill_statement(7) is None


def make_table(url: sa.URL) -> None:
    """Create what the tests read and write."""
    with client(url) as each:
        each.execute("CREATE TABLE notes (id INTEGER)")
        each.execute("INSERT INTO notes VALUES (1)")
        each.connection.commit()


class TestStates:
    def test_idle(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        with client(url) as asking, client(url) as other:
            assert asking.states(other) == {other.number: "idle"}

    @pytest.mark.usefixtures("process_privilege")
    def test_idle_in_a_transaction(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        make_table(url)
        with client(url) as asking, client(url) as other:
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
        with client(postgresql_url) as asking, client(postgresql_url) as other:
            with pytest.raises(sa.exc.ProgrammingError):
                other.execute("SELECT nothing")
            assert asking.states(other) == {other.number: "idle in transaction"}

    def test_running_a_query(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        sleep = "SELECT pg_sleep(60)"
        if url.get_backend_name() == "mysql":
            sleep = "SELECT SLEEP(60)"
        with client(url) as asking, client(url) as other:

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
        with client(url) as asking, client(url) as first, client(url) as second:
            assert asking.states(first, second) == {
                first.number: "idle",
                second.number: "idle",
            }

    def test_nothing_is_asked_about_nobody(self) -> None:
        asked: list[object] = []
        SessionProbe(for_dialect("mysql"), "pymysql", asked.append).begin(list)
        names = {each.name for each in threading.enumerate()}
        assert not asked
        assert "poolguard-session-probe" not in names

    @pytest.mark.parametrize("dialect", ["sqlite", "oracle"])
    def test_others_have_none(self, dialect: str) -> None:
        assert not for_dialect(dialect).sessions(object(), only=[1]).sessions


class TestLeftOut:
    def test_a_session_that_is_gone(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        with client(url) as asking, client(url) as other:
            driver_database.running_server.kill_session(other.number)
            assert asking.states(other) == {}

    def test_a_session_of_another_user(self, driver_database: FreshDatabase) -> None:
        server = driver_database.running_server
        url = server.url(user=server.admin_user, password=None)
        if url.get_backend_name() == "mysql":
            url = url.update_query_dict({"unix_socket": str(server.socket_path)})
        else:
            url = url.set(host=str(server.socket_path.parent), database="postgres")
        with client(driver_database.url) as asking, client(url) as other:
            assert asking.states(other) == {}


class TestLimits:
    def test_without_the_privilege_a_transaction_of_mariadb_counts_as_idle(
        self, mariadb_url: sa.URL
    ) -> None:
        make_table(mariadb_url)
        with client(mariadb_url) as asking, client(mariadb_url) as other:
            other.execute("UPDATE notes SET id = 2")
            assert asking.states(other) == {other.number: "idle"}

    def test_a_session_that_is_lost_is_an_error(
        self, driver_database: FreshDatabase
    ) -> None:
        url = driver_database.url
        with client(url) as asking, client(url) as other:
            driver_connection = asking.raw
            driver_database.running_server.kill_session(asking.number)
            with pytest.raises(Exception) as caught:  # noqa: PT011 # any driver's
                asking.family.sessions(driver_connection, only=[other.number])
            assert asking.family.means_lost(caught.value)
            asking.connection.invalidate()


class TestNothingIsLeftBehind:
    @pytest.mark.usefixtures("process_privilege")
    def test_no_transaction_is_open(self, driver_database: FreshDatabase) -> None:
        url = driver_database.url
        server = driver_database.running_server
        make_table(url)
        with client(url) as asking, client(url) as other:

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
        with client(url) as asking, client(url) as other:
            asking.execute("CREATE TEMPORARY TABLE mine (id INTEGER) ON COMMIT DROP")
            asking.states(other)
            asking.execute("SELECT * FROM mine")
