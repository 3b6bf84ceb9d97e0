"""Whose a server's sessions are, as a report joins them with the workers' files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import URL, Connection, NullPool, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from flask_poolguard.cli.holders_view import held_now
from flask_poolguard.report import Detail, Report, Session, make_report, servers
from flask_poolguard.state import process
from tests.conftest import Database
from tests.support import not_tested
from tests.support.guarded_app import session_id
from tests.support.pgbouncer import PgBouncer
from tests.support.proxy import SilentServer
from tests.support.reporting import (
    MakeShop,
    Shop,
    found,
    server_in,
    wait_for_questions,
)
from tests.support.servers import APP_USER, DatabaseServer, MissingServerError
from tests.support.waiting import wait_until

# The server's list has the sessions of all its clients.
pytestmark = [pytest.mark.every_product, pytest.mark.usefixtures("own_server")]

HOST = socket.gethostname()


def report_of(shop: Shop, detail: Detail = Detail.SESSIONS) -> Report:
    """Return a report that asked for sessions."""
    shop.report()  # so that the app has looked for its engines
    state = shop.app.extensions["poolguard"]
    with shop.app.app_context():
        return make_report(shop.app, state.config, state.engines, detail=detail)


@contextmanager
def client(url: URL, name: str = "") -> Iterator[Connection]:
    """Hold a session that no guard knows of, on PostgreSQL with a name."""
    arguments = {"application_name": name} if name else {}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    with engine.connect() as connection:
        connection.rollback()
        yield connection


def owned(report: Report, number: int) -> Session:
    """Return one session of the default bind's server."""
    sessions = server_in(report).sessions
    assert sessions is not None
    (session,) = [each for each in sessions if each.id == number]
    return session


def label(pid: int, app: str = "shop", host: str = HOST) -> str:
    """Return the label of some process."""
    return f"{app}@{host}:{pid}"


@pytest.fixture
def dead_pid() -> int:
    """Return the number of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(30)
    return process.pid


@pytest.fixture
def live_pid() -> Iterator[int]:
    """Return the number of a process that began before this test's sessions."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


class TestWorkers:
    def test_have_those_in_their_pools(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        with shop.app.test_request_context("/"):
            connection = shop.engines["default"].connect()
            number = session_id(connection)
            held = owned(report_of(shop), number)
            connection.close()
        idle = owned(report_of(shop), number)
        assert (held.owner, held.host, held.pid) == ("worker", HOST, os.getpid())
        assert held.bind == "default"
        assert held.held_seconds is not None
        assert held.site is not None
        assert held.site.startswith("tests/") or "test_report_sessions" in held.site
        assert (idle.owner, idle.bind) == ("worker", "default")
        assert (idle.endpoint, idle.site, idle.held_seconds) == (None, None, None)
        assert idle.state == "idle"

    def test_share_the_sessions_of_a_server_that_two_binds_are_on(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        url = served_database.url
        shop = make_shop(default=create_engine(url), other=create_engine(url))
        shop.use("default")
        shop.use("other")
        report = report_of(shop)
        first, second = report.servers
        assert first.sessions == second.sessions
        assert first.sessions is not None
        ours = [each.bind for each in first.sessions if each.owner == "worker"]
        assert sorted(map(str, ours)) == ["default", "other"]

    def test_have_those_that_carry_their_label_only(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        shop.use()
        with client(postgresql_url, label(os.getpid())) as connection:
            session = owned(report_of(shop), session_id(connection))
        assert (session.owner, session.pid) == ("worker", os.getpid())
        assert session.bind is None


class TestOthers:
    def test_are_nobodys(self, make_shop: MakeShop, served_database: Database) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        with client(served_database.url) as connection:
            session = owned(report_of(shop), session_id(connection))
        assert (session.owner, session.host, session.pid) == (None, None, None)
        assert session.user == APP_USER

    @pytest.mark.parametrize("name", ["psql", label(1, "till"), "shop@", "shop@x:y"])
    def test_are_nobodys_by_other_names(
        self, make_shop: MakeShop, postgresql_url: URL, name: str
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url, name) as connection:
            session = owned(report_of(shop), session_id(connection))
        assert (session.owner, session.label) == (None, name)

    def test_on_other_hosts_are_known_by_their_label(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        name = label(os.getpid(), host="elsewhere.example.org")
        with client(postgresql_url, name) as connection:
            session = owned(report_of(shop), session_id(connection))
        assert session.owner == "other-host"
        assert (session.host, session.pid) == ("elsewhere.example.org", os.getpid())

    @pytest.mark.process
    def test_that_live_here_without_a_state_file_are_processes(
        self, make_shop: MakeShop, postgresql_url: URL, live_pid: int
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url, label(live_pid)) as connection:
            session = owned(report_of(shop), session_id(connection))
        assert (session.owner, session.pid) == ("process", live_pid)

    def test_never_include_who_asks(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        url = served_database.url
        shop = make_shop(default=create_engine(url), other=create_engine(url))
        wait_until(
            lambda: (
                not served_database.running_server.session_ids(database=url.database)
            ),
            what="the end of all others",
        )
        sessions = server_in(report_of(shop)).sessions
        assert sessions is not None
        assert [each for each in sessions if each.database == url.database] == []


@pytest.mark.process
class TestOrphans:
    def test_are_of_processes_that_are_gone(
        self, make_shop: MakeShop, postgresql_url: URL, dead_pid: int
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url, label(dead_pid)) as connection:
            session = owned(report_of(shop), session_id(connection))
        assert (session.owner, session.host, session.pid) == ("orphan", HOST, dead_pid)

    def test_are_not_of_a_younger_process_with_the_same_number(
        self,
        make_shop: MakeShop,
        postgresql_url: URL,
        live_pid: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url, label(live_pid)) as connection:
            number = session_id(connection)
            assert owned(report_of(shop), number).owner == "process"
            # As if the session had been open for long when the process began.
            monkeypatch.setattr(
                "flask_poolguard.report.session_owners._TOLERANCE_SECONDS", -3600.0
            )
            assert owned(report_of(shop), number).owner == "orphan"

    def test_that_idle_are_no_finding(
        self, make_shop: MakeShop, postgresql_url: URL, dead_pid: int
    ) -> None:
        # PgBouncer keeps the sessions, and the names, of clients that are gone.
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url, label(dead_pid)):
            report = report_of(shop)
        assert not found(report, "orphan")

    def test_that_hold_a_transaction_are_one(
        self,
        make_shop: MakeShop,
        postgresql_url: URL,
        dead_pid: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        seconds = "flask_poolguard.report.rules.orphaned_sessions._ORPHANED_SECONDS"
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url, label(dead_pid)) as connection:
            connection.exec_driver_sql("SELECT 1")
            number = session_id(connection)
            monkeypatch.setattr(seconds, 3600.0)
            assert not found(report_of(shop), "orphan")
            monkeypatch.setattr(seconds, 0.0)
            (finding,) = found(report_of(shop), "orphan")
        assert finding.level == "warning"
        assert f"keeps transactions open for pid {dead_pid} " in finding.message
        assert f"session {number} for " in finding.message
        assert f"SELECT pg_terminate_backend({number})" in finding.fix


class TestProxies:
    @pytest.mark.process
    def test_that_number_otherwise_leave_labels_to_go_by_and_say_so(
        self,
        make_shop: MakeShop,
        postgresql_url: URL,
        dead_pid: int,
    ) -> None:
        try:
            pooler = PgBouncer(postgresql_url)
        except MissingServerError as error:
            not_tested.stop_test(str(error))
        with pooler:
            shop = make_shop(default=create_engine(pooler.url))
            shop.use()
            with (
                client(postgresql_url, label(os.getpid())) as labelled,
                client(postgresql_url, label(dead_pid)) as left_behind,
                client(postgresql_url, "psql") as named,
            ):
                report = report_of(shop)
                session = owned(report, session_id(labelled))
                others = [owned(report, session_id(c)) for c in (left_behind, named)]
            shop.engines["default"].dispose()
        assert (session.owner, session.pid, session.bind) == (
            "worker",
            os.getpid(),
            None,
        )
        # Idle sessions keep the label of whoever had them last.
        assert [each.owner for each in others] == ["unknown", "unknown"]
        assert [each.pid for each in others] == [None, None]
        assert any("PgBouncer" in each for each in server_in(report).sessions_hidden)

    def test_are_not_suspected_where_the_server_has_the_drivers_numbers(
        self, make_shop: MakeShop, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        # One that is out is not replaced meanwhile.
        with shop.app.app_context(), shop.engines["default"].connect() as mine:
            postgresql.kill_session(session_id(mine))
            with client(postgresql_url, "psql") as named:
                report = report_of(shop)
                session = owned(report, session_id(named))
            mine.invalidate()
        assert session.owner is None
        assert not any(
            "knows none" in each for each in server_in(report).sessions_hidden
        )

    @pytest.mark.process
    def test_that_give_anothers_number_do_not_give_its_session(
        self, make_shop: MakeShop, postgresql_url: URL, dead_pid: int
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with shop.app.app_context(), shop.engines["default"].connect() as connection:
            number = session_id(connection)
            name = label(dead_pid)
            connection.exec_driver_sql(f"SET application_name = '{name}'")
            session = owned(report_of(shop), number)
        assert session.owner == "orphan"


@contextmanager
def believing(shop: Shop, number: int, *, out: bool = False) -> Iterator[None]:
    """Let the pool's one connection be known by another session's number, as after the
    server has restarted.
    """
    with shop.app.app_context(), shop.engines["default"].connect() as connection:
        (guarded,) = shop.app.extensions["poolguard"].engines
        (record,) = guarded.tracker.out
        guarded.tracker.region.show_connected(record, number)
        if out:
            yield
            connection.invalidate()
            return
    yield


class TestNumbersThatWereGivenAnew:
    NO_LABEL: ClassVar = {"POOLGUARD_LABEL": False}

    @pytest.mark.parametrize("out", [True, False])
    def test_are_told_by_the_missing_label(
        self, make_shop: MakeShop, postgresql_url: URL, out: bool
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url) as connection:
            number = session_id(connection)
            with believing(shop, number, out=out):
                session = owned(report_of(shop), number)
        assert (session.owner, session.pid, session.bind) == (None, None, None)

    @pytest.mark.parametrize("out", [True, False])
    def test_cannot_be_told_where_all_is_the_same(
        self, make_shop: MakeShop, postgresql_url: URL, out: bool
    ) -> None:
        shop = make_shop(self.NO_LABEL, default=create_engine(postgresql_url))
        with client(postgresql_url) as connection:
            number = session_id(connection)
            with believing(shop, number, out=out):
                assert owned(report_of(shop), number).owner == "worker"

    def test_are_told_by_the_user(
        self, make_shop: MakeShop, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        postgresql.execute("CREATE USER teller PASSWORD 'x'")
        shop = make_shop(self.NO_LABEL, default=create_engine(postgresql_url))
        try:
            with client(postgresql_url.set(username="teller", password="x")) as other:
                number = session_id(other)
                with believing(shop, number):
                    session = owned(report_of(shop), number)
        finally:
            wait_until(lambda: not postgresql.session_ids(user="teller"), what="end")
            postgresql.execute("DROP USER teller")
        assert (session.owner, session.user) == (None, "teller")

    def test_are_told_by_the_database(
        self, make_shop: MakeShop, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        shop = make_shop(self.NO_LABEL, default=create_engine(postgresql_url))
        name = postgresql.create_database()
        try:
            with client(postgresql_url.set(database=name)) as other:
                number = session_id(other)
                with believing(shop, number):
                    session = owned(report_of(shop), number)
        finally:
            postgresql.drop_database(name)
        assert (session.owner, session.database) == (None, name)

    @pytest.mark.parametrize("out", [True, False])
    def test_are_told_by_a_session_that_is_younger_than_the_connection(
        self,
        make_shop: MakeShop,
        postgresql_url: URL,
        out: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shop = make_shop(self.NO_LABEL, default=create_engine(postgresql_url))
        with client(postgresql_url) as connection:
            number = session_id(connection)
            # As if the session had begun long after the connection was taken.
            monkeypatch.setattr(
                "flask_poolguard.report.session_owners._TOLERANCE_SECONDS", -3600.0
            )
            with believing(shop, number, out=out):
                assert owned(report_of(shop), number).owner is None

    def test_are_told_on_mariadb_by_one_that_works_while_the_connection_idles(
        self, make_shop: MakeShop, mariadb_url: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        with client(mariadb_url) as connection:
            number = session_id(connection)
            monkeypatch.setattr(
                "flask_poolguard.report.session_owners._TOLERANCE_SECONDS", -3600.0
            )
            with believing(shop, number, out=True):
                assert owned(report_of(shop), number).owner == "worker"
            with believing(shop, number):
                assert owned(report_of(shop), number).owner is None


class TestConnectionsThatAreMadeOtherwise:
    """What looks like a stranger's, and is not."""

    def test_by_a_creator_carry_no_label_and_are_known(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        plain = create_engine(postgresql_url)

        def connect() -> Any:
            arguments, keywords = plain.dialect.create_connect_args(plain.url)
            return plain.dialect.connect(*arguments, **keywords)

        engine = create_engine(postgresql_url, creator=connect)
        shop = make_shop(default=engine)
        with shop.app.app_context(), engine.connect() as connection:
            session = owned(report_of(shop), session_id(connection))
        assert (session.owner, session.label) == ("worker", "")

    def test_as_a_user_whom_a_listener_names_are_known(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        engine = create_engine(postgresql_url.set(username="nobody"))

        @event.listens_for(engine, "do_connect")
        def log_in(
            _: object, __: object, ___: object, keywords: dict[str, Any]
        ) -> None:
            keywords["user"] = postgresql_url.username

        shop = make_shop({"POOLGUARD_LABEL": False}, default=engine)
        with shop.app.app_context(), engine.connect() as connection:
            session = owned(report_of(shop), session_id(connection))
        assert session.owner == "worker"

    def test_and_went_to_another_database_are_known(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url))
        engine = shop.engines["default"]
        with shop.app.app_context(), engine.connect() as connection:
            connection.exec_driver_sql("USE information_schema")
            session = owned(report_of(shop), session_id(connection))
            connection.invalidate()
        assert (session.owner, session.database) == ("worker", "information_schema")


class TestUnasked:
    def test_servers_list_nothing(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        server = server_in(shop.report())
        assert (server.sessions, server.sessions_hidden) == (None, ())

    def test_sqlite_has_none_and_needs_no_reason(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        server = server_in(report_of(make_shop(default=create_engine(sqlite_url))))
        assert (server.sessions, server.sessions_hidden) == (None, ())

    def test_async_drivers_are_said_not_to_be_asked(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        url = postgresql_url.set(drivername="postgresql+psycopg_async")
        shop = make_shop(default=create_async_engine(url).sync_engine)
        server = server_in(report_of(shop))
        assert server.sessions is None
        (reason,) = server.sessions_hidden
        assert "asynchronous" in reason

    def test_servers_that_do_not_answer_are_said_not_to(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        with SilentServer() as silent:
            shop = make_shop(default=create_engine(mariadb_url.set(port=silent.port)))
            began_at = time.monotonic()
            state = shop.app.extensions["poolguard"]
            with shop.app.app_context():
                shop.guard.report()
                report = make_report(
                    shop.app, state.config, state.engines, detail=Detail.SESSIONS
                )
            # Two reports, of two seconds at most each.
            assert time.monotonic() - began_at < 6
        wait_for_questions()
        server = server_in(report)
        assert server.sessions is None
        assert "did not answer" in server.sessions_hidden[0]


class TestOpenQuestions:
    @pytest.mark.parametrize("detail", [Detail.SESSIONS, Detail.STATEMENTS])
    def test_for_less_are_not_taken_for_an_answer(
        self, make_shop: MakeShop, postgresql_url: URL, detail: Detail
    ) -> None:
        engine = create_engine(postgresql_url)
        shop = make_shop(default=engine)
        go_on, begun = threading.Event(), []
        shop.report()

        @event.listens_for(engine, "do_connect")
        def hold_the_first_up(*_: object) -> None:
            begun.append(threading.current_thread())
            if len(begun) == 1:
                go_on.wait(30)

        state = shop.app.extensions["poolguard"]
        less = Detail(detail - 1)
        with shop.app.app_context(), client(postgresql_url) as connection:
            number = session_id(connection)
            (question,) = servers.begin(state.engines, less)
            try:
                session = owned(report_of(shop, detail), number)
            finally:
                go_on.set()
                question.wait()
        assert (session.statement is None) == (detail < Detail.STATEMENTS)
        wait_for_questions()

    def test_for_more_are_joined(self, make_shop: MakeShop, mariadb_url: URL) -> None:
        with SilentServer() as silent:
            shop = make_shop(default=create_engine(mariadb_url.set(port=silent.port)))
            report_of(shop, Detail.STATEMENTS)
            asked = silent.connections
            report_of(shop, Detail.SESSIONS)
            assert silent.connections == asked
        wait_for_questions()


class TestStatements:
    def test_are_shown_only_if_asked_for(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url) as connection:
            number = session_id(connection)
            without = owned(report_of(shop), number)
            with_sql = owned(report_of(shop, Detail.STATEMENTS), number)
        assert without.statement is None
        assert with_sql.statement == "SELECT pg_backend_pid()"


class TestSeveralUsers:
    def test_see_together_what_one_of_them_may_see(
        self, make_shop: MakeShop, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        postgresql.execute("CREATE USER teller PASSWORD 'x'")
        url = postgresql_url.set(username="teller", password="x")
        try:
            shop = make_shop(
                default=create_engine(postgresql_url), b=create_engine(url)
            )
            with ExitStack() as stack:
                mine = stack.enter_context(client(postgresql_url))
                theirs = stack.enter_context(client(url))
                report = report_of(shop)
                sessions = [owned(report, session_id(each)) for each in (mine, theirs)]
        finally:
            wait_until(lambda: not postgresql.session_ids(user="teller"), what="end")
            postgresql.execute("DROP USER teller")
        assert [each.user for each in sessions] == [APP_USER, "teller"]
        assert [each.state for each in sessions] == ["idle", "idle"]


class TestIdleTransactions:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a moment be long enough."""
        monkeypatch.setattr(
            "flask_poolguard.report.rules.orphaned_sessions._IDLE_SECONDS", 0.0
        )

    def test_are_named_with_endpoint_and_line(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        reports = []

        def view() -> str:
            with shop.engines["default"].connect() as connection:
                connection.exec_driver_sql("SELECT 1")
                reports.append(report_of(shop))
            return "done"

        shop.app.add_url_rule("/slow", "slow", view)
        shop.app.test_client().get("/slow")
        (finding,) = found(reports[0], "idle-in-transaction")
        assert finding.level == "warning"
        assert finding.message.startswith("slow keeps 1 connection of bind 'default'")
        site = f"{Path(__file__).name}:"
        assert site in finding.message
        assert site in finding.fix

    def test_of_a_view_that_runs_a_query_or_none_are_no_finding(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with shop.app.app_context(), shop.engines["default"].connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            connection.rollback()
            assert not found(report_of(shop), "idle-in-transaction")

    def test_of_strangers_are_no_finding(
        self, make_shop: MakeShop, postgresql_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(postgresql_url))
        with client(postgresql_url) as connection:
            connection.exec_driver_sql("SELECT 1")
            assert not found(report_of(shop), "idle-in-transaction")


class TestHolders:
    def test_are_shown_with_what_their_session_does(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        with shop.app.app_context(), shop.engines["default"].connect() as connection:
            number = session_id(connection)
            connection.rollback()
            report = report_of(shop)
        (held,) = held_now(report)
        assert (held.server_id, held.bind, held.pid) == (
            number,
            "default",
            os.getpid(),
        )
        assert held.state == "idle"
        assert held_now(report, min_seconds=3600) == ()

    def test_have_an_unknown_state_where_the_server_does_not_say(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        with shop.app.app_context(), shop.engines["default"].connect():
            (held,) = held_now(report_of(shop))
        assert (held.state, held.state_seconds) == (None, None)


@pytest.mark.process
class TestProcessAge:
    def test_is_known_of_live_processes(self, live_pid: int) -> None:
        age = process.age_seconds(live_pid)
        own = process.age_seconds(os.getpid())
        assert age is not None
        assert own is not None
        assert 0 <= age <= own < 7 * 86400

    def test_is_none_without_one(self, dead_pid: int) -> None:
        assert process.age_seconds(dead_pid) is None
        assert process.age_seconds(10**10) is None

    def test_is_none_of_a_zombie(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        try:
            wait_until(lambda: process.age_seconds(pid) is None, what="a zombie")
            assert Path(f"/proc/{pid}").exists()
        finally:
            os.waitpid(pid, 0)

    def test_is_without_end_where_the_system_does_not_say(
        self, live_pid: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(time, "CLOCK_BOOTTIME")
        assert process.age_seconds(live_pid) == float("inf")
