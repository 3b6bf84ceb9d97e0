"""Responses that stream: what they read from stays out as long as they do."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from flask import (
    Flask,
    Response,
    abort,
    copy_current_request_context,
    current_app,
    has_app_context,
    has_request_context,
    send_file,
    stream_with_context,
)
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session
from werkzeug.test import create_environ

from flask_poolguard import LeakError
from flask_poolguard.tracking.current_scope import MERGED
from tests.conftest import Database
from tests.support.shop import Shop, Witness, take_connection

LOGGER = "flask_poolguard"
COUNT = text("SELECT COUNT(*) FROM item")
ADD = text("INSERT INTO item (name) VALUES ('stray')")
CHUNKS = 5


class BrokenStreamError(Exception):
    """What a generator raises in the middle."""


class FileWrapper:
    """What a server offers as `wsgi.file_wrapper`, with a fast path of its own."""

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.file.read(self.block_size)
        if not data:
            raise StopIteration
        return data

    def close(self) -> None:
        self.file.close()


class Call:
    """One call of an app, as a server makes it.

    :ivar body: what the app returned; the server may drop it.
    """

    def __init__(
        self, shop: Shop, path: str, method: str = "GET", *, file_wrapper: Any = None
    ) -> None:
        self.status = ""
        environ = create_environ(path, method=method)
        if file_wrapper is not None:
            environ["wsgi.file_wrapper"] = file_wrapper
        self.body: Any = shop.app(environ, self._start_response)
        self._iterator: Iterator[bytes] | None = None

    def _start_response(self, status: str, headers: object, *_: object) -> Any:
        self.status = status
        return None

    def next(self) -> str:
        """Read one chunk."""
        if self._iterator is None:
            self._iterator = iter(self.body)
        return next(self._iterator).decode()

    def rest(self) -> str:
        """Read to the end."""
        return b"".join(self._iterator or self.body).decode()

    def close(self) -> None:
        """Tell the app that the response is over, as PEP 3333 demands."""
        close = getattr(self.body, "close", None)
        if close is not None:
            close()

    def drop(self) -> None:
        """Forget the response without a word."""
        self.body = self._iterator = None
        gc.collect()


@pytest.fixture
def shop(database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[Shop]:
    """Run an app that streams in several ways."""
    caplog.set_level(logging.CRITICAL, LOGGER)
    with Shop(database.url) as shop:
        add_streams(shop)
        yield shop
        assert not has_app_context()


def chunks(query: Callable[[], object]) -> Iterator[str]:
    """Stream the results of a query."""
    for _ in range(CHUNKS):
        yield f"{query()};"


def add_streams(shop: Shop) -> None:
    """Serve one stream for each way of getting at the database."""

    @shop.route
    def handed_connection() -> Iterator[str]:
        connection = shop.keep(shop.engine.connect())
        connection.execute(ADD)
        return chunks(lambda: connection.scalar(COUNT))

    @shop.route
    def handed_session() -> Iterator[str]:
        session = shop.keep(Session(shop.engine))
        session.execute(ADD)
        return chunks(lambda: session.scalar(COUNT))

    @shop.route
    def own_connection() -> Iterator[str]:
        def stream() -> Iterator[str]:
            connection = shop.keep(shop.engine.connect())
            connection.execute(ADD)
            yield from chunks(lambda: connection.scalar(COUNT))

        return stream()

    @shop.route
    def with_context() -> Iterator[str]:
        def stream() -> Iterator[str]:
            shop.keep(shop.db.session())
            shop.db.session.execute(ADD)
            yield from chunks(lambda: shop.db.session.scalar(COUNT))

        return stream_with_context(stream())

    @shop.route
    def with_context_and_connection() -> Iterator[str]:
        outside = shop.keep(shop.engines["other"].connect())
        outside.scalar(text("SELECT COUNT(*) FROM note"))

        def stream() -> Iterator[str]:
            connection = shop.keep(shop.engine.connect())
            connection.execute(ADD)
            yield from chunks(lambda: connection.scalar(COUNT))
            outside.scalar(text("SELECT COUNT(*) FROM note"))

        return stream_with_context(stream())

    shop.app.add_url_rule("/fine", view_func=lambda: str(shop.db.session.scalar(COUNT)))


STREAMS = (
    "handed_connection",
    "handed_session",
    "own_connection",
    "with_context",
    "with_context_and_connection",
)


class TestEnds:
    def test_read_to_the_end(self, shop: Shop) -> None:
        for stream in STREAMS:
            call = Call(shop, f"/{stream}")
            assert call.rest() == "2;" * CHUNKS
            call.close()
            assert shop.out() == 0, stream
            Witness(shop).assert_nothing_left()

    def test_it_works_while_it_streams_and_other_requests_are_served(
        self, shop: Shop
    ) -> None:
        for stream in STREAMS:
            call = Call(shop, f"/{stream}")
            assert call.next() == "2;"
            assert shop.out() >= 1
            assert in_thread(lambda: shop.client.get("/fine").text) == "1"
            assert call.rest() == "2;" * (CHUNKS - 1)
            call.close()
            assert shop.out() == 0, stream

    def test_the_client_goes_away_half_way(self, shop: Shop) -> None:
        for stream in STREAMS:
            call = Call(shop, f"/{stream}")
            call.next()
            call.close()
            assert shop.out() == 0, stream
            Witness(shop).assert_nothing_left()

    def test_the_client_goes_away_before_anything_is_read(self, shop: Shop) -> None:
        for stream in STREAMS:
            call = Call(shop, f"/{stream}")
            call.close()
            assert shop.out() == 0, stream
            Witness(shop).assert_nothing_left()

    def test_the_server_drops_it_without_a_word(self, shop: Shop) -> None:
        for stream in STREAMS:
            call = Call(shop, f"/{stream}")
            call.next()
            call.drop()
            read_all(Call(shop, "/fine"))
            assert shop.out() == 0, stream
            Witness(shop).assert_nothing_left()

    def test_the_server_never_closes_it_and_its_thread_serves_the_next_request(
        self, shop: Shop
    ) -> None:
        for stream in STREAMS:
            left = Call(shop, f"/{stream}")
            left.next()
            is_in_the_way = has_app_context()
            following = Call(shop, "/fine")
            assert following.rest() == "1"
            following.close()
            # One that left no context may be read in turns with others.
            assert shop.out() == (0 if is_in_the_way else 1), stream
            assert not has_app_context()
            assert not has_request_context()
            left.close()
            assert shop.out() == 0, stream
            Witness(shop).assert_nothing_left()

    def test_closing_it_twice_is_harmless(self, shop: Shop) -> None:
        for stream in STREAMS:
            call = Call(shop, f"/{stream}")
            call.next()
            call.close()
            following = Call(shop, f"/{stream}")
            following.next()
            out = shop.out()
            call.close()
            assert shop.out() == out
            assert following.rest() == "2;" * (CHUNKS - 1)
            following.close()
            assert shop.out() == 0, stream

    def test_only_the_headers_are_asked_for(self, shop: Shop) -> None:
        for stream in STREAMS:
            call = Call(shop, f"/{stream}", "HEAD")
            assert call.status == "200 OK"
            assert call.rest() == ""
            call.close()
            assert shop.out() == 0, stream
            Witness(shop).assert_nothing_left()

    @pytest.mark.parametrize("context", [False, True], ids=["plain", "context"])
    def test_the_stream_breaks_in_the_middle(self, shop: Shop, context: bool) -> None:
        @shop.route
        def broken() -> Iterator[str]:
            connection = shop.keep(shop.engine.connect())

            def stream() -> Iterator[str]:
                connection.execute(ADD)
                yield "begun"
                take_connection_of_other_bind(shop)
                raise BrokenStreamError

            return stream_with_context(stream()) if context else stream()

        call = Call(shop, "/broken")
        assert call.next() == "begun"
        with pytest.raises(BrokenStreamError):
            call.next()
        call.close()
        assert shop.out() == 0
        assert not has_app_context()
        Witness(shop).assert_nothing_left()

    def test_it_is_collected_in_another_thread(self, shop: Shop) -> None:
        call = Call(shop, "/handed_connection")
        call.next()
        in_thread(call.drop)
        read_all(Call(shop, "/fine"))
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    def test_it_is_collected_in_the_middle_of_another_request(self, shop: Shop) -> None:
        """Its end must not be taken for the end of that request."""
        calls: list[Call] = []

        @shop.route
        def collecting() -> Iterator[str]:
            connection = shop.keep(shop.engines["other"].connect())
            calls.pop().drop()
            count = text("SELECT COUNT(*) FROM note")
            return chunks(lambda: connection.scalar(count))

        calls.append(Call(shop, "/handed_connection"))
        calls[0].next()
        assert in_thread(lambda: read_all(Call(shop, "/collecting"))) == "1;" * CHUNKS
        read_all(Call(shop, "/fine"))
        assert shop.out() == 0

    def test_another_thread_reads_and_closes_it(self, shop: Shop) -> None:
        """Some servers hand the response over to a thread that writes."""
        call = Call(shop, "/own_connection")
        assert in_thread(lambda: read_all(call)) == "2;" * CHUNKS
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()


def in_thread(work: Callable[[], Any]) -> Any:
    """Return the result of something done in another thread."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result(20)


def read_all(call: Call) -> str:
    """Read a response to its end and close it."""
    try:
        return call.rest()
    finally:
        call.close()


def take_connection_of_other_bind(shop: Shop) -> None:
    """Take a connection that nobody gives back."""
    shop.keep(shop.engines["other"].connect())


@pytest.mark.filterwarnings(
    # Flask cannot pop a context in a thread in which it was not pushed, and says so.
    "ignore:Exception ignored in. <generator object stream_with_context"
    ":pytest.PytestUnraisableExceptionWarning"
)
class TestCollectedInAnotherThread:
    """A stream with a context, of which the server never told the end."""

    def abandon(self, shop: Shop) -> None:
        """Leave a stream, with its context in this thread, to the collector."""
        call = Call(shop, "/with_context")
        call.next()
        shop.kept.clear()
        cycle = [call.body]
        cycle.append(cycle)
        call.body = call._iterator = None

    def test_its_session_is_not_inherited_by_the_next_requests(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, LOGGER)

        @shop.route
        def commit() -> str:
            shop.db.session.scalar(COUNT)
            shop.db.session.commit()
            return "committed"

        gc.disable()
        try:
            self.abandon(shop)
            in_thread(gc.collect)
        finally:
            gc.enable()
        for _ in range(3):
            assert read_all(Call(shop, "/commit")) == "committed"
            assert not has_app_context()
            assert not has_request_context()
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()
        (record,) = [r for r in caplog.records if r.name == LOGGER]
        assert "session of with_context was left in the middle" in record.getMessage()
        assert "never popped" in record.getMessage()

    def test_its_session_is_not_inherited_if_another_thread_serves_first(
        self, shop: Shop
    ) -> None:
        gc.disable()
        try:
            self.abandon(shop)
            in_thread(gc.collect)
        finally:
            gc.enable()
        assert in_thread(lambda: read_all(Call(shop, "/fine"))) == "1"
        assert read_all(Call(shop, "/fine")) == "1"
        assert not has_app_context()
        assert not has_request_context()
        assert shop.out() == 0

    @pytest.mark.parametrize("at_end_of", ["request", "appcontext"])
    def test_the_request_in_which_it_is_collected_goes_on(
        self, shop: Shop, at_end_of: str
    ) -> None:
        """Flask before 3.2 takes its end for the end of that request's context."""

        def remove(error: BaseException | None) -> None:
            shop.db.session.remove()

        getattr(shop.app, f"teardown_{at_end_of}")(remove)

        @shop.route
        def collecting() -> str:
            note = shop.Note(name="added")
            shop.db.session.add(note)
            shop.db.session.flush()
            connection = shop.engines["other"].connect()
            gc.collect()
            count = connection.scalar(text("SELECT COUNT(*) FROM note"))
            connection.close()
            shop.db.session.commit()
            return f"{count} {note.name}"

        gc.disable()
        try:
            self.abandon(shop)
            answer = in_thread(lambda: read_all(Call(shop, "/collecting")))
        finally:
            gc.enable()
        assert answer == "1 added"
        assert read_all(Call(shop, "/fine")) == "1"
        assert not has_app_context()
        assert not has_request_context()
        assert shop.out() == 0
        assert Witness(shop).names() == ["added", "seed", "seed"]


class _PopsWhenCollected:
    """Has pushed a context of an app, which it pops when it is collected."""

    def __init__(self, app: Flask) -> None:
        self._context = app.app_context()
        self._context.push()
        self._cycle = self

    def __del__(self) -> None:
        self._context.pop()


def _pops_when_closed(app: Flask) -> Iterator[None]:
    context = app.app_context()
    context.push()
    with contextlib.suppress(GeneratorExit):
        yield
    context.pop()


def _pops_at_its_end(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


class TestPoppedElsewhere:
    """A context of another thread that is popped in the middle of a request."""

    # What Flask raises within a collection reaches no code.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.skipif(MERGED, reason="Flask checks where it is there")
    @pytest.mark.parametrize(
        "push", [_PopsWhenCollected, _pops_when_closed, _pops_at_its_end]
    )
    def test_the_request_goes_on(
        self, shop: Shop, push: Callable[[Flask], object]
    ) -> None:
        held: list[object] = []

        def hold() -> None:
            held.append(push(shop.app))
            if isinstance(held[0], Iterator):
                next(held[0])

        @shop.route
        def popping() -> str:
            shop.db.session.add(shop.Note(name="added"))
            shop.db.session.flush()
            if push is _pops_at_its_end:
                # Flask cannot pop it here, and says so.
                with contextlib.suppress(ValueError, AssertionError, StopIteration):
                    next(cast(Iterator[None], held[0]))
            held.clear()
            gc.collect()
            shop.db.session.commit()
            return "committed"

        in_thread(hold)
        assert in_thread(lambda: read_all(Call(shop, "/popping"))) == "committed"
        assert Witness(shop).names() == ["added", "seed", "seed"]


class TestWhatIsSaid:
    """Of a stream whose generator closes what it was handed, nothing is said."""

    def test_a_tidy_stream_is_no_leak(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, LOGGER)

        @shop.route
        def tidy() -> Iterator[str]:
            connection = shop.engine.connect()

            def stream() -> Iterator[str]:
                with connection:
                    yield from chunks(lambda: connection.scalar(COUNT))

            return stream()

        for end in (Call.rest, Call.next):
            call = Call(shop, "/tidy")
            end(call)
            call.close()
        assert shop.out() == 0
        assert shop.tracker.figures.counts["leaks"] == 0
        assert [r for r in caplog.records if r.name == LOGGER] == []

    def test_a_connection_that_is_closed_with_the_response_is_no_leak(
        self, shop: Shop
    ) -> None:
        @shop.route
        def on_close() -> Response:
            connection = shop.engine.connect()
            response = Response(chunks(lambda: connection.scalar(COUNT)))
            response.call_on_close(connection.close)
            return response

        call = Call(shop, "/on_close")
        call.next()
        call.close()
        assert shop.out() == 0
        assert shop.tracker.figures.counts["leaks"] == 0

    def test_a_server_that_never_closes_is_named_once(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, LOGGER)
        left = Call(shop, "/with_context")
        left.next()
        for _ in range(3):
            Call(shop, "/fine").close()
        (record,) = [r for r in caplog.records if r.name == LOGGER]
        assert "response of with_context was never closed" in record.getMessage()

    def test_a_leak_raises_when_the_response_is_closed(
        self, database: Database
    ) -> None:
        with Shop(database.url, POOLGUARD_ON_LEAK="raise") as shop:
            add_streams(shop)
            call = Call(shop, "/handed_connection")
            call.rest()
            with pytest.raises(LeakError, match="handed_connection did not give back"):
                call.close()
            assert shop.out() == 0
            Witness(shop).assert_nothing_left()


class TestErrorPages:
    """They are streamed by Werkzeug, but read nothing from the database."""

    @pytest.mark.parametrize("fails", [lambda: abort(404), lambda: 1 / 0])
    def test_what_the_view_took_is_back_before_the_page_is_read(
        self, shop: Shop, fails: Callable[[], Any]
    ) -> None:
        @shop.route
        def failing() -> Any:
            take_connection(shop)
            return fails()

        call = Call(shop, "/failing")
        assert call.status.startswith(("404", "500"))
        assert shop.out() == 0
        assert "<h1>" in call.rest()
        call.close()


class TestTestClient:
    """Tests of server-sent events read responses in turns, in one thread."""

    def test_two_streams_are_read_in_turns(self, served_database: Database) -> None:
        with Shop(served_database.url) as shop:
            add_streams(shop)
            for stream in STREAMS:
                self.read_in_turns(shop, stream)

    def read_in_turns(self, shop: Shop, stream: str) -> None:
        """Read two streams, of which the second may be with a context."""
        first = shop.client.get("/handed_connection")
        second = shop.client.get(f"/{stream}")
        ones, twos = iter(first.response), iter(second.response)
        for _ in range(CHUNKS):
            assert next(ones) == b"2;"
            assert next(twos) == b"2;"
        second.close()
        first.close()
        assert shop.out() == 0, stream

    def test_requests_between_two_chunks(self, shop: Shop) -> None:
        for stream in STREAMS:
            response = shop.client.get(f"/{stream}")
            read = iter(response.response)
            for _ in range(CHUNKS):
                # Flask before 3.2 lets a request share the context that a stream
                # left on this thread, so it may see what the stream has written.
                assert shop.client.get("/fine").text in ("1", "2")
                assert next(read) == b"2;"
            response.close()
            assert shop.out() == 0, stream
            Witness(shop).assert_nothing_left()


class TestInnerContextsOfAStream:
    def test_they_end_at_once_and_are_not_remembered(self, shop: Shop) -> None:
        seen: list[tuple[int, int]] = []

        @shop.route
        def events() -> Iterator[str]:
            from flask_poolguard.tracking.current_scope import current_wsgi_scope

            def stream() -> Iterator[str]:
                for _ in range(20):
                    with shop.app.app_context():
                        shop.keep(shop.engine.connect()).scalar(COUNT)
                    response = current_wsgi_scope()
                    assert response is not None
                    seen.append((shop.out(), len(response.contexts)))
                    yield "event;"

            return stream()

        call = Call(shop, "/events")
        call.rest()
        call.close()
        assert set(seen) == {(0, 1)}

    def test_a_thread_of_the_stream_is_a_bystander(self, shop: Shop) -> None:
        @shop.route
        def view() -> Iterator[str]:
            result: list[int] = []

            @copy_current_request_context
            def work() -> None:
                result.append(int(shop.db.session.scalar(COUNT)))

            def stream() -> Iterator[str]:
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
                yield str(result[0])

            return stream()

        call = Call(shop, "/view")
        assert call.rest() == "1"
        call.close()
        assert shop.out() == 0


class TestFiles:
    @pytest.fixture(autouse=True)
    def files(self, shop: Shop, tmp_path: Any) -> None:
        """Serve a file, a report made in memory, and one read from the database."""
        (tmp_path / "file.txt").write_text("contents")

        @shop.route
        def file() -> Response:
            return send_file(tmp_path / "file.txt")

        @shop.route
        def report() -> Response:
            return send_file(io.BytesIO(b"contents"), mimetype="text/plain")

        @shop.route
        def forgetful_file() -> Response:
            take_connection(shop)
            return send_file(tmp_path / "file.txt")

        @shop.route
        def from_database() -> Response:
            reader = DatabaseReader(shop.keep(shop.engine.connect()))
            return send_file(reader, mimetype="text/plain")  # type: ignore[arg-type] # reads like one

    @pytest.mark.parametrize("path", ["/file", "/report"])
    def test_the_servers_file_wrapper_is_not_touched(
        self, shop: Shop, path: str
    ) -> None:
        call = Call(shop, path, file_wrapper=FileWrapper)
        assert type(call.body) is FileWrapper
        assert call.rest() == "contents"
        call.close()

    def test_a_file_that_the_server_takes_as_it_is_is_not_touched(
        self, shop: Shop
    ) -> None:
        """The `wsgi.file_wrapper` of uWSGI is a function that returns the file."""
        call = Call(shop, "/file", file_wrapper=lambda file, _: file)
        assert isinstance(call.body, io.BufferedReader)
        call.close()

    @pytest.mark.parametrize("wrapper", [None, FileWrapper])
    def test_a_leak_beside_a_file_is_back_after_it(
        self, shop: Shop, wrapper: type | None
    ) -> None:
        call = Call(shop, "/forgetful_file", file_wrapper=wrapper)
        assert call.rest() == "contents"
        call.close()
        assert shop.out() == 0
        Witness(shop).assert_nothing_left()

    @pytest.mark.parametrize("wrapper", [None, FileWrapper])
    def test_a_file_that_is_read_from_the_database_keeps_its_connection(
        self, shop: Shop, wrapper: type | None
    ) -> None:
        call = Call(shop, "/from_database", file_wrapper=wrapper)
        assert call.rest() == "seed"
        call.close()
        assert shop.out() == 0


class DatabaseReader:
    """Reads like a file, from a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read = False

    def read(self, size: int = -1) -> bytes:
        """Return everything the first time."""
        if self._read:
            return b""
        self._read = True
        name: str = self._connection.scalar(text("SELECT name FROM item"))
        return name.encode()

    def close(self) -> None:
        """Do nothing: the connection is forgotten."""


class TestOtherBodies:
    def test_middleware_within_may_return_any_iterable(self, shop: Shop) -> None:
        inner = shop.app.wsgi_app

        class Upper:
            """A body that is iterable, but no iterator."""

            def __init__(self, body: Iterable[bytes]) -> None:
                self._body = body

            def __iter__(self) -> Iterator[bytes]:
                for chunk in self._body:
                    yield chunk.upper()

            def close(self) -> None:
                getattr(self._body, "close", lambda: None)()

        @shop.route
        def words() -> Iterator[str]:
            connection = shop.keep(shop.engine.connect())
            return chunks(lambda: connection.scalar(text("SELECT name FROM item")))

        shop.app.wsgi_app = lambda *args: Upper(inner(*args))  # type: ignore[method-assign] # as Flask's documentation does it
        call = Call(shop, "/words")
        assert call.rest() == "SEED;" * CHUNKS
        call.close()
        assert shop.out() == 0

    def test_the_view_may_return_another_wsgi_app(self, shop: Shop) -> None:
        @shop.route
        def delegate() -> Any:
            connection = shop.keep(shop.engine.connect())

            def application(environ: Any, start_response: Any) -> Iterable[bytes]:
                start_response("200 OK", [("Content-Type", "text/plain")])
                return (
                    chunk.encode() for chunk in chunks(lambda: connection.scalar(COUNT))
                )

            return application

        call = Call(shop, "/delegate")
        assert call.rest() == "1;" * CHUNKS
        call.close()
        assert shop.out() == 0

    def test_a_stream_may_ask_for_the_current_app(self, shop: Shop) -> None:
        @shop.route
        def named() -> Iterator[str]:
            def stream() -> Iterator[str]:
                yield current_app.name

            return stream_with_context(stream())

        call = Call(shop, "/named")
        assert call.rest() == "shop"
        call.close()
