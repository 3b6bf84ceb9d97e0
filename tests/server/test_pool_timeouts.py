"""What one who waited in vain is told: who has the connections, and doing what."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL, event, exc, text

from flask_poolguard.errors import PoolGuardError, PoolTimeout
from tests.conftest import Database
from tests.support.guarded_app import guarded_pool
from tests.support.people import SECONDS, Stop, people
from tests.support.tracked import Tracked
from tests.support.waiting import wait_until

SLEEP = {"mysql": "SELECT SLEEP(60)", "postgresql": "SELECT pg_sleep(60)"}


@pytest.fixture
def tracked(database: Database) -> Iterator[Tracked]:
    """Guard a pool of two."""
    tracked = Tracked(database.url, pool_size=2, max_overflow=0, pool_timeout=0)
    yield tracked
    assert tracked.tracker.figures.waiting == 0
    tracked.engine.dispose()


def time_out(tracked: Tracked) -> PoolTimeout:
    """Ask in another thread, in vain."""
    with ThreadPoolExecutor(1) as executor, pytest.raises(exc.TimeoutError) as raised:
        executor.submit(tracked.engine.connect).result(SECONDS)
    assert type(raised.value) is PoolTimeout
    return raised.value


class TestError:
    def test_it_is_caught_as_before_and_survives_pickling(
        self, tracked: Tracked
    ) -> None:
        with tracked.engine.connect(), tracked.engine.connect():
            error = time_out(tracked)
        assert isinstance(error, PoolGuardError)
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
        assert type(again) is PoolTimeout
        assert (str(again), again.code) == (str(error), error.code)
        assert "QueuePool limit of size 2 overflow 0 reached" in str(error)
        assert "https://sqlalche.me/e/" in str(error)

    def test_it_has_no_password(self, served_database: Database) -> None:
        tracked = Tracked(
            served_database.url, pool_size=1, max_overflow=0, pool_timeout=0
        )
        with tracked.engine.connect():
            error = time_out(tracked)
        password = served_database.url.password
        assert password
        assert password not in str(error)
        assert password not in repr(error)
        tracked.engine.dispose()

    def test_each_holder_has_its_line(self, tracked: Tracked) -> None:
        stop = Stop()

        @tracked.app.get("/report")
        def report() -> str:
            with tracked.engine.connect():
                stop()
            return "done"

        here = report.__code__.co_firstlineno
        with people(tracked.engine, 2) as (client, other):
            answer = client.start(lambda: tracked.app.test_client().get("/report"))
            stop.until_reached()
            other.take()
            text_ = str(time_out(tracked))
            stop.open()
            assert answer.result(SECONDS).text == "done"
        assert "Connections of bind 'default' are held by:" in text_
        (report_line,) = re.findall(r"^  \d+\.\d s  report at .*$", text_, re.M)
        assert f"server/test_pool_timeouts.py:{here + 2}, thread person" in report_line
        # What it does now, in the test's helper.
        assert re.search(
            r", now at \S*tests/support/people.py:\d+ in __call__", report_line
        )
        (outside,) = re.findall(r"^  .*\(outside any request\) at .*$", text_, re.M)
        assert "tests/support/people.py:" in outside
        # The longest first.
        assert text_.index(report_line) < text_.index(outside)

    def test_of_many_holders_fifty_are_named(self, sqlite_url: URL) -> None:
        tracked = Tracked(sqlite_url, pool_size=60, max_overflow=0, pool_timeout=0)
        held = [tracked.engine.connect() for _ in range(60)]
        lines = str(time_out(tracked)).splitlines()
        assert len([line for line in lines if " s  (outside" in line]) == 50
        assert "  and 10 more" in str(lines)
        for each in held:
            each.close()
        tracked.engine.dispose()

    def test_a_collection_while_it_is_written_does_not_disturb(
        self, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may give a connection back that was just going to be named."""
        first, second = tracked.engine.connect(), tracked.engine.connect()
        server_id = tracked.tracker.database.server_id

        def give_back(connection: object) -> int | None:
            second.close()
            return server_id(connection)

        monkeypatch.setattr(tracked.tracker.database, "server_id", give_back)
        assert "held by" in str(time_out(tracked))
        first.close()


class TestServer:
    """Asked while one waits, never for longer than the pool's timeout."""

    def test_it_says_what_each_holder_does(self, served_database: Database) -> None:
        tracked = Tracked(
            served_database.url, pool_size=2, max_overflow=0, pool_timeout=1
        )
        server = served_database.running_server
        backend = tracked.engine.dialect.name
        with people(tracked.engine, 2) as (asleep, idle):
            asleep.take()
            (session,) = tracked.tracker.sessions_out()
            idle.take().do(lambda: idle.connections[0].execute(text("SELECT 1")))
            query = asleep.start(
                lambda: asleep.connections[0].execute(text(SLEEP[backend]))
            )
            told = wait_for_text(tracked, "the server says: active")
            server.kill_session(session)
            with pytest.raises(exc.DBAPIError):
                query.result(SECONDS)
        # MariaDB tells of transactions only with the PROCESS privilege.
        resting = "idle" if backend == "mysql" else "idle in transaction"
        assert re.search(rf"; the server says: {resting}( \(Background|$)", told, re.M)
        assert told.count("the server says:") == 2
        tracked.engine.dispose()

    def test_nobody_waits_for_its_answer(self, served_database: Database) -> None:
        tracked = Tracked(served_database.url, pool_size=1, max_overflow=0)
        pool = guarded_pool(tracked.engine)
        stop = Stop()
        with tracked.engine.connect():
            pool._timeout = 0.1
            event.listen(tracked.engine, "do_connect", stop)
            error = time_out(tracked)
            stop.until_reached()  # it is still being asked
            assert "the server says" not in str(error)
            stop.open()
        wait_until(lambda: not pool._session_probe._is_open, what="the answer")
        tracked.engine.dispose()

    def test_it_is_not_asked_what_nobody_waits_to_hear(self, tracked: Tracked) -> None:
        asked: list[object] = []
        with tracked.engine.connect(), tracked.engine.connect():
            event.listen(tracked.engine, "do_connect", lambda *a: asked.append(a))
            time_out(tracked)
        assert asked == []

    def test_an_answer_that_fails_spoils_nothing(
        self, served_database: Database
    ) -> None:
        tracked = Tracked(served_database.url, pool_size=1, max_overflow=0)
        pool = guarded_pool(tracked.engine)

        failed: list[object] = []

        def fail(*_: object) -> None:
            failed.append(_)
            raise OSError("no route")

        with tracked.engine.connect():
            pool._timeout = 0.1
            event.listen(tracked.engine, "do_connect", fail)
            assert "are held by" in str(time_out(tracked))
            wait_until(lambda: not pool._session_probe._is_open, what="the answer")
            event.remove(tracked.engine, "do_connect", fail)
        assert len(failed) == 1
        tracked.engine.dispose()


def wait_for_text(tracked: Tracked, expected: str) -> str:
    """Time out until the server has told something; it may be slow at first."""
    for _ in range(20):
        told = str(time_out(tracked))
        if expected in told:
            return told
    raise AssertionError(f"{expected!r} was never told, last: {told}")
