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
from tests.support.waiting import wait_until
from tests.test_ledger import Books

SLEEP = {"mysql": "SELECT SLEEP(60)", "postgresql": "SELECT pg_sleep(60)"}


@pytest.fixture
def books(database: Database) -> Iterator[Books]:
    """Guard a pool of two."""
    books = Books(database.url, pool_size=2, max_overflow=0, pool_timeout=0)
    yield books
    assert books.ledger.waiting == 0
    books.engine.dispose()


def time_out(books: Books) -> PoolTimeout:
    """Ask in another thread, in vain."""
    with ThreadPoolExecutor(1) as executor, pytest.raises(exc.TimeoutError) as raised:
        executor.submit(books.engine.connect).result(SECONDS)
    assert type(raised.value) is PoolTimeout
    return raised.value


class TestError:
    def test_it_is_caught_as_before_and_survives_pickling(self, books: Books) -> None:
        with books.engine.connect(), books.engine.connect():
            error = time_out(books)
        assert isinstance(error, PoolGuardError)
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
        assert type(again) is PoolTimeout
        assert (str(again), again.code) == (str(error), error.code)
        assert "QueuePool limit of size 2 overflow 0 reached" in str(error)
        assert "https://sqlalche.me/e/" in str(error)

    def test_it_has_no_password(self, served_database: Database) -> None:
        books = Books(served_database.url, pool_size=1, max_overflow=0, pool_timeout=0)
        with books.engine.connect():
            error = time_out(books)
        password = served_database.url.password
        assert password
        assert password not in str(error)
        assert password not in repr(error)
        books.engine.dispose()

    def test_each_holder_has_its_line(self, books: Books) -> None:
        stop = Stop()

        @books.app.get("/report")
        def report() -> str:
            with books.engine.connect():
                stop()
            return "done"

        here = report.__code__.co_firstlineno
        with people(books.engine, 2) as (client, other):
            answer = client.start(lambda: books.app.test_client().get("/report"))
            stop.until_reached()
            other.take()
            text_ = str(time_out(books))
            stop.open()
            assert answer.result(SECONDS).text == "done"
        assert "Connections of bind 'default' are held by:" in text_
        (report_line,) = re.findall(r"^  \d+\.\d s  report at .*$", text_, re.M)
        assert f"tests/test_pool_timeouts.py:{here + 2}, thread person" in report_line
        # What it does now, in the test's helper.
        assert re.search(
            r", now at \S*tests/support/people.py:\d+ in __call__", report_line
        )
        (outside,) = re.findall(r"^  .*\(outside any request\) at .*$", text_, re.M)
        assert "tests/support/people.py:" in outside
        # The longest first.
        assert text_.index(report_line) < text_.index(outside)

    def test_of_many_holders_fifty_are_named(self, sqlite_url: URL) -> None:
        books = Books(sqlite_url, pool_size=60, max_overflow=0, pool_timeout=0)
        held = [books.engine.connect() for _ in range(60)]
        lines = str(time_out(books)).splitlines()
        assert len([line for line in lines if " s  (outside" in line]) == 50
        assert "  and 10 more" in str(lines)
        for each in held:
            each.close()
        books.engine.dispose()

    def test_a_collection_while_it_is_written_does_not_disturb(
        self, books: Books, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may give a connection back that was just going to be named."""
        first, second = books.engine.connect(), books.engine.connect()
        server_id = books.ledger.database.server_id

        def give_back(connection: object) -> int | None:
            second.close()
            return server_id(connection)

        monkeypatch.setattr(books.ledger.database, "server_id", give_back)
        assert "held by" in str(time_out(books))
        first.close()


class TestServer:
    """Asked while one waits, never for longer than the pool's timeout."""

    def test_it_says_what_each_holder_does(self, served_database: Database) -> None:
        books = Books(served_database.url, pool_size=2, max_overflow=0, pool_timeout=1)
        server = served_database.running_server
        backend = books.engine.dialect.name
        with people(books.engine, 2) as (asleep, idle):
            asleep.take()
            (session,) = books.ledger.sessions_out()
            idle.take().do(lambda: idle.connections[0].execute(text("SELECT 1")))
            query = asleep.start(
                lambda: asleep.connections[0].execute(text(SLEEP[backend]))
            )
            told = wait_for_text(books, "the server says: running a query")
            server.kill_session(session)
            with pytest.raises(exc.DBAPIError):
                query.result(SECONDS)
        # MariaDB tells of transactions only with the PROCESS privilege.
        resting = "idle" if backend == "mysql" else "idle in transaction"
        assert re.search(rf"; the server says: {resting}( \(Background|$)", told, re.M)
        assert told.count("the server says:") == 2
        books.engine.dispose()

    def test_nobody_waits_for_its_answer(self, served_database: Database) -> None:
        books = Books(served_database.url, pool_size=1, max_overflow=0)
        pool = guarded_pool(books.engine)
        stop = Stop()
        with books.engine.connect():
            pool._timeout = 0.1
            event.listen(books.engine, "do_connect", stop)
            error = time_out(books)
            stop.until_reached()  # it is still being asked
            assert "the server says" not in str(error)
            stop.open()
        wait_until(lambda: not pool._inquiry._is_open, what="the answer")
        books.engine.dispose()

    def test_it_is_not_asked_what_nobody_waits_to_hear(self, books: Books) -> None:
        asked: list[object] = []
        with books.engine.connect(), books.engine.connect():
            event.listen(books.engine, "do_connect", lambda *a: asked.append(a))
            time_out(books)
        assert asked == []

    def test_an_answer_that_fails_spoils_nothing(
        self, served_database: Database
    ) -> None:
        books = Books(served_database.url, pool_size=1, max_overflow=0)
        pool = guarded_pool(books.engine)

        failed: list[object] = []

        def fail(*_: object) -> None:
            failed.append(_)
            raise OSError("no route")

        with books.engine.connect():
            pool._timeout = 0.1
            event.listen(books.engine, "do_connect", fail)
            assert "are held by" in str(time_out(books))
            wait_until(lambda: not pool._inquiry._is_open, what="the answer")
            event.remove(books.engine, "do_connect", fail)
        assert len(failed) == 1
        books.engine.dispose()


def wait_for_text(books: Books, expected: str) -> str:
    """Time out until the server has told something; it may be slow at first."""
    for _ in range(20):
        told = str(time_out(books))
        if expected in told:
            return told
    raise AssertionError(f"{expected!r} was never told, last: {told}")
