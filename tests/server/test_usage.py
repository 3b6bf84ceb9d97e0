"""What a pool was asked for, as another process reads it."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event

from flask_poolguard import PoolGuard, PoolTimeout
from flask_poolguard.state.reader import read_workers
from flask_poolguard.state.status import PoolStatus, Usage
from flask_poolguard.tracking import claims as waiting_module
from flask_poolguard.tracking import pool_figures as figures_module
from flask_poolguard.tracking import pool_status as status_module
from flask_poolguard.tracking.usage import BUCKETS, EXACT, bucket_of
from tests.conftest import Database
from tests.support.forking import fork_without_hooks, in_child
from tests.support.waiting import wait_until


class TestBuckets:
    def test_rise(self) -> None:
        assert list(BUCKETS) == sorted(set(BUCKETS))

    @given(st.integers(1, BUCKETS[-1]))
    def test_hold_what_is_not_above_their_bound(self, connections: int) -> None:
        bucket = bucket_of(connections)
        assert connections <= BUCKETS[bucket]
        assert bucket == 0 or connections > BUCKETS[bucket - 1]

    @given(st.integers(1, EXACT))
    def test_tell_small_numbers_apart(self, connections: int) -> None:
        assert BUCKETS[bucket_of(connections)] == connections

    @pytest.mark.parametrize("connections", [BUCKETS[-1] + 1, 10**9])
    def test_have_a_last_one(self, connections: int) -> None:
        assert bucket_of(connections) == len(BUCKETS) - 1

    def test_have_a_first_one(self) -> None:
        assert bucket_of(0) == 0


class Clock:
    """Monotonic seconds that go on by hand."""

    def __init__(self) -> None:
        self.now = float(round(time.monotonic()))

    def __call__(self) -> float:
        return self.now


class Guarded:
    """An app with an engine under guard."""

    def __init__(self, engine: Engine) -> None:
        self.app = Flask("usage")
        self.engine = engine
        PoolGuard(self.app).register(engine, app=self.app)
        with self.app.app_context():
            pass

    def pool(self, bind: str = "default") -> PoolStatus:
        """Return what another process sees, after a round of the housekeeper's."""
        for tracker in self.app.extensions["poolguard"].app_tracker.trackers:
            tracker.tend()
        search = read_workers(None, self.app.name, self.app.root_path)
        assert search.problems == ()
        (worker,) = (each for each in search.workers if each.pid == os.getpid())
        (pool,) = (each for each in worker.pools if each.bind == bind)
        return pool

    def read(self, bind: str = "default") -> Usage:
        """Return the part that says what the pool was asked for."""
        return self.pool(bind).usage

    def demand(self, bind: str = "default") -> dict[int, int]:
        """Return how often so many connections were needed, without the zeros."""
        return dict(self.read(bind).demand)


def waits_of(usage: Usage) -> tuple[int, float, float]:
    """Return how many waits there were, how long in all and how long at most."""
    return usage.waits, usage.waited_seconds, usage.longest_wait_seconds


@pytest.fixture
def guarded(database: Database) -> Iterator[Guarded]:
    """Guard a pool of two."""
    engine = create_engine(database.url, pool_size=2, max_overflow=0, pool_timeout=0.01)
    yield Guarded(engine)
    engine.dispose()


class TestDemand:
    def test_counts_every_checkout_with_those_that_are_out(
        self, guarded: Guarded
    ) -> None:
        with guarded.engine.connect():
            pass
        with guarded.engine.connect(), guarded.engine.connect():
            pass
        assert guarded.demand() == {1: 2, 2: 1}

    def test_counts_one_that_waits_in_vain_with_those_that_it_waits_for(
        self, guarded: Guarded
    ) -> None:
        engine = guarded.engine
        with engine.connect(), engine.connect(), pytest.raises(PoolTimeout):
            engine.connect()
        usage = guarded.read()
        assert guarded.demand() == {1: 1, 2: 1, 3: 1}
        assert usage.waits == 1
        assert usage.waited_seconds >= usage.longest_wait_seconds >= 0.01
        with guarded.engine.connect():  # and the next one again as it is
            pass
        assert guarded.demand() == {1: 2, 2: 1, 3: 1}

    def test_counts_one_that_waits_and_is_served_once(self, database: Database) -> None:
        engine = create_engine(database.url, pool_size=1, max_overflow=0)
        guarded = Guarded(engine)
        first = engine.connect()
        waiter = threading.Thread(target=lambda: engine.connect().close())
        waiter.start()
        wait_until(lambda: engine.pool.waiting == 1)  # type: ignore[attr-defined] # a GuardedPool's
        first.close()
        waiter.join(30)
        assert guarded.demand() == {1: 1, 2: 1}
        assert guarded.read().waits == 1
        engine.dispose()

    @pytest.mark.parametrize("moment", ["do_connect", "checkout"])
    def test_counts_the_next_one_after_one_that_waited_and_failed(
        self, moment: str, database: Database
    ) -> None:
        engine = create_engine(database.url, pool_size=1, max_overflow=0)
        other = create_engine(database.url)
        guarded = Guarded(engine)
        PoolGuard().register(other, name="other", app=guarded.app)

        def fail(*_: object) -> None:
            raise OSError("no route")

        def work() -> None:
            with pytest.raises(OSError, match="no route"):
                engine.connect()
            other.connect().close()
            engine.connect().close()

        first = engine.connect()
        with ThreadPoolExecutor(1) as threads:
            worked = threads.submit(work)
            wait_until(lambda: engine.pool.waiting == 1)  # type: ignore[attr-defined] # a GuardedPool's
            event.listen(engine, moment, fail, once=True)
            first.detach()
            worked.result(30)
        first.close()
        assert guarded.demand("other") == {1: 1}
        assert guarded.demand() == {1: 2, 2: 1}
        engine.dispose()
        other.dispose()

    def test_counts_what_is_taken_while_one_that_waited_connects(
        self, database: Database
    ) -> None:
        engine = create_engine(database.url, pool_size=1, max_overflow=0)
        other = create_engine(database.url)
        guarded = Guarded(engine)
        PoolGuard().register(other, name="other", app=guarded.app)
        first = engine.connect()
        with ThreadPoolExecutor(1) as threads:
            taken = threads.submit(engine.connect)
            wait_until(lambda: engine.pool.waiting == 1)  # type: ignore[attr-defined] # a GuardedPool's
            event.listen(
                engine, "do_connect", lambda *_: other.connect().close(), once=True
            )
            first.detach()
            taken.result(30).close()
        first.close()
        assert guarded.demand("other") == {1: 1}
        assert guarded.demand() == {1: 1, 2: 1}
        engine.dispose()
        other.dispose()

    def test_counts_those_that_are_being_opened(self, database: Database) -> None:
        engine = create_engine(database.url, pool_size=1, max_overflow=0)
        guarded = Guarded(engine)
        connecting, go_on = threading.Event(), threading.Event()

        def pause(*_: object) -> None:
            connecting.set()
            go_on.wait(30)

        event.listen(engine, "do_connect", pause, once=True)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(lambda: engine.connect().close())
            assert connecting.wait(30)
            second = threads.submit(lambda: engine.connect().close())
            wait_until(lambda: engine.pool.waiting == 1)  # type: ignore[attr-defined] # a GuardedPool's
            go_on.set()
            first.result(30)
            second.result(30)
        assert guarded.demand() == {1: 1, 2: 1}
        engine.dispose()


class TestWaits:
    """The clock is the tracker's, and goes on by hand."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr(figures_module, "_monotonic", clock)
        monkeypatch.setattr(status_module, "_monotonic", clock)
        monkeypatch.setattr(waiting_module, "_monotonic", clock)
        return clock

    def test_end_before_the_connect(self, database: Database, clock: Clock) -> None:
        engine = create_engine(database.url, pool_size=1, max_overflow=0)
        guarded = Guarded(engine)
        waiting: list[int] = []

        def connect(*_: object) -> None:
            (tracker,) = guarded.app.extensions["poolguard"].app_tracker.trackers
            waiting.append(tracker.figures.waiting)
            clock.now += 100

        first = engine.connect()
        with ThreadPoolExecutor(1) as threads:
            taken = threads.submit(lambda: engine.connect().close())
            wait_until(lambda: engine.pool.waiting == 1)  # type: ignore[attr-defined] # a GuardedPool's
            event.listen(engine, "do_connect", connect, once=True)
            clock.now += 3
            first.detach()
            taken.result(30)
        first.close()
        usage = guarded.read()
        assert waiting == [0]
        assert waits_of(usage) == (
            1,
            3.0,
            3.0,
        )
        engine.dispose()

    def test_go_on_when_the_server_has_no_room(
        self, guarded: Guarded, clock: Clock
    ) -> None:
        with guarded.engine.connect():
            pass
        (tracker,) = guarded.app.extensions["poolguard"].app_tracker.trackers
        claim = tracker.began_waiting(2)
        clock.now += 3
        tracker.stopped_waiting(claim)
        assert tracker.figures.waiting == 0
        clock.now += 100  # it is refused
        tracker.waits_again(claim)
        assert tracker.figures.waiting == 1
        younger = tracker.began_waiting(2)
        clock.now += 4
        queue = guarded.pool()
        assert queue.waiting == 2
        assert queue.oldest_wait_seconds == pytest.approx(7, abs=3)
        tracker.stopped_waiting(claim)
        tracker.stopped_waiting(younger)
        usage = guarded.read()
        assert waits_of(usage) == (
            2,
            11.0,
            7.0,
        )
        assert tracker.figures.waiting == 0


class TestNesting:
    def test_is_the_most_that_one_scope_had_at_once(self, guarded: Guarded) -> None:
        with guarded.app.app_context(), guarded.engine.connect():
            pass
        assert guarded.read().nesting == 1
        engine = guarded.engine
        with guarded.app.app_context(), engine.connect(), engine.connect():
            pass
        assert guarded.read().nesting == 2

    def test_does_not_count_other_scopes(self, guarded: Guarded) -> None:
        app, engine = guarded.app, guarded.engine
        with app.app_context(), engine.connect(), app.app_context(), engine.connect():
            pass
        assert guarded.read().nesting == 1

    def test_does_not_count_other_pools(self, guarded: Guarded) -> None:
        other = create_engine("sqlite://")
        PoolGuard().register(other, name="other", app=guarded.app)
        with guarded.app.app_context(), guarded.engine.connect(), other.connect():
            pass
        assert guarded.read().nesting == 1

    def test_counts_one_that_was_waited_for_in_vain(self, database: Database) -> None:
        engine = create_engine(
            database.url, pool_size=2, max_overflow=0, pool_timeout=0.01
        )
        guarded = Guarded(engine)
        with engine.connect(), guarded.app.app_context(), engine.connect():
            assert guarded.read().nesting == 1
            with pytest.raises(PoolTimeout):
                engine.connect()
        assert guarded.read().nesting == 2
        engine.dispose()

    def test_counts_one_that_was_waited_for(self, database: Database) -> None:
        engine = create_engine(database.url, pool_size=2, max_overflow=0)
        guarded = Guarded(engine)
        other = engine.connect()

        def nest() -> None:
            with guarded.app.app_context(), engine.connect(), engine.connect():
                pass

        nesting = threading.Thread(target=nest)
        nesting.start()
        wait_until(lambda: engine.pool.waiting == 1)  # type: ignore[attr-defined] # a GuardedPool's
        other.close()
        nesting.join(30)
        assert guarded.read().nesting == 2
        engine.dispose()

    def test_does_not_count_threads_that_share_a_scope(
        self, database: Database
    ) -> None:
        engine = create_engine(database.url, pool_size=4, max_overflow=0)
        guarded = Guarded(engine)
        ready = threading.Barrier(4)

        def work() -> None:
            with engine.connect():
                ready.wait(30)

        with guarded.app.app_context(), ThreadPoolExecutor(3) as threads:
            parts = [
                threads.submit(contextvars.copy_context().run, work) for _ in range(3)
            ]
            work()
            for part in parts:
                part.result(30)
            assert guarded.read().nesting == 1
            with engine.connect(), engine.connect():
                pass
        assert guarded.read().nesting == 2
        engine.dispose()


class TestThreads:
    def test_are_those_that_lived_at_once(self, guarded: Guarded) -> None:
        with guarded.engine.connect():
            pass
        before = guarded.read().threads
        assert before >= 1
        go, ready = threading.Event(), threading.Barrier(4)

        def live() -> None:
            with guarded.app.app_context():
                pass
            ready.wait(30)
            go.wait(30)

        threads = [threading.Thread(target=live) for _ in range(3)]
        for thread in threads:
            thread.start()
        ready.wait(30)
        assert guarded.read().threads == before + 3
        go.set()
        for thread in threads:
            thread.join(30)
        assert guarded.read().threads == before + 3

    def test_count_those_that_live_for_less_than_a_round(
        self, guarded: Guarded
    ) -> None:
        with guarded.engine.connect():
            pass
        before = guarded.read().threads
        ready = threading.Barrier(before + 5)

        def live() -> None:
            with guarded.app.app_context():
                pass
            ready.wait(30)

        threads = [threading.Thread(target=live) for _ in range(before + 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        # Nobody looked while they were there, and this thread was there as well.
        assert guarded.read().threads > before + 5

    @pytest.mark.process
    def test_of_a_child_begin_anew(self, guarded: Guarded) -> None:
        with guarded.engine.connect():
            pass
        for tracker in guarded.app.extensions["poolguard"].app_tracker.trackers:
            tracker.usage.saw_threads(1000)
        assert guarded.read().threads == 1000

        def child() -> int:
            with guarded.engine.connect():
                pass
            return guarded.read().threads

        assert 1 <= in_child(child) < 100


@pytest.mark.process
class TestInherited:
    @pytest.mark.parametrize("fork", [os.fork, fork_without_hooks])
    def test_are_the_connections_that_the_parent_had_open(
        self, guarded: Guarded, fork: Callable[[], int]
    ) -> None:
        with guarded.engine.connect(), guarded.engine.connect():
            pass
        assert guarded.read().inherited == 0

        def child() -> int:
            with guarded.engine.connect():
                pass
            return guarded.read().inherited

        assert in_child(child, fork=fork) == 2
        assert guarded.read().inherited == 0


@pytest.mark.process
def test_a_thread_counts_from_its_first_use_of_the_guard() -> None:
    """Not because it imported the package, or looked at what others do."""
    program = textwrap.dedent("""
        import threading
        from flask_poolguard.tracking.thread_marks import live_marks, this_thread
        from flask_poolguard.tracking.thread_stacks import format_stack
        print(len(live_marks))
        other = []
        thread = threading.Thread(target=lambda: other.append(this_thread.mark))
        thread.start()
        thread.join()
        format_stack(other[0])
        print(len(live_marks))
        assert this_thread.mark is this_thread.mark
        print(len(live_marks))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.split(), done.stderr) == (["0", "1", "2"], "")
