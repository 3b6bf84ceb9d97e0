"""What several use at once (a connection, a context, ``g``) is left to all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
from flask import Flask, Response, appcontext_popped, g, request
from flask.globals import _cv_app
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session as ExtensionSession
from sqlalchemy.orm import (
    Session,
    object_session,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import SingletonThreadPool, StaticPool
from werkzeug.test import EnvironBuilder

from flask_poolguard import ConnectionReturned, PoolGuard
from flask_poolguard.tracking.current_scope import MERGED
from flask_poolguard.tracking.dead_threads import dead_threads
from tests.conftest import Database
from tests.support.side_by_side import ADD, COUNT, Row, World, both, make_world

LOST = "did not give back"


def in_a_thread(function: Callable[[], object]) -> None:
    """Run a function in a thread that then ends."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


class TestContextOfSeveralThreads:
    @pytest.mark.parametrize("is_first", [True, False])
    def test_one_that_dies_ends_nothing_of_the_others(
        self, database: Database, is_first: bool
    ) -> None:
        def program(world: World) -> object:
            context = world.app.app_context()
            if is_first:
                in_a_thread(context.push)
            context.push()
            world.db.session.execute(ADD)
            if not is_first:
                in_a_thread(context.push)
            dead_threads.tend()
            world.db.session.commit()
            world.db.session.remove()
            # Flask cannot pop what was pushed elsewhere.

            _cv_app.reset(context._cv_tokens[0 if not is_first else 1])
            return world.rows()

        stock, guarded = both(database.url, program)
        assert stock == guarded == ["row"]

    def test_the_last_that_dies_ends_it(self, database: Database) -> None:
        world = make_world(database.url, guarded=True)
        context = world.app.app_context()

        def use() -> None:
            context.push()
            world.db.session.execute(ADD)

        in_a_thread(use)
        in_a_thread(use)
        dead_threads.tend()
        assert world.engine.pool.checkedout() == 0  # type: ignore[attr-defined] # a QueuePool's
        assert world.rows() == []
        world.engine.dispose()

    def test_objects_stay_in_their_session(self, database: Database) -> None:
        def program(world: World) -> object:
            with world.app.app_context():
                world.db.session.execute(ADD)
                world.db.session.commit()
            context = world.app.app_context()
            with ThreadPoolExecutor(2, initializer=context.push) as executor:
                row = executor.submit(lambda: world.db.session.get(Row, 1)).result()
            assert row is not None
            dead_threads.tend()
            return row.name, object_session(row) is not None

        stock, guarded = both(database.url, program)
        assert stock == guarded == ("row", True)


class TestDriversConnection:
    """A pool may give everybody, or all in a thread, the same one."""

    @pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool])
    def test_a_leak_rolls_back_nobody_else(
        self, database: Database, pool: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def program(world: World) -> object:
            outer = Session(world.engine)
            outer.execute(ADD)

            @world.app.get("/")
            def view() -> str:
                return str(world.keep(Session(world.engine)).scalar(COUNT))

            world.client.get("/")
            outer.commit()
            outer.close()
            return world.rows()

        options = {"poolclass": pool}
        stock, guarded = both(database.url, program, SQLALCHEMY_ENGINE_OPTIONS=options)
        assert stock == guarded == ["row"]

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_each_of_a_static_pool_is_known(
        self, database: Database, is_kept: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = make_world(
            database.url,
            guarded=True,
            SQLALCHEMY_ENGINE_OPTIONS={"poolclass": StaticPool},
        )
        assert world.guard is not None
        with world.app.app_context():
            first = world.keep(world.engine.connect())
            if is_kept:
                world.guard.keep(first)
            with world.engine.connect():
                pass
        assert (LOST in caplog.text) is not is_kept
        if is_kept:
            assert first.scalar(COUNT) == 0
        first.close()
        world.kept.clear()
        world.engine.dispose()

    def test_keep_says_that_a_connection_is_none_of_its_own(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = make_world(sqlite_url, guarded=True)
        assert world.guard is not None
        engine = sa.create_engine(sqlite_url)
        with world.app.app_context(), engine.connect() as connection:
            world.guard.keep(connection)
        assert "no guarded pool of this app gave out" in caplog.text


class TestMark:
    """A session that lost something is told until it is rolled back or closed."""

    @pytest.mark.parametrize("end", ["rollback", "close"])
    def test_until_it_is_ended(self, database: Database, end: str) -> None:
        world = make_world(database.url, guarded=True)
        with world.app.app_context():
            own = world.keep(Session(world.engine))
            own.execute(ADD)
        for _ in range(2):
            with pytest.raises(ConnectionReturned):
                own.commit()
        with pytest.raises(ConnectionReturned):
            own.execute(ADD)
        with pytest.raises(ConnectionReturned):
            own.commit()
        getattr(own, end)()
        own.execute(ADD)
        own.commit()
        own.close()
        assert world.rows() == ["row"]
        world.kept.clear()
        world.engine.dispose()

    @pytest.mark.parametrize("end", ["rollback", "close"])
    def test_one_that_is_ended_at_once_is_told_nothing(
        self, database: Database, end: str
    ) -> None:
        def program(world: World) -> object:
            with world.app.app_context():
                own = world.keep(Session(world.engine))
                own.execute(ADD)
            getattr(own, end)()
            own.execute(ADD)
            own.commit()
            own.close()
            return world.rows()

        stock, guarded = both(database.url, program)
        assert stock == guarded == ["row"]

    def test_a_savepoint_that_is_open(self, database: Database) -> None:
        def program(world: World) -> object:
            with Session(world.engine) as session:
                session.execute(ADD)
                session.commit()
            with world.app.app_context():
                own = world.keep(Session(world.engine))
                row = own.scalars(sa.select(Row)).one()
                own.add(Row(name="outer"))
                own.begin_nested()
                own.add(Row(name="inner"))
                own.flush()
            own.rollback()
            own.add(Row(name="later"))
            own.commit()
            is_in = row in own
            own.close()
            return is_in, world.rows()

        stock, guarded = both(database.url, program)
        assert stock == guarded == (True, ["row", "later"])


class Wrapper:
    """An app's own, around what it took."""

    def __init__(self, taken: Any) -> None:
        self.taken = taken


@pytest.mark.skipif(MERGED, reason="each request has a context of its own there")
class TestGOfASharedContext:
    @pytest.mark.parametrize("kind", ["connection", "raw", "session", "wrapped"])
    def test_what_is_on_it_is_closed_by_the_app(
        self, database: Database, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        makers: dict[str, Callable[[World], Any]] = {
            "connection": lambda world: world.engine.connect(),
            "raw": lambda world: world.engine.raw_connection(),
            "session": lambda world: Session(world.engine),
            "wrapped": lambda world: Wrapper([world.engine.connect()]),
        }

        def get_db(world: World) -> Any:
            if "db" not in g:
                g.db = makers[kind](world)
            return g.db.taken[0] if kind == "wrapped" else g.db

        def program(world: World) -> object:
            @world.app.teardown_appcontext
            def close(error: BaseException | None) -> None:
                if "db" in g:
                    own = get_db(world)
                    own.commit()
                    own.close()

            @world.app.post("/")
            def view() -> str:
                own = get_db(world)
                if kind == "raw":
                    own.cursor().execute(ADD.text)
                else:
                    own.execute(ADD)
                return "ok"

            with world.app.app_context():
                answers = [world.client.post("/").status_code for _ in range(3)]
            return answers, len(world.rows())

        stock, guarded = both(database.url, program)
        assert stock == guarded == ([200] * 3, 3)
        assert LOST not in caplog.text


class Middleware:
    """Commits what a view left in ``environ`` when the view is done."""

    def __init__(self, wsgi_app: Any) -> None:
        self.wsgi_app = wsgi_app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer, then commit."""
        body = self.wsgi_app(environ, start_response)
        environ["session"].commit()
        environ["session"].close()
        return body


class TestAfterTheRequestsContext:
    """What runs within the WSGI call may use what the view took."""

    def test_middleware(self, database: Database) -> None:
        def prepare(app: Flask) -> None:
            app.wsgi_app = Middleware(app.wsgi_app)  # type: ignore[method-assign] # as Flask wants it

        def program(world: World) -> object:
            @world.app.post("/")
            def view() -> str:

                own = request.environ["session"] = Session(world.engine)
                own.execute(ADD)
                return "ok"

            return world.client.post("/").status_code, world.rows()

        stock, guarded = both(database.url, program, prepare=prepare)
        assert stock == guarded == (200, ["row"])

    def test_a_receiver_of_the_signal(self, database: Database) -> None:
        def program(world: World) -> object:
            sessions = scoped_session(sessionmaker(world.engine))

            @appcontext_popped.connect_via(world.app)
            def save(sender: Flask, **extra: object) -> None:
                sessions.commit()
                sessions.remove()

            world.app.post("/")(lambda: str(bool(sessions.execute(ADD))))
            return world.client.post("/").status_code, world.rows()

        stock, guarded = both(database.url, program)
        assert stock == guarded == (200, ["row"])


class TestStreams:
    def test_two_that_one_thread_reads_in_turns(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        def program(world: World) -> object:
            def read() -> Iterator[str]:
                with Session(world.engine) as session:
                    for _ in range(3):
                        yield str(session.scalar(COUNT))

            world.app.get("/")(lambda: Response(read()))
            bodies = []
            for _ in range(2):
                environ = EnvironBuilder("/").get_environ()
                body = world.app(environ, lambda *args: lambda data: None)
                bodies.append((body, iter(body)))
                next(bodies[-1][1])
            found = [next(each) for _ in range(2) for _, each in bodies]
            for body, _ in bodies:
                body.close()  # type: ignore[attr-defined] # as PEP 3333 has it
            return found

        stock, guarded = both(database.url, program)
        assert stock == guarded == [b"0"] * 4
        assert LOST not in caplog.text

    @pytest.mark.parametrize("status", [200, 404, 500])
    def test_one_of_an_error_reads_what_the_view_took(
        self, database: Database, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        def program(world: World) -> object:
            @world.app.get("/")
            def view() -> Response:
                connection = world.engine.connect()

                def read() -> Iterator[str]:
                    with connection:
                        yield str(connection.scalar(COUNT))

                return Response(read(), status=status)

            response = world.client.get("/")
            return response.status_code, response.text

        stock, guarded = both(database.url, program)
        assert stock == guarded == (status, "0")
        assert LOST not in caplog.text


class Cannot(ExtensionSession):
    """A session of the app's own, which cannot be closed."""

    def close(self) -> None:
        """Raise what has nothing to do with a server."""
        super().close()
        raise ValueError


class OwnG:
    """Of an app that has its own; it has no ``get()``."""


class TestOddApps:
    def test_what_the_apps_own_session_raises(self, database: Database) -> None:
        """Better than stock: it is logged, and the other functions run."""

        def program(world: World) -> object:
            calls: list[str] = []
            world.app.teardown_appcontext_funcs.insert(
                0, lambda error: calls.append("first")
            )
            try:
                with world.app.app_context():
                    world.db.session.execute(COUNT)
            except ValueError:
                return "raised", calls
            return "passed", calls

        stock, guarded = both(
            database.url,
            program,
            lambda: SQLAlchemy(session_options={"class_": Cannot}),
        )
        assert (stock, guarded) == (("raised", []), ("passed", ["first"]))

    def test_a_mock_in_place_of_the_extension(self) -> None:
        app = Flask("odd")
        app.extensions["sqlalchemy"] = mock.Mock()
        PoolGuard(app)
        app.get("/")(lambda: "ok")
        assert app.test_client().get("/").text == "ok"

    def test_a_class_of_its_own_for_g(self, database: Database) -> None:
        def program(world: World) -> object:
            world.app.app_ctx_globals_class = OwnG  # type: ignore[assignment] # an app may
            world.app.get("/")(lambda: str(world.db.session.scalar(COUNT)))
            return [world.client.get("/").text for _ in range(2)]

        stock, guarded = both(database.url, program)
        assert stock == guarded == ["0", "0"]

    def test_a_scopefunc_that_raises_at_the_end(self, database: Database) -> None:
        """Better than stock: it is logged, and the answer stays as it is."""

        def program(world: World) -> object:
            world.app.get("/")(lambda: str(world.db.session.scalar(COUNT)))
            has_begun.append(True)
            try:
                return world.client.get("/").text
            finally:
                has_begun.clear()

        def scope() -> int:
            return id(request.environ) if has_begun else 0

        has_begun: list[bool] = []
        stock, guarded = both(
            database.url,
            program,
            lambda: SQLAlchemy(session_options={"scopefunc": scope}),
        )
        assert (stock, guarded) == ("RuntimeError", "0")

    def test_an_engine_that_many_apps_have_is_watched_once(
        self, sqlite_url: sa.URL
    ) -> None:
        engine = sa.create_engine(sqlite_url, poolclass=StaticPool)
        counts = set()
        for _ in range(4):
            app = Flask("one of many")
            PoolGuard(app).register(engine, app=app)
            with app.app_context(), engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1
            counts.add(len(list(engine.pool.dispatch.checkout)))
            assert not engine._has_events  # which would slow down each statement
        assert len(counts) == 1
        engine.dispose()
