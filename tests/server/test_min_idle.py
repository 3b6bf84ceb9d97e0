"""POOLGUARD_MIN_IDLE: connections that are open before a request needs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, current_app
from sqlalchemy.exc import OperationalError

from flask_poolguard import ConfigError
from flask_poolguard.app_state import state_of
from flask_poolguard.pool import housekeeper
from flask_poolguard.tracking.pool_tracker import tracker_of
from tests.conftest import Database
from tests.support.forking import in_child
from tests.support.guarded_app import (
    checked_out_id,
    engine_of,
    guarded_pool,
    make_app,
    session_id,
    warnings_of,
)
from tests.support.servers import DatabaseServer
from tests.support.waiting import wait_until


class Worker:
    """An app that serves in this process, and whose rounds the test makes.

    :ivar engine: that of its only bind.
    """

    def __init__(self, url: sa.URL, **config: Any) -> None:
        self.app: Flask = make_app(url, **config)
        self.engine = engine_of(self.app)
        self.app.get("/")(lambda: "ok")

    def serve(self) -> None:
        """Answer a request that uses no connection."""
        assert self.app.test_client().get("/").status_code == 200

    def go_round(self) -> None:
        """Do what the housekeeper does once a second."""
        if self.engine.pool.checkedin():  # type: ignore[attr-defined] # a queue pool
            guarded_pool(self.engine).tend()
        state_of(self.app).app_tracker.tend()

    @property
    def idle(self) -> int:
        """How many connections are idle."""
        return guarded_pool(self.engine).checkedin()

    @property
    def shown(self) -> tuple[int, int]:
        """Connections that a report counts, and those of them that are idle."""
        tracker = tracker_of(self.engine)
        assert tracker is not None
        connections = tracker.region.connections
        return connections, connections - len(tracker.out)


@pytest.fixture
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread do a round beside those of the test."""
    monkeypatch.setattr(housekeeper, "start", lambda: None)


@pytest.fixture
def worker(served_database: Database, unattended: None) -> Iterator[Worker]:
    """Return a worker that is to have two idle connections."""
    worker = Worker(served_database.url, POOLGUARD_MIN_IDLE=2)
    yield worker
    worker.engine.dispose()


class TestOpened:
    def test_after_the_first_request_without_any_checkout(self, worker: Worker) -> None:
        worker.go_round()
        assert (
            worker.idle == 0
        )  # not before: it may be a command, or a preloading master
        worker.serve()
        worker.go_round()
        assert worker.idle == 2
        assert worker.shown == (2, 2)

    def test_when_a_server_has_started_the_process(self, worker: Worker) -> None:
        state_of(worker.app).app_tracker.show_started(4)
        worker.go_round()
        assert worker.idle == 2

    def test_by_the_housekeeper_itself(self, served_database: Database) -> None:
        worker = Worker(served_database.url, POOLGUARD_MIN_IDLE=2)
        worker.serve()
        state_of(worker.app).app_tracker.open_file()
        wait_until(lambda: worker.idle == 2, seconds=10)
        worker.engine.dispose()

    def test_a_checkout_takes_one_and_the_next_round_opens_another(
        self, worker: Worker
    ) -> None:
        worker.serve()
        worker.go_round()
        with worker.engine.connect():
            assert worker.idle == 1
            worker.go_round()
            assert worker.idle == 2
        assert worker.idle == 3

    def test_no_more_than_the_pool_keeps(
        self, served_database: Database, unattended: None
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 2, "POOLGUARD_MIN_IDLE": 2}
        worker = Worker(served_database.url, **config)
        worker.serve()
        with worker.engine.connect():
            worker.go_round()
            assert worker.idle == 1
            with worker.engine.connect(), worker.engine.connect():
                worker.go_round()
                assert worker.idle == 0
        worker.engine.dispose()

    def test_listeners_find_the_app_and_no_teardown_function_runs(
        self, worker: Worker
    ) -> None:
        seen = []
        worker.app.teardown_appcontext(lambda _: seen.append("teardown"))

        @sa.event.listens_for(worker.engine, "connect")
        def connected(*_: object) -> None:
            seen.append(current_app.name)

        state_of(worker.app).app_tracker.show_started(4)
        worker.go_round()
        assert seen == ["shop", "shop"]

    def test_nothing_is_counted_as_demand(self, worker: Worker) -> None:
        worker.serve()
        worker.go_round()
        tracker = tracker_of(worker.engine)
        assert tracker is not None
        assert tracker.figures.counts["connects"] == 2
        assert (tracker.figures.peak, sum(tracker.usage.demand)) == (0, 0)

    def test_a_forked_child_has_its_own(self, worker: Worker) -> None:
        worker.serve()
        worker.go_round()

        def child() -> tuple[int, int, int]:
            worker.go_round()
            before = worker.idle  # the child has not served
            worker.serve()
            worker.go_round()
            return before, worker.idle, checked_out_id(worker.engine)

        before, idle, number = in_child(child)
        assert (before, idle) == (0, 2)
        with worker.engine.connect() as first, worker.engine.connect() as second:
            assert number not in (session_id(first), session_id(second))


class TestKept:
    def test_beyond_max_idle_and_beyond_their_recycle_time(
        self, served_database: Database, unattended: None
    ) -> None:
        config = {"POOLGUARD_MIN_IDLE": 2, "POOLGUARD_MAX_IDLE": 0.01}
        worker = Worker(served_database.url, **config)
        worker.serve()
        connections = [worker.engine.connect() for _ in range(4)]
        for each in connections:
            each.close()
        time.sleep(0.05)
        worker.go_round()
        assert worker.idle == 2
        guarded_pool(worker.engine)._recycle = 0.01
        time.sleep(1.1)  # ages are counted in whole seconds of the clock
        worker.go_round()
        assert worker.idle == 2
        worker.engine.dispose()

    def test_after_the_server_ended_them(
        self, worker: Worker, served_database: Database
    ) -> None:
        worker.serve()
        worker.go_round()
        with worker.engine.connect() as connection:
            number = session_id(connection)
        served_database.running_server.kill_session(number)

        def is_filled() -> bool:
            worker.go_round()
            return worker.idle == 2

        wait_until(is_filled)
        with worker.engine.connect() as first, worker.engine.connect() as second:
            assert number not in (session_id(first), session_id(second))


class TestHandsOff:
    def test_of_a_process_that_does_not_serve(self, worker: Worker) -> None:
        with worker.app.app_context(), worker.engine.connect():
            worker.go_round()
        assert worker.idle == 1

    def test_of_an_engine_that_was_disposed_of(self, worker: Worker) -> None:
        worker.serve()
        worker.go_round()
        worker.engine.dispose()
        worker.go_round()
        assert worker.idle == 0
        checked_out_id(worker.engine)
        worker.go_round()
        assert worker.idle == 2

    def test_while_a_thread_waits(self, worker: Worker) -> None:
        queue = guarded_pool(worker.engine)._pool
        worker.serve()
        queue.waiting.append((0.0, 0, None))  # type: ignore[arg-type] # only counted
        worker.go_round()
        assert worker.idle == 0
        queue.waiting.clear()

    def test_a_refusal_is_said_once_and_not_repeated_at_once(
        self,
        worker: Worker,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        attempts = []

        @sa.event.listens_for(worker.engine, "do_connect")
        def refuse(*_: object) -> None:
            attempts.append(time.monotonic())
            raise ValueError("not now")

        worker.serve()
        for _ in range(3):
            worker.go_round()
        assert len(attempts) == 1
        (warning,) = warnings_of(caplog)
        assert "POOLGUARD_MIN_IDLE: ValueError: not now" in warning
        assert guarded_pool(worker.engine)._pool.opened == 0

    def test_a_server_that_is_away_is_asked_by_one_attempt(
        self,
        own_server: None,
        served_database: Database,
        unattended: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server: DatabaseServer = served_database.running_server
        worker = Worker(
            served_database.url, POOLGUARD_MIN_IDLE=2, POOLGUARD_CONNECT_RETRY=0
        )
        worker.serve()
        worker.go_round()
        server.stop()
        for _ in range(3):
            worker.go_round()
        assert worker.idle == 0
        assert len(warnings_of(caplog)) == 1
        with pytest.raises(OperationalError):
            worker.engine.connect()
        server.start()
        checked_out_id(worker.engine)  # traffic tells that it is back
        guarded_pool(worker.engine)._slow_path._fill_from = 0.0
        worker.go_round()
        assert worker.idle == 2
        worker.engine.dispose()

    def test_a_checkout_beside_a_round_shares_the_pools_limit(
        self, served_database: Database, unattended: None
    ) -> None:
        config = {
            "POOLGUARD_POOL_SIZE": 3,
            "POOLGUARD_MAX_OVERFLOW": 0,
            "POOLGUARD_MIN_IDLE": 3,
        }
        worker = Worker(served_database.url, **config)
        worker.serve()
        seen = []

        def use() -> None:
            for _ in range(30):
                with worker.engine.connect():
                    seen.append(guarded_pool(worker.engine)._pool.opened)

        threads = [threading.Thread(target=use) for _ in range(4)]
        for each in threads:
            each.start()
        while any(each.is_alive() for each in threads):
            worker.go_round()
        for each in threads:
            each.join()
        worker.go_round()
        assert max(seen) <= 3
        assert (worker.idle, guarded_pool(worker.engine).checkedout()) == (3, 0)
        worker.engine.dispose()


class TestSetting:
    def test_more_than_the_pool_keeps_is_an_error(self) -> None:
        app = make_app("sqlite:////tmp/x", POOLGUARD_MIN_IDLE=6)
        with pytest.raises(ConfigError, match=r"MIN_IDLE is 6.* pool_size .* is 5"):
            engine_of(app)

    @pytest.mark.parametrize("size", [0, 6])
    def test_as_many_as_it_keeps_or_a_pool_without_a_size(
        self, sqlite_url: sa.URL, size: int
    ) -> None:
        app = make_app(sqlite_url, POOLGUARD_MIN_IDLE=6, POOLGUARD_POOL_SIZE=size)
        engine = engine_of(app)
        assert guarded_pool(engine).policy.min_idle == 6
        engine.dispose()
