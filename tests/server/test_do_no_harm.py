"""What worked without the guard works with it: stock and guarded, side by side."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
from flask import Response
from flask.globals import _cv_app
from flask_executor import Executor
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import (
    Session,
    scoped_session,
    sessionmaker,
)

from flask_poolguard import ConnectionReturned, LeakError
from flask_poolguard.tracking import shared_contexts
from flask_poolguard.tracking.current_scope import MERGED
from tests.conftest import Database
from tests.support.side_by_side import ADD, COUNT, Row, World, both, make_world, outcome

LOGGER = "flask_poolguard"


class Mine(Exception):
    """Raised by a teardown function of the app's."""


# Objects that use a connection: how to make one, and how to add a row with it.
Taker = Callable[[sa.Engine], Any]


def _raw_add(raw: Any) -> None:
    raw.cursor().execute(ADD.text)


def _used(engine: sa.Engine) -> Any:
    """Return a scoped session that has made this thread's session already."""
    sessions = scoped_session(sessionmaker(engine))
    sessions()
    return sessions


TAKERS: dict[str, tuple[Taker, Callable[[Any], Any]]] = {
    "session": (Session, lambda each: each.execute(ADD)),
    "flushed": (Session, lambda each: (each.add(Row(name="row")), each.flush())),
    "scoped": (lambda engine: _used(engine), lambda each: each.execute(ADD)),
    "connection": (lambda engine: engine.connect(), lambda each: each.execute(ADD)),
    "raw": (lambda engine: engine.raw_connection(), _raw_add),
}
takers = pytest.mark.parametrize("kind", TAKERS)


class TestOwnFunctions:
    """The app's own teardown functions run, or not, as without the guard."""

    def commit_in_a_subclass(self, world: World) -> object:
        world.app.post("/")(lambda: str(bool(world.db.session.execute(ADD))))
        return world.client.post("/").status_code, world.rows()

    class CommitAtTheEnd(SQLAlchemy):
        """Saves what a request did."""

        def _teardown_session(self, exc: BaseException | None) -> None:
            if exc is None:
                self.session.commit()
            super()._teardown_session(exc)

    def test_an_override_of_the_extensions_teardown(self, database: Database) -> None:
        stock, guarded = both(
            database.url, self.commit_in_a_subclass, self.CommitAtTheEnd
        )
        assert stock == guarded == (200, ["row"])

    @pytest.mark.parametrize("is_before", [True, False])
    def test_a_function_that_commits(self, database: Database, is_before: bool) -> None:
        def program(world: World) -> object:
            def save(exc: BaseException | None) -> None:
                world.db.session.commit()

            functions = world.app.teardown_appcontext_funcs
            functions.insert(0 if is_before else len(functions), save)
            before = list(functions)
            world.app.post("/")(lambda: str(bool(world.db.session.execute(ADD))))
            world.client.post("/")
            return world.rows(), functions == before

        stock, guarded = both(database.url, program)
        assert stock == guarded == ([] if is_before else ["row"], True)

    @pytest.mark.parametrize("where", ["instance", "class", "list"])
    def test_a_session_that_a_suite_keeps_alive(
        self, database: Database, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def program(world: World) -> object:
            sessions = scoped_session(sessionmaker(world.engine))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(world.db, "session", sessions)
                if where == "list":
                    patch.setattr(world.app, "teardown_appcontext_funcs", [])
                else:
                    target: Any = sessions if where == "instance" else scoped_session
                    patch.setattr(target, "remove", lambda *_: None)

                @world.app.post("/")
                def view() -> str:
                    sessions.add(Row(name="new"))
                    sessions.flush()
                    return "ok"

                seen = sessions.scalar(COUNT)
                row = Row(name="mine")
                sessions.add(row)
                world.client.post("/")
                seen = seen, sessions.scalar(COUNT), row.name, row in sessions
            sessions.remove()
            return seen

        stock, guarded = both(database.url, program)
        assert stock == guarded == (0, 2, "mine", True)

    def test_a_mock_for_the_session(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        def program(world: World) -> object:
            world.app.get("/")(lambda: str(world.db.session.get(Row, 1)))
            with mock.patch.object(world.db, "session") as session:
                session.get.return_value = 7
                return world.client.get("/").text, session.remove.call_count

        assert both(sqlite_url, program) == (("7", 1), ("7", 1))
        assert not caplog.records

    def test_what_the_extension_raises_for_a_plain_session_is_not_the_apps(
        self, sqlite_url: sa.URL
    ) -> None:
        """Better than stock, where the context cannot be popped."""

        def program(world: World) -> object:
            with world.app.app_context():
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(world.db, "session", Session(world.engine))
                    world.app.do_teardown_appcontext(None)
                return "ended"

        assert both(sqlite_url, program) == ("AttributeError", "ended")

    def test_a_session_whose_removal_another_function_prevented_is_ended(
        self, database: Database
    ) -> None:
        def program(world: World) -> object:
            def fail(exc: BaseException | None) -> None:
                raise Mine

            world.app.teardown_appcontext_funcs.append(fail)

            @world.app.post("/")
            def view() -> str:
                world.kept.append(world.db.session())
                world.db.session.execute(ADD)
                return "ok"

            with pytest.raises(Mine):
                world.client.post("/")
            return world.engine.pool.checkedout(), world.rows()  # type: ignore[attr-defined] # a QueuePool's

        if not MERGED:
            assert both(database.url, program) == ((1, []), (0, []))


class TestOwnershipByBirth:
    """What is older than a bare context, or a thread's own, stays as it is."""

    @takers
    @pytest.mark.parametrize("made", ["before", "begun", "in a thread"])
    @pytest.mark.parametrize("depth", [1, 2])
    def test_what_is_older_than_a_context_saves_all_its_rows(
        self, database: Database, kind: str, made: str, depth: int
    ) -> None:
        make, add = TAKERS[kind]

        def work(world: World) -> None:
            own = make(world.engine)
            if made == "begun":
                add(own)
            for _ in range(3):
                with world.app.app_context():
                    if depth == 2:
                        with world.app.app_context():
                            add(own)
                    else:
                        add(own)
            own.commit()
            own.close()

        def program(world: World) -> object:
            if made == "in a thread":
                thread = threading.Thread(target=work, args=(world,))
                thread.start()
                thread.join()
            else:
                work(world)
            return len(world.rows())

        stock, guarded = both(database.url, program)
        assert stock == guarded == (4 if made == "begun" else 3)

    def test_a_session_of_the_test_that_a_request_uses(
        self, database: Database
    ) -> None:
        def program(world: World) -> object:
            own = Session(world.engine)

            @world.app.post("/")
            def view() -> str:
                own.execute(ADD)
                return "ok"

            world.client.post("/")
            own.commit()
            return len(world.rows())

        assert both(database.url, program) == (1, 1)

    @takers
    @pytest.mark.parametrize("use", ["commit", "execute"])
    def test_what_is_taken_away_is_never_committed_into_nothing(
        self, database: Database, kind: str, use: str
    ) -> None:
        """Stock saves the row; guarded there is an error that says what happened."""
        make, add = TAKERS[kind]

        def program(world: World) -> object:
            with world.app.app_context():
                own = world.keep(make(world.engine))
                add(own)
            try:
                if use == "commit":
                    own.commit()
                elif kind == "raw":
                    own.cursor()
                else:
                    own.execute(COUNT)
            except Exception as error:
                cause = getattr(error, "orig", None) or error
                assert isinstance(cause, ConnectionReturned)
                own.rollback()
                return str(cause)
            return "saved"

        stock, guarded = both(database.url, program)
        assert stock == "saved"
        assert isinstance(guarded, str)
        for word in ("taken back", "test_do_no_harm.py:", "guard.keep("):
            assert word in guarded

    def test_after_a_rollback_the_old_owner_goes_on(self, database: Database) -> None:
        world = make_world(database.url, guarded=True)
        with world.app.app_context():
            connection = world.keep(world.engine.connect())
            connection.execute(ADD)
        with pytest.raises(sa.exc.StatementError) as raised:
            connection.execute(ADD)
        assert isinstance(raised.value.orig, ConnectionReturned)
        connection.rollback()
        connection.execute(ADD)
        connection.commit()
        connection.close()
        assert world.rows() == ["row"]
        world.engine.dispose()


class TestObjects:
    """A clean session is ended without expiring what it has loaded."""

    @pytest.mark.parametrize("is_dirty", [False, True])
    def test_only_what_was_changed_is_expired(
        self, database: Database, is_dirty: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = make_world(database.url, guarded=True)
        with Session(world.engine) as session:
            session.add(Row(name="old"))
            session.commit()
        sessions = scoped_session(sessionmaker(world.engine))

        @world.app.get("/")
        def view() -> str:
            row = world.keep(sessions.scalars(sa.select(Row)).one())
            if is_dirty:
                row.name = "new"
                sessions.add_all(world.keep([Row(name="a"), Row(name="b")]))
                sessions.flush()
            return "ok"

        world.client.get("/")
        (line,) = [each.getMessage() for each in caplog.records]
        assert ("2 new, 1 changed" in line) is is_dirty
        assert "remove()" in line
        assert sa.inspect(world.kept[0]).expired is is_dirty
        assert world.rows() == ["old"]
        sessions.remove()
        world.engine.dispose()

    def test_a_session_that_only_read_goes_on_in_the_next_request(
        self, database: Database
    ) -> None:
        def program(world: World) -> object:
            sessions = scoped_session(sessionmaker(world.engine))

            @world.app.get("/")
            def view() -> str:
                return str(sessions.scalar(COUNT))

            texts = [world.client.get("/").text for _ in range(3)]
            sessions.commit()
            sessions.remove()
            return texts

        stock, guarded = both(database.url, program)
        assert stock == guarded == ["0", "0", "0"]


class TestReset:
    """A leak is rolled back, whatever the pool does on return."""

    @takers
    @pytest.mark.parametrize("reset", ["rollback", None, "commit"])
    @pytest.mark.parametrize("end", ["forgotten", "collected", "in a cycle"])
    def test_half_of_a_request_is_never_committed(
        self, database: Database, kind: str, reset: str | None, end: str
    ) -> None:
        make, add = TAKERS[kind]
        world = make_world(
            database.url,
            guarded=True,
            SQLALCHEMY_ENGINE_OPTIONS={"pool_reset_on_return": reset},
        )

        @world.app.post("/half")
        def half() -> str:
            own = make(world.engine)
            add(own)
            if end == "forgotten":
                world.keep(own)
            elif end == "in a cycle":
                cycle = [own]
                cycle.append(cycle)
            return "ok"

        @world.app.post("/other")
        def other() -> str:
            with world.engine.connect() as connection:
                connection.execute(sa.text("INSERT INTO harm (name) VALUES ('other')"))
                connection.commit()
            return "ok"

        world.client.post("/half")
        gc.collect()
        world.client.post("/other")
        assert world.rows() == ["other"]
        world.kept.clear()
        world.engine.dispose()

    def test_a_two_phase_transaction_is_closed(self, database: Database) -> None:
        if database.server is None:
            return  # SQLite knows none
        world = make_world(database.url, guarded=True)

        @world.app.post("/")
        def view() -> str:
            connection = world.keep(world.engine.connect())
            connection.begin_twophase()
            connection.execute(ADD)
            return "ok"

        leaks = []
        from flask_poolguard import connection_leaked

        def note(sender: object, leak: Any) -> None:
            leaks.append(leak)

        with connection_leaked.connected_to(note, world.app):
            world.client.post("/")
        assert [each.action for each in leaks] == ["discarded"]
        assert "rolled back" in leaks[0].reason
        assert world.rows() == []
        world.kept.clear()
        world.engine.dispose()


class TestNothingShared:
    """What may still be used is closed, or kept; no other request gets it."""

    def leaked(self, world: World, misuse: Callable[[], Any]) -> Any:
        """Return the leak of a view."""
        from flask_poolguard import connection_leaked

        leaks: list[Any] = []

        def note(sender: object, leak: Any) -> None:
            leaks.append(leak)

        world.app.get("/")(lambda: str(bool(world.keep(misuse()))))
        with connection_leaked.connected_to(note, world.app):
            world.client.get("/")
        (leak,) = leaks
        return leak

    @pytest.mark.parametrize(
        "kind", ["connection", "raw", "isolation", "autocommit", "pool"]
    )
    def test_only_a_plain_connection_is_used_again(
        self, database: Database, kind: str
    ) -> None:
        world = make_world(database.url, guarded=True)

        def misuse() -> Any:
            if kind == "raw":
                return world.engine.raw_connection()
            if kind == "pool":
                return world.engine.pool.connect()
            connection = world.engine.connect()
            if kind == "isolation":
                level = "SERIALIZABLE"
                return connection.execution_options(isolation_level=level)
            if kind == "autocommit":
                driver: Any = connection.connection.dbapi_connection
                if database.url.drivername.startswith("mysql"):
                    driver.autocommit(True)
                elif database.url.drivername == "sqlite":
                    driver.isolation_level = None
                else:
                    driver.autocommit = True
            return connection

        leak = self.leaked(world, misuse)
        assert leak.action == ("returned" if kind == "connection" else "discarded")
        assert bool(leak.reason) is (kind != "connection")
        world.kept.clear()
        world.engine.dispose()

    @takers
    def test_what_is_kept_outlives_its_scope(
        self, database: Database, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        make, add = TAKERS[kind]
        world = make_world(database.url, guarded=True, POOLGUARD_ON_LEAK="raise")
        assert world.guard is not None

        @world.app.post("/")
        def view() -> str:
            own = world.keep(world.guard.keep(make(world.engine)))  # type: ignore[union-attr] # it is guarded
            add(own)
            return "ok"

        assert world.client.post("/").status_code == 200
        with world.app.app_context():
            report = world.guard.report()
        (holder,) = report.workers[0].pools[0].holders
        assert holder.kept
        assert "test_do_no_harm.py:" in str(holder.site)
        (own,) = world.kept
        own.commit()
        own.close()
        assert world.rows() == ["row"]
        assert not caplog.records
        world.engine.dispose()

    def test_keep_says_what_it_takes(self, sqlite_url: sa.URL) -> None:
        world = make_world(sqlite_url, guarded=True)
        assert world.guard is not None
        with pytest.raises(TypeError, match="not Engine"):
            world.guard.keep(world.engine)

    def test_a_lock_taken_at_start_up_is_left_with_its_owner(
        self, mariadb_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        lock = f"{mariadb_url.database}.harm"  # such names are the whole server's

        def program(world: World) -> object:
            with world.app.app_context():
                own = world.keep(world.engine.connect())
                own.scalar(sa.text(f"SELECT GET_LOCK('{lock}', 0)"))
            is_used = f"SELECT IS_USED_LOCK('{lock}') = CONNECTION_ID()"
            used = own.scalar(sa.text(is_used))
            own.close()
            return used

        assert both(mariadb_url, program) == (1, 1)
        assert "guard.keep(connection)" in caplog.text


class TestEndOfTheResponse:
    @pytest.mark.parametrize("streams", [True, False])
    def test_callbacks_run_before_what_the_view_took_is_judged(
        self, database: Database, streams: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        def program(world: World) -> object:
            @world.app.post("/")
            def view() -> Response:
                connection = world.engine.connect()
                connection.execute(ADD)

                def done() -> None:
                    connection.commit()
                    connection.close()

                response = Response(iter("ok") if streams else "ok")
                response.call_on_close(done)
                return response

            response = world.client.post("/")
            text = response.text
            response.close()
            return text, world.rows()

        stock, guarded = both(database.url, program)
        assert stock == guarded == ("ok", ["row"])
        assert not caplog.records


class TestThreadsThatDie:
    def test_what_they_took_comes_back_with_the_next_checkout_that_needs_it(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = make_world(
            database.url,
            guarded=True,
            POOLGUARD_POOL_SIZE=2,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_POOL_TIMEOUT=5,
        )

        def job() -> None:
            world.app.app_context().push()
            world.db.session.execute(ADD)

        for _ in range(4):
            thread = threading.Thread(target=job)
            thread.start()
            thread.join()
        with world.engine.connect() as connection:
            assert connection.scalar(COUNT) == 0
        assert "its app context was never popped" in caplog.text
        world.engine.dispose()


@pytest.mark.skipif(MERGED, reason="each request has a context of its own there")
class TestSharedContext:
    """Flask before 3.2 pushes no context for a request within one of the same app."""

    @pytest.fixture
    def world(self, database: Database) -> Iterator[World]:
        """Push a context for good."""
        world = make_world(
            database.url,
            guarded=True,
            POOLGUARD_POOL_SIZE=2,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_POOL_TIMEOUT=1,
        )
        with world.app.app_context():
            yield world
        world.kept.clear()
        world.engine.dispose()

    def test_what_a_request_takes_is_back_when_it_ends(self, world: World) -> None:
        world.app.get("/")(
            lambda: str(world.keep(world.engine.connect()).scalar(COUNT))
        )
        assert [world.client.get("/").status_code for _ in range(5)] == [200] * 5

    def test_the_session_of_the_context_stays(self, world: World) -> None:
        world.app.post("/")(lambda: str(bool(world.db.session.execute(ADD))))
        world.client.post("/")
        assert world.db.session.scalar(COUNT) == 1
        world.db.session.commit()
        assert world.rows() == ["row"]

    def test_one_warning_says_where_the_context_was_pushed(
        self,
        world: World,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(shared_contexts, "_told_of_shared", set())
        world.app.get("/")(lambda: "ok")
        with world.app.app_context():
            for _ in range(4):
                world.client.get("/")
        (line,) = [each.getMessage() for each in caplog.records]
        assert "share an app context" in line
        assert "test_do_no_harm.py:" in line

    def test_raise_fails_the_request_that_leaked(self, database: Database) -> None:
        world = make_world(database.url, guarded=True)
        world.app.config["POOLGUARD_ON_LEAK"] = "raise"
        world.app.get("/")(lambda: str(bool(world.keep(world.engine.connect()))))
        with world.app.app_context(), pytest.raises(LeakError):
            world.client.get("/")
        world.kept.clear()
        world.engine.dispose()


class TestCopiesOfG:
    def test_flask_executor(self, database: Database) -> None:
        world = make_world(database.url, guarded=True)
        executor = Executor(world.app)

        @world.app.get("/")
        def view() -> str:
            world.keep(world.engine.connect()).scalar(COUNT)
            job = executor.submit(lambda: world.db.session.scalar(COUNT))
            return str(job.result())

        for _ in range(3):
            assert world.client.get("/").text == "0"
            assert world.engine.pool.checkedout() == 0  # type: ignore[attr-defined] # a QueuePool's
        executor.shutdown()
        world.kept.clear()
        world.engine.dispose()


@pytest.mark.process
class TestFork:
    def test_an_inherited_session_takes_a_connection_of_its_own(
        self, postgresql_url: sa.URL
    ) -> None:
        world = make_world(postgresql_url, guarded=True)
        pid = sa.text("SELECT pg_backend_pid()")
        with world.app.app_context():
            mine = world.db.session.scalar(pid)
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.write(write, str(world.db.session.scalar(pid)).encode())
                finally:
                    os._exit(0)
            os.close(write)
            theirs = int(os.read(read, 20) or 0)
            os.close(read)
            os.waitpid(child, 0)
            assert theirs not in (0, mine)
            assert world.db.session.scalar(pid) == mine
        world.engine.dispose()


def test_nothing_is_left_current() -> None:
    assert _cv_app.get(None) is None


def test_an_outcome_names_what_is_raised(sqlite_url: sa.URL) -> None:
    def program(world: World) -> object:
        raise Mine

    logging.getLogger(LOGGER).debug("both worlds")
    assert outcome(make_world(sqlite_url, guarded=False), program) == "Mine"
