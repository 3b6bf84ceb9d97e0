"""No ORM session survives its scope, nor does anything that it did not commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import flask.globals
import pytest
from flask import Flask, request
from flask_sqlalchemy_lite import SQLAlchemy as LiteSQLAlchemy
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from flask_poolguard import PoolGuard
from tests.conftest import Database
from tests.support.shop import (
    SEED,
    Shop,
    Witness,
    add_database,
    add_guard,
    raises,
    take_db_session,
)

LOGGER = "flask_poolguard"


class FaultError(Exception):
    """What somebody else's teardown function raises."""


def add_faulty_teardown(shop: Shop) -> None:
    """Let the session's teardown be skipped when a request says so."""

    @shop.app.teardown_request
    def mark(error: BaseException | None) -> None:
        from flask import g

        g.fails = "fails" in request.args

    @shop.app.teardown_appcontext
    def fail(error: BaseException | None) -> None:
        from flask import g

        if g.get("fails"):
            raise FaultError


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    """Run an app where `?fails` keeps the session's teardown from running."""
    steps = (add_database, add_guard, add_faulty_teardown)
    with Shop(database.url, steps=steps) as shop:

        @shop.route
        def stray() -> str:
            shop.db.session.add(shop.Item(name="stray"))
            shop.db.session.flush()
            return "not committed"

        @shop.route
        def commit() -> str:
            shop.db.session.scalar(text("SELECT COUNT(*) FROM item"))
            shop.db.session.commit()
            return "committed"

        yield shop


class TestInheritance:
    def test_what_one_request_left_is_not_committed_by_two_hundred_others(
        self, shop: Shop
    ) -> None:
        """CPython uses the `id` of a context again, by which sessions are kept."""
        client = shop.client
        with raises(FaultError):
            client.get("/stray?fails")
        for _ in range(200):
            client.get("/commit")
        Witness(shop).assert_nothing_left()

    def test_each_request_has_a_session_of_its_own_even_after_failed_teardowns(
        self, shop: Shop
    ) -> None:
        client = shop.client
        for _ in range(20):
            with raises(FaultError):
                client.get("/stray?fails")
            assert client.get("/commit").text == "committed"
        assert len(shop.db.session.registry.registry) == 0
        Witness(shop).assert_nothing_left()

    def test_a_session_without_a_transaction_is_ended_without_a_word(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with raises(FaultError):
            shop.client.get("/commit?fails")
        assert len(shop.db.session.registry.registry) == 0
        assert [r for r in caplog.records if r.name == LOGGER] == []

    @pytest.mark.skipif(  # Flask 3.2 closes the session by itself
        not hasattr(flask.globals, "_cv_request"),
        reason="Flask 3.2 runs all teardown functions, so the session is closed",
    )
    def test_a_session_in_a_transaction_is_named_in_the_log(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with raises(FaultError):
            shop.client.get("/stray?fails")
        (record,) = [r for r in caplog.records if r.name == LOGGER]
        assert "session of stray was left in the middle" in record.getMessage()
        assert "teardown function raised" in record.getMessage()


class TestScopefunc:
    def test_sessions_kept_by_thread_are_ended_as_well(
        self, database: Database
    ) -> None:
        """Apps may tell Flask-SQLAlchemy to keep sessions by something else."""

        def add(shop: Shop) -> None:
            registry = shop.db._make_scoped_session({"scopefunc": threading.get_ident})
            shop.db.session = registry
            shop.db.init_app(shop.app)

        steps = (add, add_guard, add_faulty_teardown)
        with Shop(database.url, steps=steps) as shop:

            @shop.route
            def stray() -> str:
                take_db_session(shop)
                return "not committed"

            @shop.route
            def commit() -> str:
                shop.db.session.commit()
                return "committed"

            with raises(FaultError):
                shop.client.get("/stray?fails")
            assert shop.out() == 0
            shop.client.get("/commit")
            Witness(shop).assert_nothing_left()


class TestThreadSessions:
    """A `scoped_session` that the app keeps per thread and never removes."""

    @pytest.fixture
    def sessions(self, shop: Shop) -> scoped_session[Session]:
        """Serve the app with a session per thread."""
        sessions = scoped_session(sessionmaker(shop.engine))

        @shop.route
        def thread_stray() -> str:
            sessions.execute(text("INSERT INTO item (name) VALUES ('stray')"))
            return "not committed"

        @shop.route
        def thread_commit() -> str:
            name = sessions.scalar(text("SELECT name FROM item"))
            sessions.commit()
            return str(name)

        return sessions

    def test_its_connection_comes_back_and_it_works_in_the_next_request(
        self, shop: Shop, sessions: scoped_session[Session]
    ) -> None:
        assert shop.client.get("/thread_stray").text == "not committed"
        assert shop.out() == 0
        session = sessions()
        assert shop.client.get("/thread_commit").text == SEED
        assert sessions() is session
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_its_objects_can_be_loaded_in_the_next_request(
        self, shop: Shop, sessions: scoped_session[Session]
    ) -> None:
        cache: list[Any] = []

        @shop.route
        def load() -> str:
            cache.append(sessions.get(shop.Item, 1))
            return "loaded"

        @shop.route
        def use() -> str:
            return ",".join(part.name for part in cache[0].parts)

        shop.client.get("/load")
        assert shop.out() == 0
        assert shop.client.get("/use").text == "bolt"
        assert shop.out() == 0

    def test_an_object_added_but_never_committed_is_not_committed_later(
        self, shop: Shop, sessions: scoped_session[Session]
    ) -> None:
        @shop.route
        def add() -> str:
            sessions.scalar(text("SELECT name FROM item"))
            sessions.add(shop.Item(name="stray"))
            return "added"

        shop.client.get("/add")
        shop.client.get("/thread_commit")
        Witness(shop).assert_nothing_left()


class TestSeveralBinds:
    def test_one_session_on_two_binds_gives_both_back(self, shop: Shop) -> None:
        with raises(FaultError):
            shop.client.get("/both?fails")
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    @pytest.fixture(autouse=True)
    def both(self, shop: Shop) -> None:
        """Serve a view that writes to both binds."""

        @shop.route
        def both() -> str:
            shop.db.session.add(shop.Item(name="stray"))
            shop.db.session.add(shop.Note(name="stray"))
            shop.db.session.flush()
            return "not committed"


class TestAnyErrorWhileClosing:
    def test_a_session_that_raises_while_it_closes_does_not_change_the_response(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.route
        def misuse() -> str:
            session = shop.db.session()
            session.scalar(text("SELECT 1"))

            @event.listens_for(session, "after_transaction_end", once=True)
            def fail(*_: object) -> None:
                raise FaultError("from a listener")

            return "taken"

        assert shop.client.get("/misuse").text == "taken"
        assert shop.out() == 0
        (record,) = [r for r in caplog.records if r.name == LOGGER]
        assert "FaultError: from a listener" in record.getMessage()
        assert shop.client.get("/commit").text == "committed"


class TestFlaskSQLAlchemyLite:
    @pytest.fixture
    def lite(self, database: Database) -> Iterator[tuple[Flask, LiteSQLAlchemy]]:
        """Run an app with Flask-SQLAlchemy-Lite and a table."""
        app = Flask("lite")
        app.config["SQLALCHEMY_ENGINES"] = {"default": database.url}
        db = LiteSQLAlchemy(app)
        PoolGuard(app)
        with app.app_context():
            engine = db.engine
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE item (name VARCHAR(50))"))
        yield app, db
        engine.dispose()

    @pytest.mark.parametrize("fails", [False, True])
    def test_its_sessions_are_ended_whatever_raises(
        self, lite: tuple[Flask, LiteSQLAlchemy], database: Database, fails: bool
    ) -> None:
        app, db = lite
        kept: list[object] = []

        @app.get("/")
        def stray() -> str:
            for name in ("default", "second"):
                session = db.get_session(name)
                session.scalar(text("SELECT COUNT(*) FROM item"))
                kept.append(session)
            db.session.execute(text("INSERT INTO item (name) VALUES ('stray')"))
            return "not committed"

        @app.teardown_appcontext
        def fail(error: BaseException | None) -> None:
            if fails:
                raise FaultError

        try:
            app.test_client().get("/")
        except (FaultError, ExceptionGroup):
            assert fails
        (tracker,) = app.extensions["poolguard"].app_tracker.trackers
        assert tracker.out == {}
        witness = create_engine(database.url, poolclass=NullPool)
        with witness.connect() as connection:
            assert connection.scalar(text("SELECT COUNT(*) FROM item")) == 0
