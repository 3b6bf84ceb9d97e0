"""Another thread that still works with its connection is left alone."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from flask import copy_current_request_context
from sqlalchemy import Connection, text

from tests.conftest import Database
from tests.support.servers import DatabaseServer
from tests.support.shop import SEED, Shop, Witness, take_connection
from tests.support.waiting import wait_until

COUNT = text("SELECT COUNT(*) FROM item")
ADD = text("INSERT INTO item (name) VALUES ('added')")


class Bystander:
    """A thread that works on while the request that started it ends.

    :ivar request_over: to be set when it may go on.
    """

    def __init__(self) -> None:
        self.at_work = threading.Event()
        self.request_over = threading.Event()
        self.result: Future[Any] = Future()
        self._thread: threading.Thread | None = None

    def start(
        self, work: Callable[[], Any], *, context: contextvars.Context | None = None
    ) -> None:
        """Start to work; returns when the work says that it is `at_work`."""

        def run() -> None:
            try:
                self.result.set_result(context.run(work) if context else work())
            except BaseException as error:
                self.result.set_exception(error)
            finally:
                self.at_work.set()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert self.at_work.wait(10)

    def pause(self) -> None:
        """Wait, in the thread, for the end of the request."""
        self.at_work.set()
        assert self.request_over.wait(10)

    def finish(self) -> Any:
        """Let it go on, and return what it came to."""
        self.request_over.set()
        try:
            return self.result.result(10)
        finally:
            assert self._thread is not None
            self._thread.join(10)


@pytest.fixture
def shop(database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[Shop]:
    """Run an app; the guard's warnings are the subject of other tests."""
    caplog.set_level(logging.CRITICAL, "flask_poolguard")
    with Shop(database.url) as shop:
        shop.app.add_url_rule("/fine", view_func=lambda: "fine")
        yield shop


@pytest.fixture
def bystander() -> Bystander:
    """Return a thread that was not started yet."""
    return Bystander()


class TestInTheMiddle:
    def test_a_transaction_in_a_copied_context_goes_on(
        self, shop: Shop, bystander: Bystander
    ) -> None:
        def work() -> int:
            with shop.engine.begin() as connection:
                connection.execute(ADD)
                bystander.pause()
                return int(connection.scalar(COUNT))

        @shop.route
        def view() -> str:
            bystander.start(work, context=contextvars.copy_context())
            return "answered"

        assert shop.client.get("/view").text == "answered"
        shop.client.get("/fine")
        assert bystander.finish() == 2
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", SEED, SEED]

    def test_a_copied_request_context_has_a_session_of_its_own(
        self, shop: Shop, bystander: Bystander
    ) -> None:
        def work() -> int:
            shop.db.session.execute(ADD)
            bystander.pause()
            count = shop.db.session.scalar(COUNT)
            shop.db.session.commit()
            return int(count)

        @shop.route
        def view() -> str:
            bystander.start(copy_current_request_context(work))
            return "answered"

        assert shop.client.get("/view").text == "answered"
        shop.client.get("/fine")
        assert bystander.finish() == 2
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", SEED, SEED]

    def test_an_app_context_pushed_in_a_copied_context_goes_on(
        self, shop: Shop, bystander: Bystander
    ) -> None:
        def work() -> int:
            with shop.app.app_context():
                shop.db.session.execute(ADD)
                connection = shop.keep(shop.engines["other"].connect())
                bystander.pause()
                count = shop.db.session.scalar(COUNT)
                shop.db.session.commit()
                assert connection.scalar(text("SELECT COUNT(*) FROM note")) == 1
            return int(count)

        @shop.route
        def view() -> str:
            bystander.start(work, context=contextvars.copy_context())
            return "answered"

        assert shop.client.get("/view").text == "answered"
        shop.client.get("/fine")
        assert bystander.finish() == 2
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", SEED, SEED]

    def test_its_end_leaves_a_streaming_response_alone(
        self, shop: Shop, bystander: Bystander
    ) -> None:
        def work() -> None:
            with shop.app.app_context():
                shop.db.session.scalar(COUNT)
                bystander.pause()

        @shop.route
        def view() -> Iterator[str]:
            connection = shop.engine.connect()
            connection.scalar(COUNT)
            bystander.start(work, context=contextvars.copy_context())

            def stream() -> Iterator[str]:
                yield "begun,"
                with connection:
                    yield str(connection.scalar(COUNT))

            return stream()

        response = shop.client.get("/view")
        bystander.finish()
        assert response.text == "begun,1"
        response.close()
        assert shop.out() == 0


GATES = {
    "MariaDB": (  # of this database: the server's names of locks are for all
        "SELECT GET_LOCK(CONCAT(DATABASE(), '.gate'), 30)",
        "SELECT RELEASE_LOCK(CONCAT(DATABASE(), '.gate'))",
    ),
    "PostgreSQL": (
        "SELECT 1 FROM (SELECT pg_advisory_lock(7)) AS lock",
        "SELECT pg_advisory_unlock(7)",
    ),
}
WAITING = {
    "MariaDB": "SELECT COUNT(*) FROM information_schema.processlist"
    " WHERE state = 'User lock' AND db = '{database}'",
    "PostgreSQL": "SELECT COUNT(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = '{database}'",
}


class TestInMidQuery:
    def test_it_gets_its_answer(
        self, served_database: Database, bystander: Bystander
    ) -> None:
        server: DatabaseServer = served_database.running_server
        close, open_ = (text(sql) for sql in GATES[server.product])
        waiting = WAITING[server.product].format(database=served_database.url.database)
        with Shop(served_database.url) as shop:
            shop.app.add_url_rule("/fine", view_func=lambda: "fine")

            def work() -> int:
                with shop.engine.connect() as connection:
                    bystander.at_work.set()
                    return int(connection.scalar(close))

            @shop.route
            def view() -> str:
                bystander.start(work, context=contextvars.copy_context())
                wait_until(lambda: server.query(waiting)[0][0], what="mid-query")
                return "answered"

            with shop.engine.connect() as gate:
                gate.execute(close)
                assert shop.client.get("/view").text == "answered"
                shop.client.get("/fine")
                assert shop.out() == 2
                gate.execute(open_)
                assert bystander.finish() == 1
            assert shop.out() == 0


class TestAfterwards:
    def test_what_a_thread_left_is_back_once_it_has_ended(
        self, shop: Shop, bystander: Bystander
    ) -> None:
        def work() -> None:
            take_connection(shop)
            bystander.pause()

        @shop.route
        def view() -> str:
            bystander.start(work, context=contextvars.copy_context())
            return "answered"

        shop.client.get("/view")
        shop.client.get("/fine")
        assert shop.out() == 1
        bystander.finish()
        shop.client.get("/fine")
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_a_thread_that_ends_before_the_request_leaves_nothing(
        self, shop: Shop, bystander: Bystander
    ) -> None:
        @shop.route
        def view() -> str:
            bystander.start(
                lambda: take_connection(shop), context=contextvars.copy_context()
            )
            bystander.finish()
            return "answered"

        shop.client.get("/view")
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_what_an_executor_left_is_back_once_it_is_shut_down(
        self, shop: Shop
    ) -> None:
        executor = ThreadPoolExecutor(1)

        @shop.route
        def view() -> str:
            executor.submit(
                contextvars.copy_context().run, take_connection, shop
            ).result(10)
            return "answered"

        shop.client.get("/view")
        shop.client.get("/fine")
        assert shop.out() == 1
        executor.shutdown()
        shop.client.get("/fine")
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_of_many_requests_that_look_at_once_one_gives_it_back(
        self, shop: Shop, bystander: Bystander
    ) -> None:
        def work() -> None:
            for _ in range(10):
                shop.keep(shop.engine.connect())
            bystander.pause()

        @shop.route
        def view() -> str:
            bystander.start(work, context=contextvars.copy_context())
            return "answered"

        shop.client.get("/view")
        assert shop.out() == 10
        bystander.finish()
        with ThreadPoolExecutor(8) as executor:
            answers = executor.map(lambda _: shop.client.get("/fine").text, range(16))
            assert set(answers) == {"fine"}
        assert shop.out() == 0
        assert shop.tracker.figures.counts["leaks"] == 10
        # Had one come back twice, two would have the same connection now.
        taken: list[Connection] = [shop.engine.connect() for _ in range(10)]
        assert len({id(each.connection.dbapi_connection) for each in taken}) == 10
        for each in taken:
            each.close()
