"""The errors that people search for say what caused them, and what to do."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event, exc
from sqlalchemy.orm import Session

from flask_poolguard import PoolGuard
from flask_poolguard.engines.error_facts import ErrorFacts
from tests.conftest import Database
from tests.support.database_server import APP_PASSWORD
from tests.support.drivers import POSTGRESQL_DRIVERS
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import (
    engine_of,
    guarded_engine,
    make_app,
    session_id,
)
from tests.support.mysql_peer import MySQLPeer
from tests.support.servers import DatabaseServer, MariaDBServer, PostgreSQLServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product

ONE = sa.text("SELECT 1")
PREFIX = "Flask-PoolGuard: "

View = Callable[[Session], Any]


def session_of(app: Flask) -> Session:
    """Return the session of the current context."""
    extension: SQLAlchemy = app.extensions["sqlalchemy"]
    return extension.session()


def take(session: Session) -> int:
    """Take a connection; return its session's number."""
    return session_id(session.connection())


TAKEN_AT = f"{os.path.basename(__file__)}:{inspect.getsourcelines(take)[1] + 2}"


def fail(session: Session) -> None:
    """Run a statement on a connection that is lost."""
    session.execute(ONE)


LOST_AT = f"{os.path.basename(__file__)}:{inspect.getsourcelines(fail)[1] + 2}"


def flush(session: Session) -> None:
    """Send what is new."""
    session.flush()


def connection_options(**arguments: Any) -> dict[str, Any]:
    """Return the app's config that gives a driver's connect these arguments."""
    return {"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": arguments}}


class Logged:
    """What the app has logged of the error of a view."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.ERROR, "shop")
        self._caplog = caplog

    def of(self, app: Flask, view: View, route: str = "/export") -> str:
        """Request a view, which must fail; return the whole text that was logged."""
        app.add_url_rule(route, "export", lambda: str(view(session_of(app))))
        response = app.test_client().get(route)
        assert response.status_code in (500, 503), response.text
        engine_of(app).dispose()
        text = self._caplog.text
        assert APP_PASSWORD not in text
        assert text.count(PREFIX) == 1, text
        return text


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Return what the app logs."""
    return Logged(caplog)


def until_ended(server: DatabaseServer, number: int) -> None:
    """Wait until the server has ended a session by itself."""
    wait_until(lambda: number not in server.session_ids(), what="the session's end")


def idle_connection(app: Flask) -> None:
    """Leave one connection more than this thread has in the pool."""
    engine = engine_of(app)
    with engine.connect(), engine.connect():
        pass


FLUSHED_AT = f"{os.path.basename(__file__)}:{inspect.getsourcelines(flush)[1] + 2}"


class ReplacedError(Exception):
    """What a listener of the app's raises in place of the driver's error."""


class StrikeError(BaseException):
    """What a gevent.Timeout is."""


def replace_error(context: Any) -> BaseException:
    """Listen to errors as an app may."""
    return ReplacedError()


def strike(*_: Any) -> None:
    """Raise as if from outside."""
    raise StrikeError


def refuse(*_: Any) -> None:
    """Refuse an object, as a listener of the app's may."""
    raise ValueError("no")


REFUSED_AT = f"{os.path.basename(__file__)}:{inspect.getsourcelines(refuse)[1] + 2}"


def hammer(engine: sa.Engine) -> list[BaseException]:
    """Use one connection in two threads until each meets an error, or is done."""
    errors: list[BaseException] = []
    connection = engine.connect()

    def work() -> None:
        try:
            for _ in range(200):
                connection.exec_driver_sql("SELECT REPEAT('x', 50000)").all()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, name=f"hammer-{n}") for n in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    raw: Any = (
        connection.connection.dbapi_connection
        if not (connection.closed or connection.invalidated)
        else None
    )
    if raw is not None:
        raw._force_close()
    with contextlib.suppress(Exception):
        connection.invalidate()
    with contextlib.suppress(Exception):
        connection.close()
    return errors


def swallow(session: Session, database: Database) -> str:
    """Catch the error of a lost connection, and go on."""
    database.running_server.kill_session(take(session))
    with pytest.raises(exc.DBAPIError):
        fail(session)
    return str(session.scalar(ONE))


def leave_half_an_answer(connection: sa.Connection) -> None:
    """Read only the first packet, as another thread or a Timeout makes happen."""
    raw: Any = connection.connection.dbapi_connection
    raw._execute_command(3, "SELECT 1")
    raw._read_packet()


def make_item(app: Flask) -> Any:
    """Return a model whose table has been made."""
    database: Any = app.extensions["sqlalchemy"]

    class Item(database.Model):  # type: ignore[misc] # a class made at run time
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String(50))

    with app.app_context():
        database.create_all()
    return Item


class FullServer:
    """A server on which somebody else has all connections that are left."""

    def __init__(self, kind: type[DatabaseServer]) -> None:
        is_mysql = kind is MariaDBServer
        settings: dict[str, Any] = {"max_connections": 10}
        if not is_mysql:
            settings["superuser_reserved_connections"] = 5
        self.server = kind(**settings)
        self.text = (
            "(1040, 'Too many connections"
            if is_mysql
            else "remaining connection slots are reserved"
        )
        self._others = ExitStack()

    def __enter__(self) -> FullServer:
        self.server.start()
        self.url = self.server.url(database=self.server.create_database())
        return self

    def __exit__(self, *_: object) -> None:
        self._others.close()
        self.server.close()

    def occupy(self) -> None:
        """Take what is left."""
        other = sa.create_engine(self.url, poolclass=sa.NullPool)
        for _ in range(20):
            try:
                self._others.enter_context(other.connect())
            except exc.OperationalError:
                return
        pytest.fail("there is no end of room")


def note_of(error: BaseException) -> str:
    """Return the one note of ours that an error carries."""
    (note,) = [each for each in error.__notes__ if each.startswith(PREFIX)]
    return note


class TestIdle:
    """2006, 2013, 4031, and what PostgreSQL's drivers say."""

    def test_held_for_longer_than_wait_timeout(
        self, mariadb_url: sa.URL, mariadb: DatabaseServer, logged: Logged
    ) -> None:
        options = connection_options(init_command="SET SESSION wait_timeout = 1")
        app = make_app(mariadb_url, **options)

        def view(session: Session) -> None:
            until_ended(mariadb, take(session))
            fail(session)

        text = logged.of(app, view)
        assert "(2006, " in text or "(2013, " in text
        assert "export took this connection of bind 'default' at" in text
        assert TAKEN_AT in text
        assert re.search(rf"before it was lost at \S*{LOST_AT}\.", text)
        assert (
            "most likely idling: the server ends sessions that idle for longer than 1 s"
            in text
        )
        assert "(wait_timeout 1 s)" in text
        assert "Remedy: commit and give the connection back before slow work" in text

    @pytest.mark.parametrize(("number", "code"), [(0, "2013"), (1, "4031")])
    def test_mysql_says_so_itself(self, number: int, code: str, logged: Logged) -> None:
        with MySQLPeer(wait_timeout=0.3, goodbye_number=number) as peer:
            app = make_app(peer.url)

            def view(session: Session) -> None:
                take(session)
                assert peer.timed_out.wait(10)
                fail(session)

            text = logged.of(app, view)
        assert f"({code}, " in text
        assert TAKEN_AT in text
        assert "idle for longer than 0.3 s (wait_timeout 0.3 s)" in text

    @pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
    def test_idle_in_transaction(
        self,
        driver: str,
        postgresql_url: sa.URL,
        postgresql: DatabaseServer,
        logged: Logged,
    ) -> None:
        limit = "-c idle_in_transaction_session_timeout=300"
        url = postgresql_url.set(drivername=driver)
        app = make_app(url, **connection_options(options=limit))

        def view(session: Session) -> None:
            until_ended(postgresql, take(session))
            fail(session)

        text = logged.of(app, view)
        if driver.endswith("psycopg"):
            assert "terminating connection due to idle-in-transaction timeout" in text
        assert TAKEN_AT in text
        assert "idle within a transaction for longer than 0.3 s" in text
        assert "(idle_in_transaction_session_timeout)" in text
        assert "Remedy: commit and give the connection back" in text

    @pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
    def test_idle_session_timeout(
        self, driver: str, postgresql_url: sa.URL, postgresql: DatabaseServer
    ) -> None:
        url = postgresql_url.set(drivername=driver)
        options = connection_options(options="-c idle_session_timeout=300")
        with (
            guarded_engine(url, **options) as engine,
            engine.connect() as connection,
        ):
            number = session_id(connection)
            connection.commit()
            until_ended(postgresql, number)
            with pytest.raises(exc.DBAPIError) as caught:
                connection.execute(ONE)
        assert "idle_session_timeout 0.3 s" in note_of(caught.value)


class TestEnded:
    def test_killed_alone_is_told_from_a_restart(
        self, served_database: Database, logged: Logged
    ) -> None:
        app = make_app(served_database.url)
        idle_connection(app)

        def view(session: Session) -> None:
            served_database.running_server.kill_session(take(session))
            fail(session)

        text = logged.of(app, view)
        assert TAKEN_AT in text
        assert "this session only; 1 other connection of this process is well" in text
        assert "KILL" in text

    @pytest.mark.parametrize("driver", ["postgresql+psycopg"])
    def test_killed_alone_where_the_server_says_terminated(
        self, driver: str, postgresql_url: sa.URL, postgresql: DatabaseServer
    ) -> None:
        app = make_app(postgresql_url.set(drivername=driver))
        idle_connection(app)
        engine = engine_of(app)
        with engine.connect() as connection:
            postgresql.kill_session(session_id(connection))
            with pytest.raises(exc.DBAPIError) as caught:
                connection.execute(ONE)
        engine.dispose()
        assert "Cause: another client ended this session" in note_of(caught.value)

    @pytest.mark.usefixtures("own_server")
    def test_a_server_that_goes_down_takes_the_others_with_it(
        self, served_database: Database, logged: Logged
    ) -> None:
        app = make_app(served_database.url)
        idle_connection(app)

        def view(session: Session) -> None:
            take(session)
            served_database.running_server.kill()
            fail(session)

        text = logged.of(app, view)
        assert "down" in text or "shut down or crashed" in text
        assert "1 other connection of this process ended with it" in text
        assert "POOLGUARD_CONNECT_RETRY" in text

    @pytest.mark.usefixtures("own_server")
    def test_connections_in_use_tell_as_well(self, served_database: Database) -> None:
        with (
            guarded_engine(served_database.url) as engine,
            engine.connect() as one,
            engine.connect() as other,
        ):
            served_database.running_server.kill()
            notes = []
            for connection in (one, other):
                with pytest.raises(exc.DBAPIError) as caught:
                    connection.execute(ONE)
                notes.append(note_of(caught.value))
        assert "restarted or crashed" in notes[0]
        assert "1 other connection of this process ended with it" in notes[1]

    def test_two_that_idled_too_long_are_no_restart(
        self, mariadb_url: sa.URL, mariadb: DatabaseServer
    ) -> None:
        options = connection_options(init_command="SET SESSION wait_timeout = 1")
        with (
            guarded_engine(mariadb_url, **options) as engine,
            engine.connect() as one,
            engine.connect() as other,
        ):
            numbers = [session_id(connection) for connection in (one, other)]
            for number in numbers:
                until_ended(mariadb, number)
            for connection in (one, other):
                with pytest.raises(exc.DBAPIError) as caught:
                    connection.execute(ONE)
                assert "wait_timeout 1 s" in note_of(caught.value)
                assert "ended with it" not in note_of(caught.value)

    def test_a_read_timeout_of_the_user(
        self, mariadb_url: sa.URL, logged: Logged
    ) -> None:
        app = make_app(mariadb_url, **connection_options(read_timeout=1))

        def view(session: Session) -> None:
            take(session)
            session.execute(sa.text("SELECT SLEEP(30)"))

        text = logged.of(app, view)
        assert "(2013, " in text
        assert TAKEN_AT in text
        assert "Cause: the driver waited for as long as its read_timeout of 1 s" in text
        assert "raise read_timeout in connect_args" in text

    def test_a_statement_that_is_too_big(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL, logged: Logged
    ) -> None:
        # By default MariaDB takes 16 MiB, MySQL 64.
        length = 70_000_000 if mariadb.product == "MySQL" else 20_000_000
        app = make_app(mariadb_url)
        idle_connection(app)

        def view(session: Session) -> None:
            take(session)
            session.execute(sa.text("SELECT LENGTH(:x)"), {"x": "x" * length})

        text = logged.of(app, view)
        assert TAKEN_AT in text
        assert f"{length / 1e6:.1f} MB" in text
        assert "max_allowed_packet" in text

    def test_tls_closed(self, logged: Logged) -> None:
        with PostgreSQLServer(tls=True) as server:
            url = server.url(database=server.create_database())
            app = make_app(url.update_query_dict(server.tls_query()))
            idle_connection(app)

            def view(session: Session) -> None:
                server.kill_session(take(session))
                fail(session)

            text = logged.of(app, view)
        assert "SSL connection has been closed unexpectedly" in text
        assert TAKEN_AT in text
        assert "this session only" in text


class TestNoRoom:
    """1040, `remaining connection slots are reserved`, `QueuePool limit of size`."""

    @pytest.fixture(params=[MariaDBServer, PostgreSQLServer])
    def full(self, request: pytest.FixtureRequest) -> Iterator[FullServer]:
        with FullServer(request.param) as full:
            yield full

    def test_at_the_very_first_connect(self, full: FullServer, logged: Logged) -> None:
        app = make_app(full.url, POOLGUARD_CONNECT_RETRY=0.2)
        full.occupy()
        text = logged.of(app, take)
        assert "DatabaseUnavailable" in text
        assert full.text in text
        assert "has 0 connections of at most 15" in text
        assert "(POOLGUARD_POOL_SIZE 5 + POOLGUARD_MAX_OVERFLOW 10)" in text
        assert "flask pool doctor" in text
        assert "Lower POOLGUARD_MAX_OVERFLOW" in text

    def test_while_this_pool_has_connections_in_use(
        self, full: FullServer, logged: Logged
    ) -> None:
        app = make_app(full.url, POOLGUARD_POOL_TIMEOUT=0.5)
        engine = engine_of(app)
        with engine.connect():
            full.occupy()
            text = logged.of(app, take)
        assert "PoolTimeout" in text
        assert full.text in text
        assert "has 1 connection of at most 15" in text
        assert "Lower POOLGUARD_MAX_OVERFLOW" in text

    def test_a_full_server_is_not_one_that_went_down(self, full: FullServer) -> None:
        with (
            guarded_engine(full.url, POOLGUARD_POOL_TIMEOUT=0.3) as engine,
            engine.connect() as connection,
        ):
            number = session_id(connection)
            full.occupy()
            with pytest.raises(exc.TimeoutError):
                engine.connect()
            full.server.kill_session(number)
            with pytest.raises(exc.DBAPIError) as caught:
                connection.execute(ONE)
        assert "went down" not in note_of(caught.value)

    def test_without_a_pool(self, full: FullServer) -> None:
        with guarded_engine(full.url, POOLGUARD_POOL_CLASS="null") as engine:
            full.occupy()
            with pytest.raises(exc.OperationalError) as caught:
                engine.connect()
        assert "Bind 'default' of this process has 0 connections." in (
            note_of(caught.value)
        )

    def test_a_pool_whose_connections_are_held_for_too_long(
        self, database: Database, logged: Logged
    ) -> None:
        size = {"POOLGUARD_POOL_SIZE": 1, "POOLGUARD_MAX_OVERFLOW": 0}
        app = make_app(database.url, POOLGUARD_POOL_TIMEOUT=0.2, **size)
        with engine_of(app).connect():
            text = logged.of(app, lambda session: session.connection())
        assert "QueuePool limit of size 1 overflow 0 reached" in text
        assert "1 of them is held for longer than the 0.20 s of pool_timeout" in text
        assert "at the lines that the error names" in text
        assert os.path.basename(__file__) in text
        assert "Remedy: give them back there" in text

    @pytest.mark.usefixtures("own_server")
    def test_a_server_that_is_away(
        self, served_database: Database, logged: Logged
    ) -> None:
        app = make_app(served_database.url, POOLGUARD_CONNECT_RETRY=0.2)
        served_database.running_server.stop()
        text = logged.of(app, take)
        assert "Cause: the server is down or restarts" in text
        assert "POOLGUARD_CONNECT_RETRY = 0.2 s" in text


class TestOutOfStep:
    """`Packet sequence number wrong`, and one connection in two processes."""

    def test_another_thread_than_the_one_that_took_it(
        self, mariadb_url: sa.URL
    ) -> None:
        found: list[str] = []

        def work(connection: sa.Connection) -> None:
            leave_half_an_answer(connection)
            with pytest.raises(exc.DBAPIError) as caught:
                connection.execute(ONE)
            assert "Packet sequence number wrong" in str(caught.value)
            found.append(note_of(caught.value))

        with guarded_engine(mariadb_url) as engine, engine.connect() as connection:
            thread = threading.Thread(target=work, args=[connection], name="mailer")
            thread.start()
            thread.join(20)
        (note,) = found
        assert "thread 'MainThread' took it at" in note
        assert "thread 'mailer' uses it at" in note
        assert f"{os.path.basename(__file__)}:" in note
        assert "a Session or Connection of its own" in note

    def test_two_threads_at_the_same_time(self, mariadb_url: sa.URL) -> None:
        """Which error PyMySQL meets is chance: not each is one of its own."""
        notes: list[str] = []
        with guarded_engine(mariadb_url) as engine:
            for _ in range(20):
                errors = hammer(engine)
                notes += [
                    note_of(each) for each in errors if hasattr(each, "__notes__")
                ]
                if any("use it at the same time" in each for each in notes):
                    break
        assert any(
            re.search(
                r"thread 'hammer-\d' and thread 'hammer-\d' at \S*"
                rf"{os.path.basename(__file__)}:\d+ in work use it at the same time",
                each,
            )
            for each in notes
        ), notes

    def test_within_one_thread(self, mariadb_url: sa.URL, logged: Logged) -> None:
        app = make_app(mariadb_url)

        def view(session: Session) -> None:
            take(session)
            leave_half_an_answer(session.connection())
            fail(session)

        text = logged.of(app, view)
        assert "Packet sequence number wrong" in text
        assert TAKEN_AT in text
        assert "call invalidate() on the Session or Connection" in text

    @pytest.mark.process
    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_a_connection_that_was_opened_before_the_fork(
        self, postgresql_url: sa.URL, postgresql: DatabaseServer
    ) -> None:
        with (
            guarded_engine(postgresql_url) as engine,
            engine.connect() as connection,
        ):
            postgresql.kill_session(session_id(connection))

            def work() -> str:
                try:
                    connection.execute(ONE)
                except exc.DBAPIError as error:
                    return note_of(error)
                return "no error"

            note = in_child(work, fork=fork_without_hooks)
            connection.invalidate()
        assert f"process {os.getpid()} opened it and forked this one" in note
        assert "gunicorn --preload" in note


class TestPending:
    """`Can't reconnect until invalid transaction is rolled back` and its like."""

    def test_names_the_error_that_the_view_has_swallowed(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(served_database.url)
        app.add_url_rule(
            "/export", "export", lambda: swallow(session_of(app), served_database)
        )
        assert app.test_client().get("/export").status_code == 500
        engine_of(app).dispose()
        text = caplog.text
        assert "Can't reconnect until invalid transaction is rolled back" in text
        assert re.search(rf"was, at \S*{LOST_AT} \(SELECT\), \d", text)
        assert re.search(r"\n  OperationalError: \S", text)
        assert "Cause: the code caught that error and went on without a roll" in text
        assert "Of that error: the line was closed without a word" in text
        assert "Remedy: call rollback()" in text
        assert text.count(PREFIX) == 1
        assert APP_PASSWORD not in text

    def test_within_a_command(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        app = make_app(mariadb_url)
        database = Database(mariadb_url, mariadb)
        app.cli.command("export")(lambda: swallow(session_of(app), database))
        error = app.test_cli_runner().invoke(args=["export"]).exception
        engine_of(app).dispose()
        assert isinstance(error, exc.PendingRollbackError)
        assert LOST_AT in note_of(error)

    def test_within_a_script(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        app = make_app(mariadb_url)
        with pytest.raises(exc.PendingRollbackError) as caught, app.app_context():
            swallow(session_of(app), Database(mariadb_url, mariadb))
        engine_of(app).dispose()
        assert LOST_AT in note_of(caught.value)

    def test_an_error_handler_of_the_apps_sees_it(
        self, mariadb: DatabaseServer, mariadb_url: sa.URL
    ) -> None:
        app, database = make_app(mariadb_url), Database(mariadb_url, mariadb)
        app.register_error_handler(Exception, note_of)
        app.add_url_rule("/", "index", lambda: swallow(session_of(app), database))
        assert LOST_AT in app.test_client().get("/").text
        engine_of(app).dispose()

    def test_names_the_error_of_a_flush(
        self, database: Database, logged: Logged
    ) -> None:
        app = make_app(database.url)
        item = make_item(app)

        def view(session: Session) -> None:
            for _ in range(2):
                session.add(item(id=1, name="private"))
                try:
                    flush(session)
                except exc.IntegrityError:
                    continue
                session.expunge_all()
            fail(session)

        text = logged.of(app, view)
        assert "transaction has been rolled back due to a previous exception" in text
        assert re.search(rf"was, at \S*{FLUSHED_AT} \(INSERT\), \d", text)
        note = text[text.index(PREFIX) :]
        assert re.search("  (IntegrityError|UniqueViolation): ", note)
        assert "private" not in note

    def test_names_an_error_that_no_driver_raised(
        self, sqlite_url: sa.URL, logged: Logged
    ) -> None:
        app = make_app(sqlite_url)
        item = make_item(app)

        event.listen(item, "before_insert", refuse)

        def view(session: Session) -> None:
            session.add(item(id=1))
            with pytest.raises(ValueError, match="no"):
                flush(session)
            fail(session)

        text = logged.of(app, view)
        assert re.search(rf"was, at \S*{REFUSED_AT}:", text)
        assert "  ValueError: no" in text


class TestEveryNote:
    """What holds for all of them."""

    def lose(self, engine: sa.Engine, server: DatabaseServer) -> exc.DBAPIError:
        with engine.connect() as connection:
            server.kill_session(session_id(connection))
            with pytest.raises(exc.DBAPIError) as caught:
                connection.execute(ONE)
            return caught.value

    def test_outside_any_request(self, served_database: Database) -> None:
        with guarded_engine(served_database.url) as engine:
            error = self.lose(engine, served_database.running_server)
        assert "(outside any request) took this connection" in note_of(error)
        assert APP_PASSWORD not in "".join(traceback.format_exception(error))

    def test_leaves_the_error_as_it_is(self, served_database: Database) -> None:
        server = served_database.running_server
        stock = sa.create_engine(served_database.url)
        expected = self.lose(stock, server)
        stock.dispose()
        with guarded_engine(served_database.url) as engine:
            error = self.lose(engine, server)
        assert type(error) is type(expected)
        assert type(error.orig) is type(expected.orig)
        assert error.args[0].startswith(expected.args[0][:30])
        assert not hasattr(error.orig, "__notes__")

    def test_is_told_when_a_listener_of_the_apps_raises_its_own_error(
        self, mariadb_url: sa.URL, mariadb: DatabaseServer, logged: Logged
    ) -> None:
        app = make_app(mariadb_url)
        event.listen(engine_of(app), "handle_error", replace_error)

        def view(session: Session) -> None:
            mariadb.kill_session(take(session))
            fail(session)

        text = logged.of(app, view)
        assert "ReplacedError" in text.partition(PREFIX)[0]
        assert TAKEN_AT in text

    def test_is_told_when_a_listener_did_so_before(
        self, mariadb_url: sa.URL, mariadb: DatabaseServer
    ) -> None:
        engine = sa.create_engine(mariadb_url)
        event.listen(engine, "handle_error", replace_error)
        app = Flask("shop")
        PoolGuard(app).register(engine)
        with app.app_context(), engine.connect() as connection:
            mariadb.kill_session(session_id(connection))
            with pytest.raises(ReplacedError) as caught:
                connection.execute(ONE)
        engine.dispose()
        assert "bind 'default'" in note_of(caught.value)

    def test_a_fault_of_its_own_leaves_the_error_alone(
        self,
        mariadb_url: sa.URL,
        mariadb: DatabaseServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        called = []

        def break_down(*_: Any) -> None:
            called.append(1)
            raise RuntimeError

        monkeypatch.setattr(ErrorFacts, "lost", break_down)
        with guarded_engine(mariadb_url) as engine:
            error = self.lose(engine, mariadb)
        assert called
        assert not hasattr(error, "__notes__")

    def test_errors_of_statements_have_none(self, database: Database) -> None:
        with (
            guarded_engine(database.url) as engine,
            engine.connect() as connection,
            pytest.raises(exc.DBAPIError) as caught,
        ):
            connection.execute(sa.text("SELECT nonsense FROM nowhere"))
        assert not hasattr(caught.value, "__notes__")

    def test_what_strikes_from_outside_has_none(self, mariadb_url: sa.URL) -> None:
        with guarded_engine(mariadb_url) as engine, engine.connect() as connection:
            event.listen(connection, "before_cursor_execute", strike)
            event.listen(engine, "before_cursor_execute", strike)
            with pytest.raises(StrikeError) as caught:
                connection.execute(ONE)
        assert not hasattr(caught.value, "__notes__")
