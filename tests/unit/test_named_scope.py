"""`guard.scope(name)` is a scope without an app context."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, Response, current_app
from sqlalchemy.orm import Session

from flask_poolguard import (
    ConnectionReturned,
    Leak,
    LeakError,
    LeakWarning,
    PoolGuard,
    connection_leaked,
)
from flask_poolguard.tracking.named_scope import current_named_scope
from tests.support.guarded_app import warnings_of


class Shop:
    """A guarded app with an engine of its own, and the leaks of it."""

    def __init__(self, url: sa.URL, **config: Any) -> None:
        self.app = Flask("shop")
        self.app.config.update(config)
        self.guard = PoolGuard(self.app)
        self.engine = sa.create_engine(url)
        self.guard.register(self.engine)
        self.leaks: list[Leak] = []
        self.told_in: list[str] = []
        connection_leaked.connect(self._note, self.app)

    def _note(self, sender: Flask, leak: Leak) -> None:
        self.leaks.append(leak)
        self.told_in.append(current_app.name)

    def out(self) -> int:
        """Return how many connections are out."""
        out = self.guard.stat(self.app)["default"]["checked_out"]
        assert isinstance(out, int)
        return out

    def names(self) -> list[str]:
        """Return the endpoints of the leaks so far."""
        return [each.endpoint for each in self.leaks]


@pytest.fixture
def make_shop(sqlite_url: sa.URL) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def make(**config: Any) -> Shop:
        shops.append(Shop(sqlite_url, **config))
        return shops[-1]

    yield make
    for each in shops:
        each.engine.dispose()


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()


class TestTheEnd:
    def test_gives_back_what_was_left_and_names_it(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with shop.guard.scope("nightly export"):
            left = shop.engine.connect()
            assert shop.out() == 1
        assert shop.out() == 0
        (leak,) = shop.leaks
        assert (leak.endpoint, leak.action) == ("nightly export", "returned")
        assert "test_named_scope.py" in leak.site
        assert shop.told_in == ["shop"]
        (line,) = warnings_of(caplog)
        assert line.startswith("nightly export did not give back a connection")
        with pytest.raises(sa.exc.StatementError) as info:
            left.execute(sa.text("SELECT 1"))
        assert isinstance(info.value.orig, ConnectionReturned)

    def test_says_nothing_of_what_came_back(self, shop: Shop) -> None:
        with shop.guard.scope("tidy"), shop.engine.connect():
            pass
        assert (shop.out(), shop.leaks) == (0, [])

    def test_ends_a_session(self, shop: Shop) -> None:
        with shop.guard.scope("export"):
            session = Session(shop.engine)
            session.execute(sa.text("SELECT 1"))
        assert shop.names() == ["export"]
        assert not session.in_transaction()

    def test_leaves_an_older_session_and_an_older_connection_alone(
        self, shop: Shop
    ) -> None:
        """Ownership is by birth."""
        with shop.app.app_context():
            pass  # finds the engine
        with Session(shop.engine) as session, shop.engine.connect():
            with shop.guard.scope("export"):
                session.execute(sa.text("SELECT 1"))
            assert shop.out() == 2
        assert shop.leaks == []

    def test_leaves_what_is_kept_alone(self, shop: Shop) -> None:
        with shop.guard.scope("export"):
            kept = shop.guard.keep(shop.engine.connect())
        assert (shop.out(), shop.leaks) == (1, [])
        kept.close()

    def test_comes_also_when_the_block_raises(self, shop: Shop) -> None:
        def fail() -> None:
            with shop.guard.scope("export"):
                shop.engine.connect().begin()
                shop.app.held = shop.engine.connect()  # type: ignore[attr-defined] # kept alive
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert shop.out() == 0

    def test_raises_if_leaks_are_to_raise(self, make_shop: Callable[..., Shop]) -> None:
        shop = make_shop(POOLGUARD_ON_LEAK="raise")
        with pytest.raises(LeakError) as info, shop.guard.scope("export"):
            held = shop.engine.connect()
        assert [each.endpoint for each in info.value.leaks] == ["export"]
        assert (shop.out(), held.closed) == (0, False)

    @pytest.mark.filterwarnings("error::flask_poolguard.LeakWarning")
    def test_raises_a_warning_that_is_an_error(self, shop: Shop) -> None:
        with pytest.raises(LeakWarning), shop.guard.scope("export"):
            held = shop.engine.connect()
        assert (shop.out(), held.closed) == (0, False)

    def test_does_not_hide_the_error_of_the_block(
        self, make_shop: Callable[..., Shop]
    ) -> None:
        shop = make_shop(POOLGUARD_ON_LEAK="raise")
        held = []
        with pytest.raises(ZeroDivisionError), shop.guard.scope("export"):  # noqa: PT012 (it leaks first)
            held.append(shop.engine.connect())
            raise ZeroDivisionError
        assert (shop.out(), shop.names()) == (0, ["export"])


class TestNesting:
    def test_an_inner_scope_has_its_own(self, shop: Shop) -> None:
        with shop.guard.scope("outer"):
            first = shop.engine.connect()
            with shop.guard.scope("inner"):
                held = shop.engine.connect()
                assert shop.out() == 2
            assert (shop.out(), shop.names()) == (1, ["inner"])
            first.close()
        assert (shop.names(), held.closed) == (["inner"], False)

    def test_one_object_may_be_entered_within_itself(self, shop: Shop) -> None:
        scope, held = shop.guard.scope("again"), []
        with scope:
            held.append(shop.engine.connect())
            with scope:
                held.append(shop.engine.connect())
            assert shop.out() == 1
        assert (shop.out(), shop.names()) == (0, ["again", "again"])
        assert repr(scope) == "<scope 'again', open 0 times>"

    def test_blocks_may_end_out_of_order(self, shop: Shop) -> None:
        first, second, held = shop.guard.scope("a"), shop.guard.scope("b"), []
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        held.append(shop.engine.connect())
        second.__exit__(None, None, None)
        assert (shop.out(), shop.names()) == (0, ["b"])
        held.append(shop.engine.connect())
        assert shop.out() == 1  # of no scope
        assert current_named_scope() is None
        held[-1].close()

    def test_a_context_within_has_its_own(self, shop: Shop) -> None:
        with shop.guard.scope("outer"):
            with shop.app.app_context():
                held = shop.engine.connect()
            assert (shop.out(), held.closed) == (0, False)
        assert shop.names() == ["outer"]
        assert shop.leaks[0].action == "returned"  # it is of a task

    def test_a_session_is_of_the_scope_that_it_was_made_in(self, shop: Shop) -> None:
        """A context between two named scopes, which ends before the outer one."""
        with shop.guard.scope("outer"):
            with shop.app.app_context():
                session = Session(shop.engine)
                with shop.guard.scope("inner"):
                    session.execute(sa.text("SELECT 1"))
                assert shop.out() == 1
            assert (shop.out(), len(shop.leaks)) == (0, 1)

    def test_a_request_context_within_has_its_endpoint(self, shop: Shop) -> None:
        shop.app.add_url_rule("/page", "page", lambda: "page")
        held = []
        with shop.guard.scope("test"), shop.app.test_request_context("/page"):
            held.append(shop.engine.connect())
        assert shop.names() == ["page"]

    def test_a_stream_within_has_its_endpoint(self, shop: Shop) -> None:
        held = []

        @shop.app.get("/stream")
        def stream() -> Response:
            def rows() -> Iterator[str]:
                held.append(shop.engine.connect())
                yield "row"

            return Response(rows())

        with shop.guard.scope("test"):
            response = shop.app.test_client().get("/stream")
            assert response.text == "row"
            response.close()
            assert shop.out() == 0
        assert shop.names() == ["stream"]

    def test_one_within_a_context_has_its_own(self, shop: Shop) -> None:
        with shop.app.app_context():
            first = shop.engine.connect()
            with shop.guard.scope("inner"):
                held = shop.engine.connect()
            assert (shop.out(), shop.names()) == (1, ["inner"])
            first.close()
        assert held.closed is False

    def test_a_request_within_has_its_own_endpoint(self, shop: Shop) -> None:
        held = []

        @shop.app.get("/page")
        def page() -> str:
            held.append(shop.engine.connect())
            with shop.guard.scope("part"):
                held.append(shop.engine.connect())
            assert shop.names() == ["part"]
            return "page"

        with shop.guard.scope("test"):
            shop.app.test_client().get("/page")
            assert shop.out() == 0
        assert shop.names() == ["part", "page"]

    def test_a_shared_context_leaves_a_request_its_endpoint(self, shop: Shop) -> None:
        held = []

        @shop.app.get("/page")
        def page() -> str:
            held.append(shop.engine.connect())
            return "page"

        with shop.app.app_context(), shop.guard.scope("test"):
            shop.app.test_client().get("/page")
            assert shop.out() == 0
        assert shop.names() == ["page"]


class TestThreads:
    def test_each_has_its_own(self, shop: Shop) -> None:
        """Also with one object for all."""
        scope, held = shop.guard.scope("job"), []
        both_in, first_ended = threading.Barrier(2), threading.Event()

        def run(is_first: bool) -> None:
            with scope:
                held.append(shop.engine.connect())
                both_in.wait(30)
                if not is_first:
                    first_ended.wait(30)
                    out.append(shop.out())
            if is_first:
                first_ended.set()

        out: list[int] = []
        threads = [threading.Thread(target=run, args=[each]) for each in (True, False)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        assert (out, shop.out(), shop.names()) == ([1], 0, ["job", "job"])

    def test_a_copied_context_does_not_take_it_along(self, shop: Shop) -> None:
        held = []

        def take() -> None:
            held.append(shop.engine.connect())

        with shop.guard.scope("job"):
            run = functools.partial(contextvars.copy_context().run, take)
            thread = threading.Thread(target=run)
            thread.start()
            thread.join(30)
        assert (shop.out(), shop.names()) == (1, [])
        held[0].close()


class TestDecorator:
    def test_opens_a_scope_for_each_call(self, shop: Shop) -> None:
        held = []

        @shop.guard.scope("job")
        def job(depth: int) -> int:
            """Do it."""
            held.append(shop.engine.connect())
            if depth:
                job(depth - 1)
                assert shop.out() == 1
            return depth

        assert job(1) == 1
        assert (job.__name__, job.__doc__) == ("job", "Do it.")
        assert (shop.out(), shop.names()) == (0, ["job", "job"])

    def test_takes_methods(self, shop: Shop) -> None:
        class Job:
            held: sa.Connection

            @shop.guard.scope("method")
            def run(self) -> None:
                self.held = shop.engine.connect()

        Job().run()
        job = Job()
        job.run()
        assert (shop.out(), job.held.closed) == (0, False)

    def test_takes_async_functions(self, shop: Shop) -> None:
        """Those that run at the same time keep apart."""
        held = []

        @shop.guard.scope("job")
        async def job(mine: asyncio.Event, others: asyncio.Event) -> int:
            held.append(shop.engine.connect())
            others.set()
            await mine.wait()
            return shop.out()

        async def main() -> list[int]:
            one, two = asyncio.Event(), asyncio.Event()
            first = asyncio.create_task(job(one, two))
            second = asyncio.create_task(job(asyncio.Event(), one))
            await two.wait()
            out = [await first, shop.out()]
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            return out

        assert asyncio.run(main()) == [2, 1]
        assert (shop.out(), shop.names()) == (0, ["job", "job"])

    def test_a_task_that_it_starts_is_not_in_it(self, shop: Shop) -> None:
        async def child(go_on: asyncio.Event) -> None:
            connection = shop.engine.connect()
            await go_on.wait()
            connection.close()

        async def main() -> None:
            go_on = asyncio.Event()
            with shop.guard.scope("job"):
                task = asyncio.create_task(child(go_on))
                await asyncio.sleep(0)
            assert (shop.out(), shop.names()) == (1, [])
            go_on.set()
            await task

        asyncio.run(main())
        assert shop.out() == 0

    def test_refuses_what_runs_after_its_call(self, shop: Shop) -> None:
        def generator() -> Iterator[int]:
            yield 1

        async def asynchronous() -> Any:
            yield 1

        for function in (generator, asynchronous, functools.partial(generator)):
            with pytest.raises(TypeError, match=r"cannot decorate an? .*generator"):
                shop.guard.scope("job")(function)
        with pytest.raises(TypeError, match="cannot decorate a class"):
            shop.guard.scope("job")(Shop)


class Never:
    """Awaited without an end."""

    def __await__(self) -> Generator[None, None, None]:
        while True:
            yield


class TestWhatIsClosedWithinAnother:
    """A suspended frame ends its own scope, wherever it is closed."""

    @pytest.fixture
    def shop(self, shop: Shop) -> Shop:
        with shop.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE rows (n int)"))
        return shop

    @staticmethod
    def insert(shop: Shop, meanwhile: Callable[[], object]) -> int:
        """Add a row, do something, and return how many rows there are then."""
        with Session(shop.engine) as session:
            session.execute(sa.text("INSERT INTO rows VALUES (1)"))
            meanwhile()
            session.commit()
            return session.scalar(sa.text("SELECT count(*) FROM rows")) or 0

    @pytest.mark.parametrize("has_task", [True, False])
    def test_an_abandoned_call_of_a_coroutine(self, shop: Shop, has_task: bool) -> None:
        abandoned: list[Any] = []

        @shop.guard.scope("job")
        async def job(is_first: bool) -> int:
            if is_first:
                with shop.engine.connect():
                    await Never()
            return self.insert(shop, lambda: abandoned.pop().close())

        async def start() -> None:
            abandoned[0].send(None)

        async def main() -> int:
            abandoned.append(job(True))
            if has_task:
                await asyncio.create_task(start())
            else:
                contextvars.copy_context().run(abandoned[0].send, None)
            return await job(False)

        assert asyncio.run(main()) == 1
        assert (shop.out(), shop.leaks) == (0, [])

    def test_what_a_call_of_another_task_has_is_left_to_it(self, shop: Shop) -> None:
        held: list[sa.Connection] = []

        @shop.guard.scope("job")
        async def job() -> None:
            held.append(shop.engine.connect())
            await Never()

        async def main() -> None:
            call = job()

            async def start() -> None:
                call.send(None)

            await asyncio.create_task(start())
            call.close()
            assert (shop.out(), shop.leaks) == (1, [])
            held.pop().close()

        asyncio.run(main())
        with shop.guard.scope("next"):
            pass
        assert (shop.out(), shop.leaks) == (0, [])

    def test_a_call_in_another_thread_gives_back_what_is_left_later(
        self, shop: Shop
    ) -> None:
        """Once the thread that took it has ended."""
        held: list[sa.Connection] = []

        @shop.guard.scope("job")
        async def job() -> None:
            held.append(shop.engine.connect())
            await Never()

        call = job()
        thread = threading.Thread(target=call.send, args=[None])
        thread.start()
        thread.join(30)
        call.close()
        assert (shop.out(), shop.leaks) == (1, [])
        with shop.guard.scope("next"):
            pass
        assert (shop.out(), shop.names()) == (0, ["job"])

    @pytest.mark.parametrize("is_decorated", [True, False])
    def test_a_generator_within_a_later_block(
        self, shop: Shop, is_decorated: bool
    ) -> None:
        block = shop.guard.scope("job")

        def read() -> Iterator[None]:
            with block, shop.engine.connect():
                yield

        def write() -> int:
            return self.insert(shop, reader.close)

        reader: Any = read()
        next(reader)
        if is_decorated:
            assert block(write)() == 1
        else:
            with block:
                assert write() == 1
        assert (shop.out(), shop.leaks) == (0, [])
        assert repr(block) == "<scope 'job', open 0 times>"

    def test_a_generator_within_an_earlier_block(self, shop: Shop) -> None:
        block = shop.guard.scope("job")

        def read() -> Iterator[None]:
            with block, shop.engine.connect():
                yield

        def read_once() -> None:
            reader: Any = read()
            next(reader)
            reader.close()

        with block:
            assert self.insert(shop, read_once) == 1
        assert (shop.out(), shop.leaks) == (0, [])

    def test_an_exit_stack_has_the_newest(self, shop: Shop) -> None:
        """Its frames at the begin and at the end differ."""
        block, held = shop.guard.scope("job"), []
        with block:
            held.append(shop.engine.connect())
            with contextlib.ExitStack() as stack:
                stack.enter_context(block)
                held.append(shop.engine.connect())
            assert shop.out() == 1
        assert (shop.out(), shop.names()) == (0, ["job", "job"])


class TestTheName:
    @pytest.mark.parametrize("name", ["", "  "])
    def test_must_not_be_empty(self, shop: Shop, name: str) -> None:
        with pytest.raises(ValueError, match="not empty"):
            shop.guard.scope(name)

    def test_must_be_text(self, shop: Shop) -> None:
        with pytest.raises(TypeError, match="not function"):
            shop.guard.scope(lambda: None)  # type: ignore[arg-type] # no name

    def test_fits_in_a_line(self, shop: Shop) -> None:
        with shop.guard.scope("two\nlines" + "x" * 200):
            held = shop.engine.connect()
        assert shop.names()[0].startswith("two?linesx")
        assert (len(shop.names()[0]), held.closed) == (120, False)

    def test_is_shown_of_a_holder(self, shop: Shop) -> None:
        with shop.guard.scope("nightly export"), shop.engine.connect():
            report = shop.guard.report(shop.app)
        (worker,) = report.workers
        holders = [each for pool in worker.pools for each in pool.holders]
        assert [each.endpoint for each in holders] == ["nightly export"]


class TestApps:
    def test_a_guard_without_an_app_yet_has_scopes(self) -> None:
        with PoolGuard().scope("job"):
            pass

    def test_one_scope_is_of_all_apps(self, sqlite_url: sa.URL) -> None:
        guard, told, held = PoolGuard(), [], []
        apps = [Flask("one"), Flask("two")]
        engines = [sa.create_engine(sqlite_url) for _ in apps]

        def note(sender: Flask, leak: Leak) -> None:
            told.append((sender.name, current_app.name, leak.endpoint))

        for app, engine in zip(apps, engines, strict=True):
            guard.init_app(app)
            guard.register(engine, app=app)
            connection_leaked.connect(note, app)
        with guard.scope("job"):
            held += [each.connect() for each in engines]
        assert sorted(told) == [("one", "one", "job"), ("two", "two", "job")]
        for engine in engines:
            engine.dispose()
