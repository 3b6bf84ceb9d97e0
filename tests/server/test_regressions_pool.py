"""Defects of the pool that were found by looking for them."""

from __future__ import annotations

import gc
import logging
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event

from flask_poolguard import PoolGuard
from flask_poolguard.pool import housekeeper
from flask_poolguard.pool.outage import FIRST_PAUSE
from tests.conftest import Database
from tests.support.guarded_app import guarded_engine, guarded_pool
from tests.support.people import Struck
from tests.support.servers import PostgreSQLServer
from tests.support.waiting import free_port, wait_until


class TestErrorsOfOtherServers:
    @pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
    def test_that_a_query_tells_of_leave_the_session_alone(
        self, driver: str, postgresql_url: sa.URL
    ) -> None:
        """dblink says of another server what the own one says of itself."""
        relay = (
            "DO $$ BEGIN RAISE EXCEPTION 'could not establish connection'"
            " USING ERRCODE = '08001'; END $$"
        )
        url = postgresql_url.set(drivername=f"postgresql+{driver}")
        with guarded_engine(url) as engine, engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE note (name TEXT)"))
            with pytest.raises(sa.exc.DBAPIError), connection.begin_nested():
                connection.execute(sa.text(relay))
            assert not connection.invalidated
            connection.execute(sa.text("INSERT INTO note VALUES ('kept')"))
            assert connection.scalar(sa.text("SELECT name FROM note")) == "kept"

    def test_a_session_that_was_ended_is_lost(
        self, postgresql: PostgreSQLServer, postgresql_url: sa.URL
    ) -> None:
        with guarded_engine(postgresql_url) as engine, engine.connect() as connection:
            pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            postgresql.kill_session(pid)
            with pytest.raises(sa.exc.DBAPIError):
                connection.execute(sa.text("SELECT 1"))
            assert connection.invalidated


class TestLogging:
    @pytest.mark.usefixtures("threadless")
    def test_a_handler_that_raises_costs_no_slot(self, sqlite_url: sa.URL) -> None:
        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise Struck

        app = Flask("noisy")
        app.config.update(POOLGUARD_POOL_SIZE=1, POOLGUARD_MAX_OVERFLOW=0)
        app.config.update(POOLGUARD_POOL_TIMEOUT=0, POOLGUARD_HELD_WARNING=0.001)
        engine = sa.create_engine(sqlite_url)
        PoolGuard(app).register(engine, app=app)
        with app.app_context():
            connection = engine.connect()
            (tracker,) = app.extensions["poolguard"].app_tracker.trackers
            (checkout,) = tracker.out.values()
            checkout.taken_at -= 1
            tracker.tend()
            assert checkout.is_reported
            handler = Handler()
            logging.getLogger("flask_poolguard").addHandler(handler)
            try:
                connection.close()  # which has something to say, and leaves it to:
                with pytest.raises(Struck):
                    tracker.tend()
                engine.connect().close()
            finally:
                logging.getLogger("flask_poolguard").removeHandler(handler)
            assert guarded_pool(engine).checkedout() == 0
        engine.dispose()

    def test_a_handler_that_uses_the_database_is_not_called_again_and_again(
        self, sqlite_url: sa.URL
    ) -> None:
        calls: list[str] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                calls.append(record.getMessage())
                with engine.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))

        app = Flask("noisy")
        app.config.update(POOLGUARD_STATE_DIR="/proc/nowhere")
        engine = sa.create_engine(sqlite_url)
        PoolGuard(app).register(engine, app=app)
        handler = Handler(logging.WARNING)
        logging.getLogger("flask_poolguard").addHandler(handler)
        try:
            with app.app_context():
                engine.connect().close()
        finally:
            logging.getLogger("flask_poolguard").removeHandler(handler)
        assert len(calls) == 1
        engine.dispose()


class TestOutages:
    def away(self, url: sa.URL) -> sa.Engine:
        """Return an engine whose server does not run."""
        app = Flask("away")
        app.config.update(POOLGUARD_POOL_TIMEOUT=0.01)
        engine = sa.create_engine(url.set(port=free_port()))
        PoolGuard(app).register(engine, app=app)
        with app.app_context():
            pass
        return engine

    def test_a_remembered_error_holds_nothing_of_its_callers(
        self, served_database: Database
    ) -> None:
        class Upload:
            pass

        engine = self.away(served_database.url)

        def fail() -> weakref.ref[Upload]:
            upload = Upload()
            with pytest.raises(sa.exc.OperationalError):
                engine.connect()
            return weakref.ref(upload)

        reference = fail()
        gc.collect()
        assert guarded_pool(engine)._breaker.outage is not None
        assert reference() is None

    def test_the_error_that_the_app_makes_of_it_is_raised(
        self, served_database: Database
    ) -> None:
        class DownError(Exception):
            pass

        app = Flask("down")
        app.config.update(POOLGUARD_POOL_TIMEOUT=0.01)
        engine = sa.create_engine(served_database.url.set(port=free_port()))

        @event.listens_for(engine, "handle_error", retval=True)
        def translate(context: Any) -> BaseException:
            return DownError()

        PoolGuard(app).register(engine, app=app)
        with app.app_context(), pytest.raises(DownError):
            engine.connect()

    def test_one_that_began_in_the_queue_is_waited_for(
        self, sqlite_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with guarded_engine(
            sqlite_url,
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_CONNECT_RETRY=0.5,
        ) as engine:
            pool = guarded_pool(engine)
            attempts = []
            create = pool._invoke_creator

            def refuse_twice(record: Any) -> Any:
                attempts.append(record)
                if len(attempts) in (2, 3):
                    raise ConnectionRefusedError
                return create(record)

            pool._invoke_creator = refuse_twice  # type: ignore[assignment] # a server that is away
            monkeypatch.setattr(pool._breaker, "_classify", _away)
            with ThreadPoolExecutor(1) as executor:
                held = engine.connect()
                asked = executor.submit(lambda: engine.connect().close())
                wait_until(lambda: pool.waiting, what="one who waits")
                time.sleep(0.6 + FIRST_PAUSE)  # longer than CONNECT_RETRY
                held.invalidate()
                held.close()
                asked.result(20)
            assert len(attempts) == 4


def _away(error: BaseException) -> Any:
    from flask_poolguard.databases import ConnectFailure

    return ConnectFailure.AWAY


class TestRecords:
    def test_one_whose_close_failed_is_not_handed_out_again(
        self, sqlite_url: sa.URL
    ) -> None:
        with guarded_engine(sqlite_url, POOLGUARD_POOL_SIZE=1) as engine:
            first = engine.raw_connection()
            dbapi = first.dbapi_connection
            first.invalidate(soft=True)
            first.close()

            def strike(*_: Any) -> None:
                raise ZeroDivisionError

            event.listen(engine, "close", strike)
            with pytest.raises(ZeroDivisionError):
                engine.connect()
            event.remove(engine, "close", strike)
            second = engine.raw_connection()
            assert second.dbapi_connection is not dbapi
            second.close()


def test_the_housekeeper_keeps_nothing_alive(sqlite_url: sa.URL) -> None:
    app = Flask("gone")
    engine = sa.create_engine(sqlite_url)
    PoolGuard(app).register(engine, app=app)
    with app.app_context():
        engine.connect().close()
    references: list[Any] = [weakref.ref(each) for each in (app, engine, engine.pool)]
    engine.dispose()
    del app, engine
    gc.collect()
    housekeeper.catch_up()
    assert [reference() for reference in references] == [None] * 3
