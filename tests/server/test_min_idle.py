"""POOLGUARD_MIN_IDLE: connections that are open before a request needs them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, current_app, g
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import OperationalError

from flask_poolguard import ConfigError, PoolGuard
from flask_poolguard.app_state import state_of
from flask_poolguard.pool import GuardedPool, filling_thread, housekeeper, idle_filler
from flask_poolguard.tracking.pool_tracker import PoolTracker, tracker_of
from tests.conftest import Database
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    engine_of,
    guarded_pool,
    make_app,
    session_id,
    warnings_of,
)
from tests.support.waiting import wait_until

# By dialect, what lists the sessions that are in a transaction.
IN_TRANSACTION = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in%'",
    "mysql": "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx",
}


class Worker:
    """An app that serves in this process, and whose pools the test fills.

    :ivar engine: that of its only bind.
    """

    def __init__(self, url: sa.URL, **config: Any) -> None:
        self.app: Flask = make_app(url, **{"POOLGUARD_MIN_IDLE": 2, **config})
        self.engine = engine_of(self.app)
        self.app.get("/")(lambda: "ok")

    def serve(self) -> None:
        """Answer a request that uses no connection."""
        assert self.app.test_client().get("/").status_code == 200

    def fill(self) -> None:
        """Do what the thread does once a second."""
        state_of(self.app).idle_filling.fill()

    def tend(self) -> None:
        """Do what the housekeeper does once a second, and what the thread does then."""
        self.pool.tend()
        self.fill()

    def fill_again(self) -> None:
        """Fill as if the pause after a failure were over."""
        self.pool.idle_filler._not_before = 0.0
        self.fill()

    @property
    def pool(self) -> GuardedPool:
        """The engine's pool of now."""
        return guarded_pool(self.engine)

    @property
    def idle(self) -> int:
        """How many connections are idle."""
        return self.pool.checkedin()

    @property
    def tracker(self) -> PoolTracker:
        """What counts."""
        tracker = tracker_of(self.engine)
        assert tracker is not None
        return tracker

    def session_ids(self) -> set[int]:
        """Return the server's numbers of all open connections."""
        slots = list(self.tracker.region._slots.values())
        return {each.server_id for each in slots}

    def assert_whole(self, idle: int) -> None:
        """Check that each open slot is an idle connection, and shown as such."""
        queue, region = self.pool._pool, self.tracker.region
        assert (queue.opened, len(queue.idle), queue.ahead) == (idle, idle, 0)
        assert (region.connections, region.idle) == (idle, idle)
        assert self.pool.checkedout() == len(self.tracker.out) == 0


@contextlib.contextmanager
def working(url: sa.URL, **config: Any) -> Iterator[Worker]:
    """Give a worker that has served, and close its connections."""
    worker = Worker(url, **config)
    worker.serve()
    yield worker
    worker.engine.dispose()


@pytest.fixture
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread fill beside the test."""
    monkeypatch.setattr(housekeeper, "start", lambda: None)
    monkeypatch.setattr(filling_thread, "start", lambda: None)
    monkeypatch.setattr(filling_thread, "add", lambda _: None)


@pytest.fixture
def worker(served_database: Database, unattended: None) -> Iterator[Worker]:
    """Return a worker that is to have two idle connections."""
    with working(served_database.url) as worker:
        yield worker


@pytest.mark.usefixtures("unattended")
class TestOpened:
    def test_after_the_first_request_without_any_checkout(
        self, served_database: Database
    ) -> None:
        worker = Worker(served_database.url)
        worker.fill()
        assert worker.idle == 0  # it may be a command, or a preloading master
        worker.serve()
        worker.fill()
        worker.assert_whole(2)
        worker.engine.dispose()

    def test_when_a_server_has_started_the_process(
        self, served_database: Database
    ) -> None:
        worker = Worker(served_database.url)
        state_of(worker.app).app_tracker.show_started(4)
        worker.fill()
        assert worker.idle == 2
        worker.engine.dispose()

    def test_a_checkout_takes_one_and_another_is_opened(self, worker: Worker) -> None:
        worker.fill()
        with worker.engine.connect():
            assert worker.idle == 1
            worker.fill()
            assert worker.idle == 2
        worker.assert_whole(3)

    def test_not_in_a_process_that_does_not_serve(
        self, served_database: Database
    ) -> None:
        worker = Worker(served_database.url)
        with worker.app.app_context():
            checked_out_id(worker.engine)
        worker.fill()
        assert worker.idle == 1
        worker.engine.dispose()

    def test_no_more_than_the_pool_keeps(self, served_database: Database) -> None:
        with (
            working(served_database.url, POOLGUARD_POOL_SIZE=2) as worker,
            worker.engine.connect(),
        ):
            worker.fill()
            assert worker.idle == 1
            with worker.engine.connect(), worker.engine.connect():
                worker.fill()
                assert worker.idle == 0

    def test_nothing_is_counted_as_use(self, worker: Worker) -> None:
        worker.fill()
        figures = worker.tracker.figures
        assert figures.counts["connects"] == 2
        assert (figures.peak, sum(figures.usage.demand), figures.usage.nesting) == (
            (0, 0, 0)
        )

    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_a_forked_child_has_its_own(self, worker: Worker) -> None:
        worker.fill()

        def child() -> tuple[int, int, int]:
            worker.fill()
            before = worker.idle  # the child has not served
            worker.serve()
            worker.fill()
            return before, worker.idle, checked_out_id(worker.engine)

        before, idle, number = in_child(child)
        assert (before, idle) == (0, 2)
        with worker.engine.connect() as first, worker.engine.connect() as second:
            assert number not in (session_id(first), session_id(second))

    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_nothing_in_a_child_of_which_no_hook_knows(self, worker: Worker) -> None:
        worker.fill()
        checked = checked_out_id(worker.engine)

        def child() -> int:
            worker.fill()
            return worker.idle

        assert in_child(child, fork=fork_without_hooks) == 2  # the parent's, untouched
        assert checked_out_id(worker.engine) != checked

    def test_a_bind_has_its_own_number(self, served_database: Database) -> None:
        config = {"POOLGUARD_BINDS": {"default": {"min_idle": 1}}}
        with working(served_database.url, **config) as worker:
            worker.fill()
            worker.assert_whole(1)

    def test_an_engine_that_two_apps_share_is_filled_once(
        self, served_database: Database
    ) -> None:
        engine = sa.create_engine(served_database.url)
        apps = []
        for name in ("old", "new"):
            app = Flask(name)
            app.config["POOLGUARD_MIN_IDLE"] = 2
            PoolGuard(app).register(engine, app=app)
            app.get("/")(lambda: "ok")
            apps.append(app)
        seen = []

        @sa.event.listens_for(engine, "connect")
        def connected(*_: object) -> None:
            seen.append(current_app.name)

        for app in apps:
            app.test_client().get("/")
        for app in apps:
            state_of(app).idle_filling.fill()
        assert seen == ["new", "new"]
        engine.dispose()


class TestThread:
    def test_fills_by_itself_and_replaces_what_is_closed(
        self, served_database: Database
    ) -> None:
        with working(served_database.url) as worker:
            wait_until(lambda: worker.idle == 2)
            numbers = worker.session_ids()
            for each in list(worker.pool._pool.idle):
                each._soft_invalidate_time = time.time() + 60
            wait_until(lambda: worker.idle == 2 and not numbers & worker.session_ids())

    def test_is_not_started_where_nothing_is_to_be_filled(
        self, sqlite_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[bool] = []
        monkeypatch.setattr(filling_thread, "start", lambda: started.append(True))
        with working(sqlite_url, POOLGUARD_MIN_IDLE=0) as worker:
            checked_out = worker.engine.connect()
            state_of(worker.app).idle_filling.tend()
            checked_out.close()
        assert started == []

    def test_is_started_anew_once_it_has_ended(self) -> None:
        thread = idle_filler.FillingThread()
        thread.start()
        first = thread._thread
        assert first is not None
        thread.end()
        thread.wake()
        first.join(10)
        thread.start()
        assert not first.is_alive()
        assert thread._thread is first  # not while the process ends
        thread.is_over = False
        thread.start()
        assert thread._thread is not first
        thread.end()
        thread.wake()

    def test_a_connect_that_hangs_holds_up_no_housekeeping(
        self, served_database: Database
    ) -> None:
        hangs, goes_on = threading.Event(), threading.Event()
        worker = Worker(served_database.url, POOLGUARD_MAX_IDLE=0.01)

        @sa.event.listens_for(worker.engine, "do_connect")
        def hang(*_: object) -> None:
            if threading.current_thread().name == "poolguard-filler":
                hangs.set()
                goes_on.wait(60)

        first, second = worker.engine.connect(), worker.engine.connect()
        worker.serve()  # both are out, so the thread opens a third
        assert hangs.wait(20)
        with worker.engine.connect():  # a caller is not held up either
            pass
        first.close()
        second.close()
        # It keeps two of the three idle ones.
        wait_until(lambda: worker.tracker.figures.counts["idle"] == 1)
        goes_on.set()
        wait_until(lambda: worker.pool._pool.ahead == 0)
        worker.engine.dispose()


@pytest.mark.usefixtures("unattended")
class TestKept:
    def test_beyond_max_idle(self, served_database: Database) -> None:
        with working(served_database.url, POOLGUARD_MAX_IDLE=10) as worker:
            clock = Clock().of(worker.engine)
            held = [worker.engine.connect() for _ in range(4)]
            worker.fill()
            for each in held:
                each.close()
            clock.now += 11
            worker.pool.tend()
            worker.assert_whole(2)

    def test_but_not_where_the_app_is_not_served(
        self, served_database: Database
    ) -> None:
        worker = Worker(served_database.url, POOLGUARD_MAX_IDLE=10)
        clock = Clock().of(worker.engine)
        checked_out_id(worker.engine)
        clock.now += 11
        worker.pool.tend()
        assert worker.idle == 0

    def test_not_beyond_their_age_but_replaced(self, served_database: Database) -> None:
        with working(served_database.url, POOLGUARD_MAX_AGE=10) as worker:
            clock = Clock().of(worker.engine)
            worker.fill()
            before = checked_out_id(worker.engine)
            clock.now += 11
            worker.tend()
            worker.assert_whole(2)
            assert worker.tracker.figures.counts["recycled"] == 2
            with worker.engine.connect() as first, worker.engine.connect() as second:
                assert before not in (session_id(first), session_id(second))

    def test_replaced_after_the_server_ended_them(
        self, worker: Worker, served_database: Database
    ) -> None:
        worker.fill()
        number = checked_out_id(worker.engine)
        served_database.running_server.kill_session(number)

        def is_replaced() -> bool:
            worker.tend()
            return worker.tracker.figures.counts["dead"] == 1

        wait_until(is_replaced)
        worker.assert_whole(2)
        with worker.engine.connect() as first, worker.engine.connect() as second:
            assert number not in (session_id(first), session_id(second))

    def test_replaced_when_the_pool_is_renewed(self, worker: Worker) -> None:
        worker.fill()
        before = checked_out_id(worker.engine)
        worker.pool.renew()
        worker.fill()
        worker.assert_whole(2)
        assert checked_out_id(worker.engine) != before


class TestListeners:
    def test_find_the_app_and_no_teardown_function_runs(self, worker: Worker) -> None:
        seen = []
        functions = worker.app.teardown_appcontext_funcs
        functions.append(lambda _: seen.append("teardown"))

        @sa.event.listens_for(worker.engine, "connect")
        def connected(*_: object) -> None:
            g.seen = True
            seen.append(current_app.name)

        worker.fill()
        assert seen == ["shop", "shop"]

    def test_leave_no_transaction_open(
        self, worker: Worker, served_database: Database
    ) -> None:
        @sa.event.listens_for(worker.engine, "connect")
        def connected(connection: Any, _: object) -> None:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE IF NOT EXISTS visits (number INT)")
            connection.commit()
            cursor.execute("INSERT INTO visits VALUES (1)")

        worker.fill()
        asked = IN_TRANSACTION[worker.engine.dialect.name]
        rows = served_database.running_server.query(asked)
        assert len(worker.session_ids()) == 2
        assert not worker.session_ids() & {int(number) for (number,) in rows}
        with worker.engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM visits")) == 0

    def test_set_what_a_checkout_finds(self, worker: Worker) -> None:
        @sa.event.listens_for(worker.engine, "connect")
        def connected(connection: Any, record: Any) -> None:
            record.info["tenant"] = "a"
            connection.commit()

        worker.fill()
        with worker.engine.connect() as connection:
            assert connection.info["tenant"] == "a"

    @pytest.mark.parametrize("commits", [True, False])
    def test_leave_no_session_of_the_extension(
        self, worker: Worker, served_database: Database, commits: bool
    ) -> None:
        db: SQLAlchemy = worker.app.extensions["sqlalchemy"]
        worker.fill()  # within the very first connect SQLAlchemy makes no second one
        worker.pool.renew()

        @sa.event.listens_for(worker.engine, "connect")
        def connected(*_: object) -> None:
            if threading.current_thread() is filler and not db.session.registry.has():
                db.session.execute(sa.text("SELECT 1"))
                if commits:
                    db.session.commit()

        filler = threading.Thread(target=worker.fill)
        filler.start()
        filler.join()
        assert db.session.registry.registry == {}
        queue = worker.pool._pool
        assert queue.opened == len(queue.idle)
        assert worker.idle >= 2
        assert worker.tracker.figures.counts["leaks"] == 0

    def test_a_connection_that_they_leave_open_is_given_back_as_a_leak(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker.fill()  # within the very first connect SQLAlchemy makes no second one
        worker.pool.renew()
        kept: list[Any] = []

        @sa.event.listens_for(worker.engine, "connect")
        def connected(*_: object) -> None:
            if not kept:
                kept.append(None)  # the second one must not do this again
                kept.append(worker.engine.connect())

        worker.fill()
        assert worker.tracker.figures.counts["leaks"] == 1
        (warning,) = warnings_of(caplog)
        assert "test_min_idle.py" in warning
        worker.assert_whole(worker.idle)
        assert worker.idle >= 2

    @pytest.mark.parametrize(
        "error", [ValueError("tea"), SystemExit(1), KeyboardInterrupt()], ids=repr
    )
    @pytest.mark.parametrize("event", ["connect", "do_connect", "reset"])
    def test_that_raise_cost_no_slot_and_are_called_again_after_a_while(
        self,
        worker: Worker,
        caplog: pytest.LogCaptureFixture,
        error: BaseException,
        event: str,
    ) -> None:
        raised = []

        def fail(*_: object) -> None:
            raised.append(error)
            raise error

        target: Any = worker.engine if event == "do_connect" else worker.engine.pool
        sa.event.listen(target, event, fail)
        for _ in range(3):
            worker.fill()
        assert len(raised) == 1
        worker.assert_whole(0)
        (warning,) = warnings_of(caplog)
        assert f"POOLGUARD_MIN_IDLE: {type(error).__name__}" in warning
        sa.event.remove(target, event, fail)
        worker.fill_again()
        worker.assert_whole(2)

    def test_one_that_fails_while_closing_costs_no_slot_either(
        self, worker: Worker
    ) -> None:
        def fail(*_: object) -> None:
            raise SystemExit(1)

        for event in ("reset", "close"):
            sa.event.listen(worker.engine.pool, event, fail)
        worker.fill()
        assert worker.pool._pool.opened == worker.pool._pool.ahead == 0
        for event in ("reset", "close"):
            sa.event.remove(worker.engine.pool, event, fail)

    def test_a_context_that_cannot_be_made_costs_no_slot(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise LookupError("no context")

        with monkeypatch.context() as patch:
            patch.setattr(worker.app, "app_context", fail)
            worker.fill()
        worker.assert_whole(0)
        worker.fill()  # in its pause
        worker.assert_whole(0)
        worker.fill_again()
        worker.assert_whole(2)


class TestHandsOff:
    def test_of_an_engine_that_was_disposed_of_until_it_is_used(
        self, worker: Worker
    ) -> None:
        worker.fill()
        worker.engine.dispose()
        worker.fill()
        worker.assert_whole(0)
        checked_out_id(worker.engine)
        worker.fill()
        worker.assert_whole(2)

    @pytest.mark.parametrize("begins_anew", [True, False])
    def test_of_one_that_is_disposed_of_meanwhile(
        self, worker: Worker, begins_anew: bool
    ) -> None:
        old = worker.pool

        @sa.event.listens_for(worker.engine, "connect", once=True)
        def connected(*_: object) -> None:
            if begins_anew:
                worker.engine.dispose()
            else:
                worker.pool.dispose()

        worker.fill()
        if begins_anew:
            assert (old._pool.opened, worker.idle) == (0, 0)
            worker.fill()
            worker.assert_whole(0)
        else:
            worker.assert_whole(1)  # as what any thread gives back there

    def test_of_an_unregistered_engine(
        self, served_database: Database, unattended: None
    ) -> None:
        app, guard = Flask("shop"), PoolGuard()
        app.config["POOLGUARD_MIN_IDLE"] = 2
        app.get("/")(lambda: "ok")
        guard.init_app(app)
        engine = sa.create_engine(served_database.url)
        guard.register(engine)
        app.test_client().get("/")
        guard.unregister(engine)
        state_of(app).idle_filling.fill()
        assert guarded_pool(engine).checkedin() == 0

    def test_once_the_process_ends(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @sa.event.listens_for(worker.engine, "connect", once=True)
        def connected(*_: object) -> None:
            monkeypatch.setattr(filling_thread, "is_over", True)

        worker.fill()
        worker.assert_whole(0)

    def test_while_a_thread_waits(self, worker: Worker) -> None:
        queue = worker.pool._pool
        queue.waiting.append((0.0, 0, None))  # type: ignore[arg-type] # only counted
        worker.fill()
        worker.assert_whole(0)
        queue.waiting.clear()

    def test_of_the_last_slot_unless_another_is_idle_or_none_is_in_use(
        self, served_database: Database, unattended: None
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 2, "POOLGUARD_MAX_OVERFLOW": 0}
        with working(served_database.url, **config) as worker:
            with worker.engine.connect():
                worker.fill()
                assert worker.idle == 0
            worker.fill()
            worker.assert_whole(2)

    def test_of_sqlite_whose_file_it_would_make(
        self, sqlite_url: sa.URL, unattended: None
    ) -> None:
        with working(sqlite_url, POOLGUARD_MAX_IDLE=10) as worker:
            worker.fill()
            worker.assert_whole(0)

    def test_who_comes_while_the_last_slot_is_connected_gets_that(
        self, served_database: Database, unattended: None
    ) -> None:
        config = {
            "POOLGUARD_POOL_SIZE": 1,
            "POOLGUARD_MAX_OVERFLOW": 0,
            "POOLGUARD_MAX_WAITING": 0,
            "POOLGUARD_MIN_IDLE": 1,
        }
        with working(served_database.url, **config) as worker:
            got: list[int] = []
            caller = threading.Thread(
                target=lambda: got.append(checked_out_id(worker.engine))
            )

            @sa.event.listens_for(worker.engine, "connect", once=True)
            def connected(*_: object) -> None:
                assert worker.pool.checkedout() == 0
                caller.start()
                wait_until(lambda: worker.pool.waiting == 1)

            worker.fill()
            caller.join()
            assert got == [checked_out_id(worker.engine)]
            worker.assert_whole(1)

    def test_a_checkout_beside_it_shares_the_pools_limit(
        self, served_database: Database, unattended: None
    ) -> None:
        config = {
            "POOLGUARD_POOL_SIZE": 3,
            "POOLGUARD_MAX_OVERFLOW": 0,
            "POOLGUARD_MIN_IDLE": 3,
        }
        with working(served_database.url, **config) as worker:
            seen = []

            def use() -> None:
                for _ in range(30):
                    with worker.engine.connect() as connection:
                        seen.append(worker.pool._pool.opened)
                        connection.invalidate()

            threads = [threading.Thread(target=use) for _ in range(4)]
            for each in threads:
                each.start()
            while any(each.is_alive() for each in threads):
                worker.fill()
            for each in threads:
                each.join()
            worker.fill_again()
            assert max(seen) <= 3
            worker.assert_whole(3)


@pytest.mark.usefixtures("own_server")
class TestOutage:
    def test_one_attempt_and_filled_again_once_the_server_answers(
        self,
        served_database: Database,
        unattended: None,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server = served_database.running_server
        with working(served_database.url, POOLGUARD_CONNECT_RETRY=0) as worker:
            attempts: list[object] = []
            sa.event.listen(
                worker.engine, "do_connect", lambda *_: attempts.append(None)
            )
            worker.fill()
            assert len(attempts) == 2
            server.stop()

            def is_empty() -> bool:
                worker.pool.tend()
                return worker.idle == 0

            wait_until(is_empty)
            for _ in range(3):
                worker.fill()
            assert len(attempts) == 3
            assert len(warnings_of(caplog)) == 1
            with pytest.raises(OperationalError):
                worker.engine.connect()
            tried = len(attempts)
            worker.fill_again()  # a caller has just tried
            assert len(attempts) == tried
            server.start()
            checked_out_id(worker.engine)  # traffic tells that it is back
            worker.fill_again()
            worker.assert_whole(2)
            # Without traffic the thread finds out itself.
            server.stop()
            wait_until(is_empty)
            worker.fill_again()
            assert worker.idle == 0
            server.start()
            monkeypatch.setattr(idle_filler, "PAUSE", 0.0)
            worker.fill_again()
            worker.assert_whole(2)


class TestLogin:
    def test_a_refused_one_is_not_tried_again_before_a_caller_got_in(
        self, worker: Worker
    ) -> None:
        attempts: list[str] = []
        password, right = "wrong", worker.engine.url.password

        @sa.event.listens_for(worker.engine, "do_connect")
        def log_in(_dialect: Any, _record: Any, _args: Any, options: Any) -> None:
            attempts.append(password)
            options["password"] = password

        worker.fill()
        worker.fill_again()
        assert attempts == ["wrong"]
        password = str(right)
        worker.fill_again()
        worker.assert_whole(0)
        checked_out_id(worker.engine)
        worker.fill_again()
        worker.assert_whole(2)


class TestSetting:
    URL = sa.make_url("mysql+pymysql://app@127.0.0.1:1/shop")

    def test_more_than_the_pool_keeps_is_an_error(self) -> None:
        app = make_app(self.URL, POOLGUARD_MIN_IDLE=6)
        with pytest.raises(
            ConfigError,
            match=r"POOLGUARD_MIN_IDLE is 6.* 5 connections .*POOLGUARD_POOL_SIZE to 6",
        ):
            engine_of(app)

    def test_also_for_a_bind(self) -> None:
        config = {"POOLGUARD_BINDS": {"default": {"min_idle": 3, "pool_size": 2}}}
        with pytest.raises(ConfigError, match=r"BINDS\['default'\]\['min_idle'\] is 3"):
            engine_of(make_app(self.URL, **config))

    @pytest.mark.parametrize("size", [0, 6])
    def test_as_many_as_it_keeps_or_a_pool_without_a_size(self, size: int) -> None:
        app = make_app(self.URL, POOLGUARD_MIN_IDLE=6, POOLGUARD_POOL_SIZE=size)
        assert guarded_pool(engine_of(app)).policy.min_idle == 6

    @pytest.mark.parametrize(
        "config",
        [{"SQLALCHEMY_DATABASE_URI": "sqlite://"}, {"POOLGUARD_POOL_CLASS": "null"}],
        ids=str,
    )
    def test_nor_where_it_has_no_effect(self, config: dict[str, Any]) -> None:
        app = Flask("shop")
        app.config.update(
            {"SQLALCHEMY_DATABASE_URI": self.URL, "POOLGUARD_MIN_IDLE": 6, **config}
        )
        SQLAlchemy(app)
        PoolGuard(app)
        assert not isinstance(engine_of(app).pool, GuardedPool)

    def test_nor_for_sqlite_in_a_file(self, sqlite_url: sa.URL) -> None:
        engine = engine_of(make_app(sqlite_url, POOLGUARD_MIN_IDLE=6))
        assert guarded_pool(engine).policy.min_idle == 6

    def test_zero_is_no_setting_without_effect(self) -> None:
        app = make_app(
            self.URL,
            POOLGUARD_BINDS={"default": {"min_idle": 0, "pool_class": "null"}},
        )
        assert isinstance(engine_of(app).pool, sa.NullPool)
