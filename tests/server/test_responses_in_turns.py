"""Several responses at a time in one thread, and one response in several threads."""

from __future__ import annotations

import contextvars
import gc
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from werkzeug.test import create_environ

from tests.conftest import Database
from tests.support.shop import Shop, Witness

LOGGER = "flask_poolguard"
COUNT = text("SELECT COUNT(*) FROM item")
CHUNKS = 4

Environ = dict[str, Any]


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    """Run an app that streams from a connection that nobody gives back."""
    with Shop(database.url) as shop:

        @shop.route
        def rows() -> Iterator[str]:
            connection = shop.keep(shop.engine.connect())
            return (f"{connection.scalar(COUNT)};" for _ in range(CHUNKS))

        @shop.route
        def numbers() -> Iterator[str]:
            return (f"{number};" for number in range(CHUNKS))

        @shop.route
        def fine() -> str:
            return str(shop.db.session.scalar(COUNT))

        yield shop


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the leaks of these tests out of the log."""
    caplog.set_level(logging.CRITICAL, LOGGER)


def call(shop: Shop, path: str, environ: Environ | None = None) -> Any:
    """Call the app as a server or a middleware does; return the response's body.

    :param environ: that of the request for which the call is made.
    """
    environ = create_environ() if environ is None else environ
    return shop.app({**environ, "PATH_INFO": path}, lambda *_: lambda _: None)


def read(body: Any) -> str:
    """Read a body to its end and close it."""
    try:
        return b"".join(body).decode()
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


ROWS = "1;" * CHUNKS
NUMBERS = "".join(f"{number};" for number in range(CHUNKS))


@pytest.mark.usefixtures("quiet")
class TestMiddleware:
    """One that answers a request with what several calls of the app return."""

    def test_two_bodies_are_read_one_after_the_other(self, shop: Shop) -> None:
        environ = create_environ()
        bodies = [call(shop, path, environ) for path in ("/rows", "/numbers")]
        assert [b"".join(body).decode() for body in bodies] == [ROWS, NUMBERS]
        for body in bodies:
            body.close()
        assert shop.out() == 0

    @pytest.mark.parametrize("second", ["/rows", "/numbers"])
    def test_two_bodies_are_read_in_turns(self, shop: Shop, second: str) -> None:
        environ = create_environ()
        bodies = [call(shop, path, environ) for path in ("/rows", second)]
        chunks = list(zip(*bodies, strict=True))
        assert b"".join(first for first, _ in chunks).decode() == ROWS
        expected = ROWS if second == "/rows" else NUMBERS
        assert b"".join(other for _, other in chunks).decode() == expected
        for body in bodies:
            body.close()
        assert shop.out() == 0

    def test_a_call_between_two_chunks_leaves_the_first_body_whole(
        self, shop: Shop
    ) -> None:
        environ = create_environ()
        body = call(shop, "/rows", environ)
        chunks = []
        for chunk in body:
            chunks.append(chunk.decode())
            assert read(call(shop, "/fine", environ)) == "1"
        body.close()
        assert "".join(chunks) == ROWS
        assert shop.out() == 0

    def test_nothing_is_said_of_bodies_that_are_closed_in_the_end(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, LOGGER)
        environ = create_environ()
        bodies = [call(shop, "/numbers", environ) for _ in range(2)]
        for body in bodies:
            assert read(body) == NUMBERS
        assert [r for r in caplog.records if r.name == LOGGER] == []


@pytest.fixture
def calling() -> Iterator[ThreadPoolExecutor]:
    """Run a server's thread that calls the app."""
    with ThreadPoolExecutor(1, "calling") as executor:
        yield executor


@pytest.fixture
def reading() -> Iterator[ThreadPoolExecutor]:
    """Run a server's thread that reads what the app returned."""
    with ThreadPoolExecutor(1, "reading") as executor:
        yield executor


def within(executor: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Any:
    """Return the result of something done in another thread."""
    return executor.submit(work, *args).result(20)


@pytest.mark.usefixtures("quiet")
class TestThreads:
    def test_a_body_that_another_thread_reads_stays_whole_while_its_own_serves(
        self, shop: Shop, calling: ThreadPoolExecutor, reading: ThreadPoolExecutor
    ) -> None:
        body = within(calling, call, shop, "/rows")
        chunks = []
        for _ in range(CHUNKS):
            chunks.append(within(reading, next, body).decode())
            assert within(calling, lambda: read(call(shop, "/fine"))) == "1"
        assert within(reading, next, body, None) is None
        within(reading, body.close)
        assert "".join(chunks) == ROWS
        assert shop.out() == 0

    def test_a_body_that_waits_to_be_read_stays_whole_while_its_thread_serves(
        self, shop: Shop, calling: ThreadPoolExecutor, reading: ThreadPoolExecutor
    ) -> None:
        body = within(calling, call, shop, "/rows")
        assert within(calling, lambda: read(call(shop, "/fine"))) == "1"
        assert within(reading, read, body) == ROWS
        assert shop.out() == 0


@pytest.mark.usefixtures("quiet")
class TestDroppedResponses:
    def test_one_that_was_never_read_ends_with_the_next_call_of_any_thread(
        self, shop: Shop, calling: ThreadPoolExecutor
    ) -> None:
        body = call(shop, "/rows")
        assert shop.out() == 1
        del body
        gc.collect()
        assert within(calling, lambda: read(call(shop, "/fine"))) == "1"
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_several_that_were_never_read_end_together(self, shop: Shop) -> None:
        bodies = [call(shop, "/rows") for _ in range(3)]
        assert shop.out() == 3
        bodies.clear()
        gc.collect()
        assert read(call(shop, "/fine")) == "1"
        assert shop.out() == 0

    @pytest.mark.parametrize("chunks", [0, 1], ids=["unread", "half read"])
    def test_their_finalizer_touches_no_context_variable(
        self, shop: Shop, chunks: int
    ) -> None:
        """A collection may strike while one is being set; CPython 3.11 crashes then."""
        bodies = [call(shop, "/rows")]
        for _ in range(chunks):
            assert next(bodies[0]) == b"1;"

        def drop() -> tuple[dict[Any, Any], dict[Any, Any]]:
            before = dict(contextvars.copy_context().items())
            bodies.clear()
            gc.collect()
            return before, dict(contextvars.copy_context().items())

        # A context without any value: to set one, and to set it back, would show.
        before, after = contextvars.Context().run(drop)
        assert after == before
        assert read(call(shop, "/fine")) == "1"
        assert shop.out() == 0
