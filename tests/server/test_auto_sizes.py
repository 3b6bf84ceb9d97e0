"""Pool sizes that are `"auto"`, on real servers."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from flask_poolguard import ConfigError
from flask_poolguard.cli import advise_view, config_view
from flask_poolguard.engines.install import resize
from flask_poolguard.report.advice import make_advice
from flask_poolguard.report.advice_model import Advice, AdviceOptions
from flask_poolguard.report.effective_settings import find_effective
from flask_poolguard.report.text import Page
from flask_poolguard.tracking.pool_tracker import PoolTracker, tracker_of
from tests.conftest import Database
from tests.support.app_server import REPOSITORY
from tests.support.desk import DeskServer, environment, pool_of, run_pool, status
from tests.support.forking import MAY_DEADLOCK, in_child
from tests.support.guarded_app import (
    Clock,
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
    warnings_of,
)
from tests.support.reporting import MakeShop, Shop, found, pool_in, the_one
from tests.support.waiting import wait_until

BOTH = {"POOLGUARD_POOL_SIZE": "auto", "POOLGUARD_MAX_OVERFLOW": "auto"}
NO_OVERFLOW = {"POOLGUARD_POOL_SIZE": "auto", "POOLGUARD_MAX_OVERFLOW": 0}


NOWHERE = "postgresql+asyncpg://app@127.0.0.1:1/shop"


class Worker:
    """An engine whose rounds the test itself does, by a clock that it sets."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.pool = guarded_pool(engine)
        self.clock = Clock().of(engine)
        tracker = tracker_of(engine)
        assert tracker is not None
        self.tracker: PoolTracker = tracker
        self.serve_with(tracker.server_threads)

    def serve_with(self, threads: int | None) -> None:
        """Be a worker of so many threads from now on."""
        self.tracker.start_sizes(threads)

    @property
    def sizes(self) -> tuple[int, int]:
        """What SQLAlchemy shows of the pool."""
        return self.pool.size(), self.pool._max_overflow

    def round(self, seconds: float = 1.0) -> tuple[int, int]:
        """Let the housekeeper's next round come; return the sizes after it."""
        self.clock.now += seconds
        self.tracker.tend()
        guarded_pool(self.engine).tend()
        return self.sizes

    def take(self, connections: int, times: int = 1) -> None:
        """Have so many connections out at a time."""
        for _ in range(times):
            with ExitStack() as stack:
                for _ in range(connections):
                    stack.enter_context(self.engine.connect())

    def closed(self) -> int:
        """Return how many connections were closed as more than the pool keeps."""
        return self.tracker.figures.counts["overflow"]


@contextmanager
def worker(url: sa.URL | str, **config: Any) -> Iterator[Worker]:
    with guarded_engine(url, **config) as engine:
        yield Worker(engine)


@contextmanager
def threads(count: int, work: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Run this in threads, which must come to an end; gives what they raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    started = [threading.Thread(target=run) for _ in range(count)]
    for each in started:
        each.start()
    yield raised
    for each in started:
        each.join(30)
    assert not any(each.is_alive() for each in started)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log's lines on sizes."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "flask_poolguard"
        and record.levelno == logging.INFO
        and record.getMessage().startswith("Sizes of bind")
    ]


@pytest.mark.usefixtures("threadless")
class TestGrowth:
    def test_serves_callers_that_wait_without_any_being_given_back(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flask_poolguard")
        with worker(served_database.url, **NO_OVERFLOW) as one:
            one.serve_with(2)
            assert one.sizes == (2, 0)
            together = threading.Barrier(6)

            def use() -> None:
                with one.engine.connect():
                    together.wait(30)

            with threads(6, use) as raised:
                wait_until(lambda: one.pool.waiting == 4, what="four that wait")
                assert one.round() == (6, 0)
            assert raised == []
            assert one.pool.checkedin() == 6
            assert logged(caplog) == [
                "Sizes of bind 'default': pool_size 2 -> 6, max_overflow 0 -> 0: 4"
                " checkouts had to wait, and the server gives connections."
            ]

    def test_does_not_go_beyond_what_sqlalchemys_defaults_allow(
        self, served_database: Database
    ) -> None:
        with worker(served_database.url, **BOTH) as one:
            together = threading.Barrier(17)

            def use() -> None:
                with one.engine.connect():
                    together.wait(30)  # until it is broken

            with threads(16, use) as raised:
                wait_until(lambda: one.pool.waiting == 1, what="one that waits")
                assert one.round() == (15, 0)
                assert one.pool.checkedout() == 15
                together.abort()
            assert all(isinstance(e, threading.BrokenBarrierError) for e in raised)

    def test_is_silent_while_nothing_changes(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flask_poolguard")
        with worker(served_database.url, **BOTH) as one:
            for _ in range(5):
                one.take(3)
                assert one.round() == (5, 10)
        assert logged(caplog) == []

    @pytest.mark.usefixtures("own_server")
    def test_does_not_come_while_the_server_is_away(
        self, served_database: Database
    ) -> None:
        settings = {"POOLGUARD_CONNECT_RETRY": 0, "POOLGUARD_POOL_TIMEOUT": 0.1}
        with worker(served_database.url, **NO_OVERFLOW, **settings) as one:
            one.serve_with(1)
            with one.engine.connect():
                served_database.running_server.stop()
                for _ in range(3):
                    with pytest.raises(sa.exc.TimeoutError):
                        one.engine.connect()
            guarded_pool(one.engine).renew()
            with pytest.raises(sa.exc.OperationalError):
                one.engine.connect()
            assert one.tracker.pools.obstacle() is not None
            assert one.round() == (1, 0)

    def test_follows_the_budget(
        self, served_database: Database, tmp_path: Path
    ) -> None:
        settings = {"POOLGUARD_BUDGET": 4, "POOLGUARD_STATE_DIR": str(tmp_path / "s")}
        with worker(served_database.url, **BOTH, **settings) as one:
            assert one.sizes == (4, 0)
            one.serve_with(2)
            assert one.sizes == (2, 2)
            one.take(4)
            assert one.round() == (4, 0)


@pytest.mark.usefixtures("threadless")
class TestShrinking:
    def test_comes_step_by_step_when_the_demand_has_fallen(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flask_poolguard")
        server, url = served_database.running_server, served_database.url
        with worker(url, **BOTH) as one:
            one.take(4)
            assert one.round() == (5, 10)
            found = []
            for _ in range(28):
                one.take(1, times=400)
                found.append(one.round(60.0))
            assert found[-1] == (1, 14)
            assert [size for size, _ in found] == sorted(
                (size for size, _ in found), reverse=True
            )
            assert all(
                before[0] - after[0] <= 1 for before, after in itertools.pairwise(found)
            )
            kept = one.sizes[0]
            assert one.pool.checkedin() == kept
            assert one.closed() == 4 - kept
            wait_until(
                lambda: len(server.session_ids(database=url.database)) == kept,
                what="the end of the others",
            )
        lines = logged(caplog)
        assert len(lines) == 5 - kept
        assert lines[0].startswith(
            "Sizes of bind 'default': pool_size 5 -> 4, max_overflow 10 -> 11: 0 of "
        )
        assert lines[0].endswith(" wanted more at a time.")

    def test_closes_what_is_too_many_while_no_lock_is_held(
        self, served_database: Database
    ) -> None:
        """Another thread uses the pool while a connection of it is being closed."""
        with worker(served_database.url, **BOTH) as one:
            one.take(4)
            was_served = []

            def closing(connection: object, record: object) -> None:
                with threads(1, lambda: one.take(1)) as raised:
                    pass
                was_served.append(raised == [])

            sa.event.listen(one.pool, "close", closing)
            one.pool.resize(2, 13)
            one.pool.tend()
            sa.event.remove(one.pool, "close", closing)
            assert was_served == [True, True]
            assert one.pool.checkedin() == 2


@pytest.mark.usefixtures("threadless")
def test_no_fewer_are_kept_than_are_to_be_idle(served_database: Database) -> None:
    with worker(served_database.url, **BOTH, POOLGUARD_MIN_IDLE=7) as one:
        one.serve_with(2)
        assert one.sizes == (7, 8)
        assert one.round() == (7, 8)


@pytest.mark.usefixtures("threadless")
class TestNestedCheckouts:
    def test_get_what_keeps_them_free_of_a_deadlock(
        self, served_database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flask_poolguard")
        app = make_app(served_database.url, **NO_OVERFLOW)
        one = Worker(engine_of(app))
        one.serve_with(6)
        with app.app_context():
            one.take(2)
        sizes = one.round()
        assert sizes >= (7, 0)  # 6 × (2 - 1) + 1, or more: tests have threads too
        together = threading.Barrier(6)

        def nest() -> None:
            with app.app_context(), one.engine.connect():
                together.wait(30)
                with one.engine.connect():
                    pass

        with threads(6, nest) as raised:
            pass
        assert raised == []
        assert "a request had 2 connections at once" in logged(caplog)[0]
        one.engine.dispose()

    def test_need_no_round_where_the_overflow_is_automatic_too(
        self, served_database: Database
    ) -> None:
        """What a first request takes is not known before: stock sizes would do."""
        app = make_app(served_database.url, **BOTH)
        one = Worker(engine_of(app))
        one.serve_with(1)
        with app.app_context():
            one.take(4)
        assert one.sizes == (1, 14)
        one.engine.dispose()


@pytest.mark.usefixtures("threadless")
class TestAPool:
    def test_keeps_its_sizes_when_it_is_disposed_of(
        self, served_database: Database
    ) -> None:
        with worker(served_database.url, **BOTH) as one:
            one.serve_with(3)
            one.engine.dispose()
            assert guarded_pool(one.engine).size() == 3
            one.pool = guarded_pool(one.engine)
            one.take(1)
            assert one.round() == (3, 12)

    def test_tells_sqlalchemy_the_sizes_of_now(self, served_database: Database) -> None:
        with worker(served_database.url, **BOTH) as one:
            one.serve_with(2)
            one.take(3)
            assert one.pool.status().startswith("Pool size: 2  Connections in pool: 2")
            assert one.pool.overflow() == 0
            assert (one.tracker.facts.size, one.tracker.facts.max_overflow) == (2, 13)

    def test_of_a_child_begins_anew(self, served_database: Database) -> None:
        with worker(served_database.url, **BOTH) as one:
            one.serve_with(9)
            assert in_child(lambda: (one.pool.size(), one.pool._max_overflow)) == (
                5,
                10,
            )
            assert one.sizes == (9, 6)

    test_of_a_child_begins_anew = pytest.mark.filterwarnings(MAY_DEADLOCK)(
        test_of_a_child_begins_anew
    )

    def test_with_a_number_of_its_own_keeps_that(
        self, served_database: Database
    ) -> None:
        with worker(
            served_database.url, POOLGUARD_POOL_SIZE=2, POOLGUARD_MAX_OVERFLOW="auto"
        ) as one:
            one.serve_with(8)
            assert one.sizes == (2, 10)
            one.take(4)
            assert one.round() == (2, 10)

    def test_of_a_test_of_load_has_the_size_of_that(
        self, served_database: Database
    ) -> None:
        app = make_app(served_database.url, **BOTH)
        one = Worker(engine_of(app))
        (guarded,) = app.extensions["poolguard"].engines
        resize(guarded, 3)
        one.pool = guarded_pool(one.engine)
        one.take(3)
        assert one.round() == (3, 0)
        one.engine.dispose()


WITHOUT = """
import sys
from tests.support.guarded_app import make_app, engine_of
app = make_app(sys.argv[1])
with app.app_context(), engine_of(app).connect():
    print(*[name for name in sys.modules if "sizing" in name or "auto_sizes" in name])
"""


def test_an_app_without_them_does_not_import_what_decides(sqlite_url: sa.URL) -> None:
    command = [sys.executable, "-c", WITHOUT, str(sqlite_url)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([], "")


class TestSettings:
    def test_may_come_late(self, served_database: Database) -> None:
        app = make_app(served_database.url)
        engine = engine_of(app)
        app.config.update(BOTH)
        engine = engine_of(app)
        tracker = tracker_of(engine)
        assert tracker is not None
        assert tracker.facts.is_auto
        tracker.start_sizes(3)
        assert guarded_pool(engine).size() == 3
        app.config["POOLGUARD_POOL_SIZE"] = 7
        assert guarded_pool(engine_of(app)).size() == 7
        assert not tracker.facts.has_auto_size
        engine.dispose()

    def test_that_contradict_the_engines_own_are_refused(
        self, served_database: Database
    ) -> None:
        app = make_app(
            served_database.url,
            SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 3},
            POOLGUARD_POOL_SIZE="auto",
        )
        with pytest.raises(ConfigError, match="POOLGUARD_POOL_SIZE is 'auto', but"):
            engine_of(app)

    def test_are_refused_where_no_pool_can_follow(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        class OwnPool(QueuePool):
            pass

        engine = sa.create_engine(served_database.url, poolclass=OwnPool)
        shop = make_shop(BOTH, default=engine)
        with pytest.raises(ConfigError, match="'auto' has no effect on bind 'default'"):
            shop.report()

    def test_are_refused_for_async_engines(self, make_shop: MakeShop) -> None:
        shop = make_shop(BOTH, default=create_async_engine(NOWHERE).sync_engine)
        with pytest.raises(ConfigError, match="POOLGUARD_POOL_SIZE = 'auto' has no"):
            shop.report()

    def test_leave_an_async_engine_its_own_where_others_follow(
        self, make_shop: MakeShop, sqlite_url: sa.URL
    ) -> None:
        engine = create_async_engine(NOWHERE, pool_size=7).sync_engine
        config = {"POOLGUARD_MAX_OVERFLOW": "auto", "POOLGUARD_POOL_TIMEOUT": 9}
        make_shop(config, default=sa.create_engine(sqlite_url), other=engine).report()
        assert isinstance(engine.pool, QueuePool)
        assert (engine.pool.size(), engine.pool._max_overflow) == (7, 10)
        assert engine.pool.timeout() == 9

    def test_without_effect_on_some_binds_are_warned_of(
        self,
        make_shop: MakeShop,
        served_database: Database,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        shop = make_shop(
            BOTH,
            default=sa.create_engine(served_database.url),
            other=sa.create_engine(served_database.url, poolclass=NullPool),
        )
        shop.report()
        assert len(warnings_of(caplog)) == 2
        assert (
            "POOLGUARD_POOL_SIZE = 'auto' has no effect on bind 'other'"
            in (warnings_of(caplog)[0])
        )


def advice_of(shop: Shop) -> Advice:
    state = shop.app.extensions["poolguard"]
    return make_advice(
        shop.report(), state.engines, shop.app.config, AdviceOptions(at_least=1)
    )


@pytest.mark.usefixtures("threadless")
class TestCommands:
    @pytest.fixture
    def shop(self, make_shop: MakeShop, served_database: Database) -> Shop:
        engine = sa.create_engine(served_database.url)
        shop = make_shop(BOTH, default=engine)
        shop.use()
        one = Worker(engine)
        one.serve_with(3)
        one.take(2)
        one.round()
        return shop

    def test_show_the_sizes_of_now(self, shop: Shop) -> None:
        report = shop.report()
        pool = pool_in(report)
        assert (pool.size, pool.max_overflow, pool.limit) == (3, 12, 15)
        assert (pool.has_auto_size, pool.has_auto_overflow) == (True, True)
        (bind,) = report.binds
        shown = {each.name: (each.value, each.origin) for each in bind.settings}
        assert shown["size"] == ("auto, now 3", "POOLGUARD_POOL_SIZE")
        assert shown["overflow"] == ("auto, now 12", "POOLGUARD_MAX_OVERFLOW")
        plain = report.to_dict()["workers"][0]["pools"][0]
        assert (plain["has_auto_size"], plain["swings"]) == (True, 0)

    def test_show_that_they_are_automatic_among_the_settings(self, shop: Shop) -> None:
        state = shop.app.extensions["poolguard"]
        config = find_effective(shop.app, state.config, state.engines)
        (bind,) = config.binds
        shown = {each.name: (each.value, each.origin) for each in bind.settings}
        assert shown["pool_size"] == ("auto", "POOLGUARD_POOL_SIZE")
        assert shown["max_overflow"] == ("auto", "POOLGUARD_MAX_OVERFLOW")
        assert config.differences == ()
        assert "auto" in config_view.render(config, Page(80, break_words=False))

    def test_advise_to_change_nothing(self, shop: Shop) -> None:
        advice = advice_of(shop)
        assert advice.lines == ()
        (bind,) = advice.binds
        assert bind.is_auto
        assert bind.changes == []
        verdict = advise_view.verdict_on(advice)
        assert verdict.level == "ok"
        assert "default follows its demand" in verdict.text
        text = advise_view.render(advice, Page(80, break_words=False))
        assert "Write" not in text
        assert "Its sizes follow these figures by themselves." in " ".join(text.split())

    def test_find_sizes_that_swing(self, shop: Shop) -> None:
        (tracker,) = shop.app.extensions["poolguard"].app_tracker.trackers
        assert found(shop.report(), "sizes-swing") == []
        one = Worker(shop.engines["default"])
        for number in range(4):
            one.take(6, times=100)
            one.round()
            assert one.sizes[0] == 6
            for _ in range(22 if number < 3 else 0):
                one.take(1, times=400)
                one.round(66.0)
            assert number == 3 or one.sizes[0] < 6
        finding = the_one(shop.report(), "sizes-swing")
        assert "lowered and raised again 3 times" in finding.message
        assert tracker.figures.swings == 3


@pytest.mark.process
class TestBesideGunicorn:
    @pytest.mark.parametrize("preload", [False, True])
    def test_the_size_begins_with_the_workers_threads(
        self, tmp_path: Path, served_database: Database, preload: bool
    ) -> None:
        env = environment(
            served_database.url,
            FLASK_POOLGUARD_POOL_SIZE="auto",
            FLASK_POOLGUARD_MAX_OVERFLOW="auto",
            QUERY_AT_START="1",
        )
        with DeskServer(
            tmp_path, env, threads=3, worker_class="gthread", preload=preload
        ) as server:
            server.get("/query")
            (pid,) = server.worker_pids()
            wait_until(
                lambda: any(each["pools"] for each in status(env)["workers"]),
                seconds=30,
                what="its pool",
            )
            pool = pool_of(status(env), pid)
            shown = run_pool(env, "config")
        assert (pool["size"], pool["max_overflow"]) == (3, 12)
        assert "pool_size 3, max_overflow 12 in 1 worker" in shown
