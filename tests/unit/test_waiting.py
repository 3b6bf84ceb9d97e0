"""Who waits is served in the order in which the requests and tasks began."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import URL, Engine, create_engine, event, exc

from flask_poolguard import PoolGuard
from flask_poolguard.errors import TooManyWaiting
from flask_poolguard.pool import GuardedPool
from flask_poolguard.pool.waiter import Waiter
from flask_poolguard.tracking import claims as waiting_module
from flask_poolguard.tracking.current_scope import LONGEST_AGE, current_scopes
from tests.support.guarded_app import Clock, guarded_pool
from tests.support.people import SECONDS, Person, Stop, people
from tests.support.tracked import Tracked, one_connection
from tests.support.waiting import wait_until

THREE = list(itertools.permutations(range(3)))


@pytest.fixture(autouse=True)
def no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the housekeeper from serving whoever was forgotten."""
    monkeypatch.setattr(GuardedPool, "tend", lambda _: None)


@pytest.fixture
def tracked(sqlite_url: URL) -> Iterator[Tracked]:
    """Guard a pool of one connection, for which one may wait for ever."""
    with one_connection(sqlite_url) as tracked:
        yield tracked


def serve_all(holder: Person, asked: dict[Person, Future[None]]) -> list[Person]:
    """Let each give the connection to the next; return in which order they had it."""
    order = []
    giver = holder
    waiting = dict(asked)
    while waiting:
        giver.give_back()
        served = next_served(waiting)
        assert giver.pool.waiting == len(waiting) - 1
        del waiting[served]
        order.append(served)
        giver = served
    return order


def next_served(waiting: dict[Person, Future[None]]) -> Person:
    """Wait until one is served and return who."""
    done, _ = wait(waiting.values(), SECONDS, FIRST_COMPLETED)
    (served,) = [person for person, asked in waiting.items() if asked in done]
    return served


class TestOrder:
    @pytest.mark.parametrize("order", THREE)
    def test_it_is_that_in_which_the_tasks_began(
        self, order: tuple[int, ...], tracked: Tracked
    ) -> None:
        with people(tracked.engine, 4) as (holder, *waiting):
            holder.take()
            for each in waiting:
                each.begin(tracked.app)
            asked = {waiting[number]: waiting[number].ask() for number in order}
            assert serve_all(holder, asked) == waiting

    def test_outside_any_task_it_is_that_of_asking(self, tracked: Tracked) -> None:
        with people(tracked.engine, 4) as (holder, *waiting):
            holder.take()
            asked = {each: each.ask() for each in waiting}
            assert serve_all(holder, asked) == waiting

    def test_a_task_that_began_before_another_asked_comes_first(
        self, tracked: Tracked
    ) -> None:
        with people(tracked.engine, 3) as (holder, outside, task):
            holder.take()
            task.begin(tracked.app)
            asked = {outside: outside.ask(), task: task.ask()}
            assert serve_all(holder, asked) == [task, outside]

    def test_a_task_within_another_is_as_old_as_that(self, tracked: Tracked) -> None:
        with people(tracked.engine, 3) as (holder, nested, task):
            holder.take()
            nested.begin(tracked.app)
            task.begin(tracked.app)
            nested.begin(tracked.app)
            asked = {task: task.ask(), nested: nested.ask()}
            assert serve_all(holder, asked) == [nested, task]

    def test_a_request_that_asks_five_times_keeps_its_place(
        self, tracked: Tracked
    ) -> None:
        with people(tracked.engine, 7) as (oldest, *younger):
            for each in (oldest, *younger):
                each.begin(tracked.app)
            oldest.take()
            asked = {each: each.ask() for each in younger}
            for turn in range(5):
                oldest.give_back()
                # Somebody had to be served while the oldest did not ask.
                served = next_served(asked)
                assert served is younger[turn]
                del asked[served]
                again = oldest.ask()
                served.give_back()
                again.result(SECONDS)
                assert not any(each.done() for each in asked.values())
            assert serve_all(oldest, asked) == younger[5:]

    def test_requests_that_are_served_are_in_order_too(self, tracked: Tracked) -> None:
        order: list[int] = []
        stops = [Stop() for _ in range(3)]

        @tracked.app.get("/<int:number>")
        def view(number: int) -> str:
            stops[number]()
            with tracked.engine.connect():
                order.append(number)
            return ""

        with people(tracked.engine, 4) as (holder, *clients):
            holder.take()
            answers = []
            for number, client in enumerate(clients):
                get = tracked.app.test_client().get
                answers.append(client.start(lambda n=number, get=get: get(f"/{n}")))  # type: ignore[misc] # mypy knows no defaults of lambdas
                stops[number].until_reached()
            for count, number in enumerate((2, 0, 1), 1):
                stops[number].open()
                until_waiting(tracked.engine, count)
            holder.give_back()
            for answer in answers:
                answer.result(SECONDS)
        assert order == [0, 1, 2]


def until_waiting(engine: Engine, count: int) -> None:
    """Wait until so many wait."""
    pool = guarded_pool(engine)
    wait_until(lambda: pool.waiting == count, what=f"{count} who wait")


class TestAge:
    """It counts for a few seconds only, so that nothing long-lived starves others."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Return the clock that those who wait go by."""
        clock = Clock()
        monkeypatch.setattr(waiting_module, "_monotonic", clock)
        return clock

    def begin_at(self, when: float, person: Person, app: Flask) -> Person:
        """Begin a task as if it had been at another time."""

        def set_back() -> None:
            current_scopes()[0].began_at = when

        person.begin(app).do(set_back)
        return person

    @pytest.mark.parametrize(
        ("seconds", "old_task_is_first"),
        [(LONGEST_AGE - 1, True), (LONGEST_AGE, False)],
    )
    def test_a_task_of_days_overtakes_only_who_came_lately(
        self,
        seconds: float,
        old_task_is_first: bool,
        clock: Clock,
        tracked: Tracked,
    ) -> None:
        with people(tracked.engine, 3) as (holder, request, task):
            holder.take()
            self.begin_at(clock.now - 0.5, request, tracked.app)
            self.begin_at(clock.now - 86_400.0, task, tracked.app)
            asked = {request: request.ask()}
            clock.now += seconds
            asked[task] = task.ask()
            expected = [task, request] if old_task_is_first else [request, task]
            assert serve_all(holder, asked) == expected

    def test_a_task_of_days_that_asks_all_the_time_cannot_starve_a_request(
        self, clock: Clock, tracked: Tracked
    ) -> None:
        with people(tracked.engine, 3) as (first, second, request):
            for task in (first, second):
                self.begin_at(clock.now - 86_400.0, task, tracked.app)
            self.begin_at(clock.now, request, tracked.app)
            first.take()
            served = request.ask()
            has, asks = first, second
            for _ in range(int(LONGEST_AGE)):
                asked = asks.ask()
                has.give_back()
                asked.result(SECONDS)
                assert not served.done()
                has, asks = asks, has
                clock.now += 1
            asked = asks.ask()
            has.give_back()
            served.result(SECONDS)
            assert not asked.done()
            request.give_back()
            asked.result(SECONDS)

    def test_of_two_old_tasks_the_first_to_ask_is_first(
        self, clock: Clock, tracked: Tracked
    ) -> None:
        with people(tracked.engine, 3) as (holder, young, old):
            holder.take()
            self.begin_at(clock.now - 100.0, young, tracked.app)
            self.begin_at(clock.now - 86_400.0, old, tracked.app)
            asked = {young: young.ask()}
            clock.now += 0.001
            asked[old] = old.ask()
            assert serve_all(holder, asked) == [young, old]


class TestTooMany:
    """`POOLGUARD_MAX_WAITING`"""

    def guarded(self, url: URL, most: int) -> tuple[Flask, Engine]:
        app = Flask("crowd")
        app.config.update(
            POOLGUARD_MAX_WAITING=most,
            POOLGUARD_POOL_SIZE=1,
            POOLGUARD_MAX_OVERFLOW=0,
            POOLGUARD_POOL_TIMEOUT=600,
        )
        engine = create_engine(url)
        PoolGuard(app).register(engine, app=app)
        with app.app_context():
            pass
        assert isinstance(engine.pool, GuardedPool)
        return app, engine

    def timeouts(self, app: Flask) -> int:
        (tracker,) = app.extensions["poolguard"].app_tracker.trackers
        assert tracker.figures.waiting == 0
        return int(tracker.figures.counts["timeouts"])

    @pytest.mark.parametrize("order", THREE)
    def test_the_youngest_is_refused_at_once(
        self, order: tuple[int, ...], sqlite_url: URL
    ) -> None:
        app, engine = self.guarded(sqlite_url, 2)
        with people(engine, 4) as (holder, *waiting):
            holder.take()
            for each in waiting:
                each.begin(app)
            asked: dict[Person, Future[None]] = {}
            for number in order[:2]:
                asked[waiting[number]] = waiting[number].ask()
            last = waiting[order[2]]
            asked[last] = last.start(last._take)
            *others, youngest = waiting
            with pytest.raises(TooManyWaiting, match="POOLGUARD_MAX_WAITING") as raised:
                asked.pop(youngest).result(SECONDS)
            assert isinstance(raised.value, exc.TimeoutError)
            until_waiting(engine, 2)
            assert serve_all(holder, asked) == others
        assert self.timeouts(app) == 1
        engine.dispose()

    def test_a_refusal_that_cannot_be_worded_leaves_nobody_waiting(
        self, sqlite_url: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app, engine = self.guarded(sqlite_url, 1)

        def describe(*_: object) -> str:
            raise ZeroDivisionError

        with people(engine, 3) as (holder, older, younger):
            holder.take()
            older.begin(app)
            younger.begin(app)
            refused = younger.ask()
            monkeypatch.setattr(
                guarded_pool(engine).callbacks, "describe_holders", describe
            )
            with pytest.raises(ZeroDivisionError):
                older.take()
            # What strikes the thread that has to tell is no business of this one.
            with pytest.raises(TooManyWaiting, match="POOLGUARD_MAX_WAITING"):
                refused.result(SECONDS)
            assert guarded_pool(engine).waiting == 0
            asked = older.ask()
            holder.give_back()
            asked.result(SECONDS)
        assert self.timeouts(app) == 1
        engine.dispose()

    def test_zero_lets_nobody_wait(self, sqlite_url: URL) -> None:
        app, engine = self.guarded(sqlite_url, 0)
        with people(engine, 2) as (holder, asking):
            holder.take()
            with pytest.raises(TooManyWaiting, match=r"support/people\.py"):
                asking.do(engine.connect)
            holder.give_back()
            asking.take()
        assert self.timeouts(app) == 1
        engine.dispose()

    def test_who_needs_not_wait_is_not_refused(self, sqlite_url: URL) -> None:
        app, engine = self.guarded(sqlite_url, 0)
        for _ in range(3):
            engine.connect().close()
        with engine.connect() as connection:
            connection.detach()
            engine.connect().close()
        assert self.timeouts(app) == 0
        engine.dispose()

    def test_it_counts_for_each_pool_alone(self, sqlite_url: URL) -> None:
        app, engine = self.guarded(sqlite_url, 1)
        with people(engine, 4) as (holder, first, second, third):
            holder.take()
            of_old = first.ask()
            engine.dispose()
            second.take()
            of_new = third.ask()
            holder.give_back()
            of_old.result(SECONDS)
            second.give_back()
            of_new.result(SECONDS)
        assert self.timeouts(app) == 0
        engine.dispose()


class TestTracked:
    def test_a_waiter_that_was_refused_by_itself_is_counted_once(
        self, sqlite_url: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It timed out in the moment in which it was to be refused."""
        tracked = Tracked(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=600)
        pool = guarded_pool(tracked.engine)
        sleep = Waiter.sleep
        with people(tracked.engine, 2) as (holder, late):
            holder.take()
            error = TooManyWaiting("refused")

            def too_late(self: Waiter[Any], seconds: float) -> bool:
                assert sleep(self, seconds)
                return False

            monkeypatch.setattr(Waiter, "sleep", too_late)
            asked = late.ask()
            (claim,) = pool._pool.claims()
            assert pool._pool.fail(claim, error)
            with pytest.raises(TooManyWaiting, match="refused"):
                asked.result(SECONDS)
        assert tracked.tracker.figures.counts["timeouts"] == 1
        tracked.agree(out=0, idle=1)
        tracked.engine.dispose()

    def test_an_error_that_cannot_be_told_leaves_nobody_in_the_queue(
        self, sqlite_url: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tracked = Tracked(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=600)
        pool = guarded_pool(tracked.engine)
        object.__setattr__(pool.policy, "max_waiting", 0)

        def fail(*_: object) -> str:
            raise ValueError("cannot tell")

        monkeypatch.setattr(tracked.tracker, "describe_holders", fail)
        with people(tracked.engine, 2) as (holder, asking):
            holder.take()
            with pytest.raises(ValueError, match="cannot tell"):
                asking.do(tracked.engine.connect)
            assert pool.waiting == 0
        tracked.agree(out=0, idle=1)
        tracked.engine.dispose()

    def test_a_connect_that_fails_for_who_waited_ends_its_wait_in_the_books(
        self, tracked: Tracked
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError("no route")

        with people(tracked.engine, 2) as (holder, waiting):
            holder.take()
            asked = waiting.ask()
            event.listen(tracked.engine, "do_connect", fail, once=True)
            holder.do(holder.connections[0].detach)
            with pytest.raises(OSError, match="no route"):
                asked.result(SECONDS)
            assert tracked.tracker.figures.waiting == 0
        assert tracked.tracker.figures.counts["timeouts"] == 0
