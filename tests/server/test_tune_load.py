"""The load itself: pools of a given size, threads that end, answers that are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from flask import Flask, Response
from sqlalchemy.pool import NullPool

from flask_poolguard import PoolGuard
from flask_poolguard.engines import Guarded, resize
from flask_poolguard.errors import SetupError
from flask_poolguard.tune import processor, workload
from flask_poolguard.tune.failures import WorkFailed
from flask_poolguard.tune.load import Load
from flask_poolguard.tune.work import Work
from tests.conftest import Database
from tests.support.guarded_app import engine_of, guarded_pool, make_app
from tests.support.reporting import shops
from tests.support.waiting import wait_until


def guarded_of(app: Flask) -> Guarded:
    """Return the engine of an app, with what is known of it."""
    engine_of(app)
    (found,) = app.extensions["poolguard"].engines
    assert isinstance(found, Guarded)
    return found


def over() -> Callable[[float], bool]:
    """Return what a load asks whether to give up; it never shall."""

    def is_over(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    return is_over


class TestResize:
    def test_gives_a_pool_of_so_many_connections(
        self, served_database: Database
    ) -> None:
        app = make_app(served_database.url)
        guarded = guarded_of(app)
        server, name = served_database.running_server, served_database.url.database
        for size in (3, 1, 2):
            resize(guarded, size)
            pool = guarded_pool(guarded.engine)
            assert (pool.size(), pool._max_overflow) == (size, 0)
            held = [guarded.engine.connect() for _ in range(size)]
            wait_until(
                lambda size=size: len(server.session_ids(database=name)) == size,  # type: ignore[misc] # a loop's value
                what=f"{size} sessions, and none of the pool before",
            )
            for connection in held:
                connection.close()
        guarded.engine.dispose()

    def test_lets_no_thread_wait_in_vain(self, sqlite_url: sa.URL) -> None:
        app = make_app(sqlite_url, POOLGUARD_POOL_TIMEOUT=0.01, POOLGUARD_MAX_WAITING=0)
        guarded = guarded_of(app)
        resize(guarded, 1)
        got = threading.Event()

        def take() -> None:
            with guarded.engine.connect():
                got.set()

        with guarded.engine.connect():
            thread = threading.Thread(target=take)
            thread.start()
            pool = guarded_pool(guarded.engine)
            wait_until(lambda: pool.waiting == 1, what="a waiter")
            assert not got.wait(0.1)
        thread.join(10)
        assert got.is_set()
        guarded.engine.dispose()

    def test_leaves_the_pools_of_others_alone(self) -> None:
        with shops() as make:
            url = "postgresql+psycopg2://app@db.example/shop"
            shop = make(default=sa.create_engine(url, poolclass=NullPool))
            with shop.app.app_context():
                (found,) = shop.app.extensions["poolguard"].engines
            with pytest.raises(SetupError, match="keeps its own NullPool"):
                resize(found, 3)


class TestLoad:
    def run(self, load: Load, seconds: float = 0.3) -> object:
        return load.run(3, time.monotonic(), 0.05, seconds, lambda: 2)

    def test_counts_what_is_done_in_its_time(self) -> None:
        def work() -> int:
            time.sleep(0.01)
            return 200

        load = Load([(work, str)], [1], over())
        seen = load.run(3, time.monotonic(), 0.05, 0.5, lambda: 2)
        done = sum(seen.latencies.values())
        assert 0 < done <= 3 * 51
        assert seen.statuses == {(0, 200): done}
        assert seen.busy == 2
        assert load.threads == []

    def test_ends_with_the_first_failure(self) -> None:
        def fail() -> int:
            raise LookupError("tea")

        load = Load([(fail, lambda error: f"it said {error!r}")], [1], over())
        began_at = time.monotonic()
        with pytest.raises(WorkFailed, match=r"it said LookupError\('tea'\)"):
            self.run(load, seconds=60)
        assert time.monotonic() - began_at < 30

    def test_gives_up_when_it_is_told(self) -> None:
        ended = threading.Event()

        def is_over(seconds: float) -> bool:
            return ended.wait(seconds)

        def work() -> int:
            ended.set()
            return 0

        load = Load([(work, str)], [1], is_over)
        self.run(load, seconds=60)
        assert load.stop(10)

    def test_says_so_if_something_never_ends(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flask_poolguard.tune.load.DRAIN_SECONDS", 0.05)
        end = threading.Event()

        def hang() -> int:
            end.wait(60)
            return 0

        load = Load([(hang, str)], [1], over())
        with pytest.raises(WorkFailed, match="an answer that never ends"):
            self.run(load, seconds=0.05)
        end.set()
        assert load.stop(10)

    @pytest.mark.parametrize(
        ("expected", "failure"),
        [(0.001, "Nothing got done for 0 s"), (0.2, "after its time was over")],
        ids=["fast requests", "slow requests"],
    )
    def test_waits_no_longer_than_requests_may_take(
        self, monkeypatch: pytest.MonkeyPatch, expected: float, failure: str
    ) -> None:
        monkeypatch.setattr("flask_poolguard.tune.load._PATIENCE_SECONDS", 0.1)
        end = threading.Event()

        def hang() -> int:
            end.wait(60)
            return 0

        load = Load([(hang, str)], [1], over())
        load.expect(expected)
        with pytest.raises(WorkFailed, match=failure):
            self.run(load, seconds=0.3)
        end.set()
        assert load.stop(10)


class TestRequests:
    @pytest.fixture
    def app(self) -> Flask:
        """Return an app whose views stream, fail and redirect."""
        app = Flask("shop")
        PoolGuard(app)
        self.closed: list[bool] = []

        @app.get("/stream")
        def stream() -> Response:
            def parts() -> Iterator[str]:
                try:
                    yield from "abc"
                finally:
                    self.closed.append(True)

            return Response(parts())

        @app.get("/<int:status>")
        def answer(status: int) -> tuple[str, int]:
            return "", status

        return app

    def do(self, app: Flask, path: str) -> int:
        engine = sa.create_engine("sqlite://")
        deed, _ = workload.prepare(Work("url", path), app, engine, [])
        return deed()

    @pytest.mark.parametrize("status", [200, 302, 404])
    def test_give_their_status(self, app: Flask, status: int) -> None:
        assert self.do(app, f"/{status}") == status

    def test_with_5xx_fail(self, app: Flask) -> None:
        with pytest.raises(WorkFailed, match=r"^GET /503 answered 503$"):
            self.do(app, "/503")

    def test_read_the_whole_answer_and_close_it(self, app: Flask) -> None:
        self.do(app, "/stream")
        assert self.closed == [True]

    def test_keep_their_query_string(self, app: Flask) -> None:
        seen: list[str] = []

        @app.before_request
        def see() -> None:
            from flask import request

            seen.append(request.full_path + request.headers["User-Agent"])

        self.do(app, "/200?q=a%20b&q=c:3")
        assert seen == ["/200?q=a%20b&q=c:3flask-pool-tune"]


class TestProcessors:
    def test_a_share_lies_between_two_readings(self) -> None:
        before = processor.machine_times()
        if before is None:
            pytest.skip("this system has no /proc/stat")
        wait_until(lambda: processor.machine_times() != before, what="a tick")
        share = processor.busy_share(before, processor.machine_times())
        assert share is not None
        assert 0 <= share <= 1

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ((10, 100), (60, 200), 0.5),
            (None, (60, 200), None),
            ((10, 100), None, None),
            ((10, 100), (10, 100), None),
        ],
    )
    def test_a_share_is_of_all_time(
        self,
        before: processor.Times | None,
        after: processor.Times | None,
        expected: float | None,
    ) -> None:
        assert processor.busy_share(before, after) == expected
