"""What happens without traffic, in one thread or at the next checkout."""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_poolguard.pool.housekeeper import Chore, Housekeeper
from flask_poolguard.state import recycle_requests
from flask_poolguard.tracking.pool_tracker import PoolTracker, tracker_of
from tests.conftest import Database
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
    session_id,
    warnings_of,
)
from tests.support.people import Stop
from tests.support.servers import DatabaseServer
from tests.support.waiting import wait_until

# The package has the object of that name, which hides the module.
HOUSEKEEPER_MODULE: Any = importlib.import_module("flask_poolguard.pool.housekeeper")
REASONS = ("recycled", "idle", "dead", "overflow", "invalidated", "closed", "detached")


@pytest.fixture
def busy_housekeeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the housekeeper come more often, starting now."""
    # One that sleeps at this moment does so for a second at most.
    monkeypatch.setattr(HOUSEKEEPER_MODULE, "PERIOD", 0.05)


def app_tracker_of(engine: sa.Engine) -> PoolTracker:
    """Return the books of an engine's pool."""
    tracker = tracker_of(engine)
    assert tracker is not None
    return tracker


def closed(engine: sa.Engine) -> Counter[str]:
    """Return how many connections were closed, by reason."""
    tracker = app_tracker_of(engine)
    return +Counter({name: tracker.figures.counts[name] for name in REASONS})


def pings_of(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note each ping from now on."""
    pings: list[object] = []
    ping = engine.dialect.do_ping

    def counted(connection: Any) -> bool:
        pings.append(connection)
        return ping(connection)

    monkeypatch.setattr(engine.dialect, "do_ping", counted)
    return pings


class TestMaxIdle:
    @pytest.mark.usefixtures("busy_housekeeper")
    def test_what_nobody_needs_is_closed_without_traffic(
        self, served_database: Database
    ) -> None:
        server, url = served_database.running_server, served_database.url
        with guarded_engine(url, POOLGUARD_MAX_IDLE=0.3) as engine:
            pool = guarded_pool(engine)
            with engine.connect() as held:
                kept = session_id(held)
                with engine.connect():
                    pass
                wait_until(lambda: closed(engine)["idle"] == 1, what="the end")
                time.sleep(0.4)
                wait_until(
                    lambda: server.session_ids(database=url.database) == {kept},
                    what="the other session's end",
                )
                assert (pool.checkedin(), pool.checkedout()) == (0, 1)
            wait_until(lambda: closed(engine)["idle"] == 2, what="the other's end")
            wait_until(
                lambda: not server.session_ids(database=url.database), what="its end"
            )
            assert (pool.checkedin(), pool.checkedout()) == (0, 0)
            assert closed(engine) == {"idle": 2}
            assert checked_out_id(engine) != kept

    @pytest.mark.usefixtures("threadless")
    def test_what_is_needed_stays(self, served_database: Database) -> None:
        with guarded_engine(served_database.url, POOLGUARD_MAX_IDLE=10) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            for _ in range(5):
                clock.now += 9
                guarded_pool(engine).tend()
                assert checked_out_id(engine) == first

    @pytest.mark.usefixtures("threadless")
    def test_without_it_nothing_is_closed(self, served_database: Database) -> None:
        with guarded_engine(served_database.url) as engine:
            clock = Clock().of(engine)
            first = checked_out_id(engine)
            clock.now += 20_000
            guarded_pool(engine).tend()
            assert checked_out_id(engine) == first


@pytest.mark.usefixtures("threadless")
class TestEveryClosedConnectionHasOneReason:
    def test_its_time_was_up(self, postgresql_url: sa.URL) -> None:
        with guarded_engine(postgresql_url, POOLGUARD_IDLE_LIMIT=60) as engine:
            clock = Clock().of(engine)
            checked_out_id(engine)
            clock.now += 51
            guarded_pool(engine).tend()
            assert guarded_pool(engine).checkedin() == 0
            assert closed(engine) == {"recycled": 1}

    def test_its_age_was_reached(self, postgresql_url: sa.URL) -> None:
        with guarded_engine(postgresql_url, POOLGUARD_POOL_RECYCLE=0.05) as engine:
            checked_out_id(engine)
            time.sleep(0.1)
            guarded_pool(engine).tend()
            assert closed(engine) == {"recycled": 1}

    def test_the_server_ended_it(self, served_database: Database) -> None:
        with guarded_engine(served_database.url) as engine:
            served_database.running_server.kill_session(checked_out_id(engine))
            guarded_pool(engine).tend()
            assert guarded_pool(engine).checkedin() == 0
            assert closed(engine) == {"dead": 1}

    def test_whatever_happens_the_reasons_add_up_to_the_connects(
        self, served_database: Database
    ) -> None:
        server = served_database.running_server
        config = {"POOLGUARD_POOL_SIZE": 2, "POOLGUARD_MAX_OVERFLOW": 2}
        with guarded_engine(served_database.url, **config) as engine:
            held = [engine.connect() for _ in range(4)]
            for each in held:
                each.close()  # two are overflow
            with engine.connect() as connection:
                connection.invalidate()
            with engine.connect() as connection:
                connection.detach()
            fairy = engine.raw_connection()
            fairy.invalidate(soft=True)
            fairy.close()
            server.kill_session(checked_out_id(engine))
            checked_out_id(engine)
            connection = engine.connect()
            server.kill_session(session_id(connection))
            with pytest.raises(sa.exc.DBAPIError):
                session_id(connection)
            connection.close()
            checked_out_id(engine)
            engine.dispose()
            assert (
                sum(closed(engine).values())
                == app_tracker_of(engine).figures.counts["connects"]
            )
            assert closed(engine)["overflow"] == 2
            assert closed(engine)["detached"] == 1

    def test_the_pool_starts_empty(self, served_database: Database) -> None:
        with guarded_engine(served_database.url) as engine:
            guarded_pool(engine).tend()
            url = served_database.url
            sessions = served_database.running_server.session_ids(database=url.database)
            assert not sessions


@pytest.mark.usefixtures("threadless")
class TestRounds:
    def test_no_connection_is_pinged_however_long_it_idles(
        self, served_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with guarded_engine(served_database.url) as engine:
            clock = Clock().of(engine)
            checked_out_id(engine)
            pings = pings_of(engine, monkeypatch)
            for _ in range(10):
                clock.now += 100
                guarded_pool(engine).tend()
            assert pings == []
            checked_out_id(engine)
            assert len(pings) == 1

    def test_one_that_has_spoken_is_asked_and_stays(
        self,
        postgresql: DatabaseServer,
        postgresql_url: sa.URL,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with guarded_engine(postgresql_url) as engine:
            pool = guarded_pool(engine)
            with engine.connect() as connection:
                listening = session_id(connection)
                connection.execute(sa.text("LISTEN news"))
                connection.commit()
            pings = pings_of(engine, monkeypatch)
            postgresql.execute("NOTIFY news", database=postgresql_url.database)
            wait_until(pool._pool.idle[0].has_spoken, what="the notification")
            for _ in range(3):
                pool.tend()
            assert len(pings) == 1
            assert checked_out_id(engine) == listening

    def test_one_that_comes_back_while_another_is_asked_may_be_one_too_many(
        self,
        postgresql: DatabaseServer,
        postgresql_url: sa.URL,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 1, "POOLGUARD_MAX_OVERFLOW": 1}
        with guarded_engine(postgresql_url, **config) as engine:
            pool = guarded_pool(engine)
            connection, another = engine.connect(), engine.connect()
            connection.execute(sa.text("LISTEN news"))
            connection.commit()
            connection.close()
            postgresql.execute("NOTIFY news", database=postgresql_url.database)
            wait_until(pool._pool.idle[0].has_spoken, what="the notification")
            ping = engine.dialect.do_ping

            def come_back(asked: Any) -> bool:
                another.close()
                return ping(asked)

            monkeypatch.setattr(engine.dialect, "do_ping", come_back)
            pool.tend()
            assert pool.checkedin() == 1
            assert closed(engine) == {"overflow": 1}

    def test_a_pool_that_was_disposed_of_meanwhile_keeps_nothing(
        self, served_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = served_database.url
        with guarded_engine(url) as engine:
            pool = guarded_pool(engine)
            checked_out_id(engine)
            record = pool._pool.idle[0]

            def fitness(*_: object, **__: object) -> str:
                engine.dispose()
                return "fit"

            monkeypatch.setattr(type(record), "has_spoken", lambda _: True)
            monkeypatch.setattr(type(record), "fitness", fitness)
            pool.tend()
            monkeypatch.undo()
            wait_until(
                lambda: (
                    not served_database.running_server.session_ids(
                        database=url.database
                    )
                ),
                what="the connection's end",
            )

    @pytest.mark.stress
    def test_rounds_and_checkouts_at_once_lose_nothing(
        self, served_database: Database
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 3, "POOLGUARD_MAX_IDLE": 0.001}
        with guarded_engine(served_database.url, **config) as engine:
            over = threading.Event()
            pool = guarded_pool(engine)

            def tend() -> None:
                while not over.is_set():
                    pool.tend()

            with ThreadPoolExecutor(7) as executor:
                tending = executor.submit(tend)
                asking = [
                    executor.submit(lambda: [checked_out_id(engine) for _ in range(50)])
                    for _ in range(6)
                ]
                try:
                    for each in asking:
                        each.result(60)
                finally:
                    over.set()
                tending.result(10)
            assert pool.checkedout() == 0
            engine.dispose()
            assert (
                sum(closed(engine).values())
                == app_tracker_of(engine).figures.counts["connects"]
            )


@pytest.mark.usefixtures("busy_housekeeper")
class TestHeldForTooLong:
    def hold(self, app: Flask, seconds: float) -> None:
        engine = engine_of(app)

        @app.get("/report")
        def make_report() -> str:
            with engine.connect():
                self.print_slowly(seconds)
            return "done"

        assert app.test_client().get("/report").text == "done"
        engine.dispose()

    def print_slowly(self, seconds: float) -> None:
        self.over.wait(seconds)

    @pytest.fixture(autouse=True)
    def over_event(self) -> None:
        self.over = threading.Event()

    def test_one_warning_shows_where_the_holder_is_and_a_line_its_end(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(sqlite_url, POOLGUARD_HELD_WARNING=0.2)
        with ThreadPoolExecutor(1) as executor:
            done = executor.submit(self.hold, app, 20)
            wait_until(lambda: warnings_of(caplog), what="the warning")
            time.sleep(0.3)
            self.over.set()
            done.result(10)
        wait_until(lambda: len(warnings_of(caplog)) == 2, what="the line of its end")
        held, back = warnings_of(caplog)
        assert "make_report has held a connection of bind 'default'" in held
        # On its first line, before the whole stack.
        first = held.splitlines()[0]
        assert re.search(r"; now at \S*:\d+ in print_slowly\. Give it back", first)
        assert "self.over.wait(seconds)" in held
        assert "make_report" in back
        assert "is back after" in back

    def test_none_is_never(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = engine_of(make_app(sqlite_url, POOLGUARD_HELD_WARNING=None))
        with engine.connect():
            assert not self.is_warned_of_after(365 * 24 * 3600, engine)
        self.hear_no_more(engine, caplog)

    def test_one_that_comes_back_in_time_is_not_mentioned(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = engine_of(make_app(sqlite_url, POOLGUARD_HELD_WARNING=2000))
        with engine.connect():
            assert not self.is_warned_of_after(1000, engine)
        self.hear_no_more(engine, caplog)

    def is_warned_of_after(self, seconds: float, engine: sa.Engine) -> bool:
        """Tell whether the only holder's time is up."""
        (checkout,) = app_tracker_of(engine).out.values()
        checkout.taken_at -= seconds
        app_tracker_of(engine).tend()
        return checkout.is_reported

    def hear_no_more(self, engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
        """Check that nothing is said in the end either."""
        app_tracker_of(engine).tend()
        assert warnings_of(caplog) == []
        engine.dispose()


class TestHangs:
    """A line, or a listener of the app's, that holds up who closes a connection."""

    @pytest.mark.usefixtures("busy_housekeeper")
    def test_a_hanging_close_holds_up_no_warning(
        self, sqlite_url: sa.URL, caplog: pytest.LogCaptureFixture
    ) -> None:
        stop = Stop()
        hanging = engine_of(make_app(sqlite_url, POOLGUARD_MAX_IDLE=0.01))
        held = engine_of(make_app(sqlite_url, POOLGUARD_HELD_WARNING=0.01))
        sa.event.listen(hanging, "close", stop)
        hanging.connect().close()
        stop.until_reached()
        with held.connect():
            wait_until(lambda: warnings_of(caplog), what="the warning")
        stop.open()
        wait_until(lambda: closed(hanging)["idle"] == 1, what="the end of the close")
        hanging.dispose()
        held.dispose()

    def test_what_may_hang_comes_last_at_a_checkout(
        self, threadless: Housekeeper
    ) -> None:
        done: list[str] = []

        class Guest:
            def __init__(self, name: str) -> None:
                self.name = name

            def tend(self) -> None:
                done.append(self.name)

        guests = [Guest("closes"), Guest("warns"), Guest("closes")]
        for guest in guests:
            threadless.add(guest, may_hang=guest.name == "closes")
        threadless.catch_up()
        assert done == ["warns", "closes", "closes"]


class TestWithoutThreads:
    def test_an_overdue_round_is_made_up_for_at_a_checkout(
        self, threadless: Housekeeper, served_database: Database
    ) -> None:
        with guarded_engine(served_database.url, POOLGUARD_MAX_IDLE=0.05) as engine:
            with engine.connect(), engine.connect():
                pass
            time.sleep(0.1)
            threadless.overdue_at = time.monotonic() - 1
            with engine.connect():
                assert closed(engine) == {"idle": 1}
            assert threadless.overdue_at > time.monotonic()

    def test_a_round_that_is_not_overdue_is_not_made(
        self, threadless: Housekeeper, served_database: Database
    ) -> None:
        with guarded_engine(served_database.url, POOLGUARD_MAX_IDLE=0.05) as engine:
            with engine.connect(), engine.connect():
                pass
            time.sleep(0.1)
            threadless.overdue_at = time.monotonic() + 100
            with engine.connect():
                assert closed(engine) == {}

    def test_a_request_for_new_connections_is_met_at_a_checkout(
        self, threadless: Housekeeper, served_database: Database
    ) -> None:
        app = make_app(served_database.url)
        engine = engine_of(app)
        with engine.connect(), engine.connect():
            pass
        path = app.extensions["poolguard"].app_tracker.path
        recycle_requests.ask(path, recycle_requests.ALL, recycle_requests.new_number())
        checked_out_id(engine)
        assert closed(engine) == {}
        threadless.overdue_at = time.monotonic() - 1
        with engine.connect():
            assert closed(engine) == {"invalidated": 1}
        assert closed(engine) == {"invalidated": 2}
        engine.dispose()

    def test_a_thread_that_cannot_be_started_stops_nobody(
        self, sqlite_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        own = Housekeeper()
        monkeypatch.setattr(threading.Thread, "start", start)
        own.start()
        own.start()
        assert own.overdue_at < time.monotonic() + 100


@pytest.mark.process
@pytest.mark.filterwarnings(MAY_DEADLOCK)
class TestFork:
    @pytest.mark.parametrize("fork", [os.fork, fork_without_hooks])
    def test_the_child_has_a_housekeeper_of_its_own_and_the_parents_goes_on(
        self,
        fork: Callable[[], int],
        postgresql_url: sa.URL,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(HOUSEKEEPER_MODULE, "PERIOD", 0.05)

        def is_tidied() -> bool:
            checked_out_id(engine)
            before = closed(engine)["idle"]
            wait_until(lambda: closed(engine)["idle"] > before, what="a round")
            return True

        with guarded_engine(postgresql_url, POOLGUARD_MAX_IDLE=0.1) as engine:
            assert is_tidied()
            assert in_child(is_tidied, fork=fork)
            assert is_tidied()


class TestChore:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Return the clock that chores go by."""
        clock = Clock()
        monkeypatch.setattr(HOUSEKEEPER_MODULE, "_clock", clock)
        return clock

    def test_is_done_once_in_each_period_and_not_at_once(self, now: Clock) -> None:
        done: list[float] = []
        chore = Chore(lambda: done.append(now.now), 60.0)
        begun = now.now
        for _ in range(200):
            chore.tend()
            now.now += 1.0
        assert done == [begun + 60, begun + 120, begun + 180]

    def test_that_fails_waits_for_its_next_time(self, now: Clock) -> None:
        tries: list[float] = []

        def fail() -> None:
            tries.append(now.now)
            raise LookupError

        chore = Chore(fail, 60.0)
        now.now += 60
        with pytest.raises(LookupError):
            chore.tend()
        chore.tend()
        assert len(tries) == 1

    @pytest.mark.process
    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_counts_anew_in_a_child(self, now: Clock) -> None:
        done: list[float] = []
        chore = Chore(lambda: done.append(now.now), 60.0)
        now.now += 59

        def child() -> list[int]:
            counts = []
            for _ in range(62):
                chore.tend()
                counts.append(len(done))
                now.now += 1.0
            return counts

        assert in_child(child, fork=fork_without_hooks) == [0] * 60 + [1] * 2
