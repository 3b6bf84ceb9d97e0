"""Every way in which a slot comes free serves who waits, and nobody loses one."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from flask_poolguard.errors import TooManyWaiting
from flask_poolguard.pool import GuardedPool, Policy
from flask_poolguard.pool.fair_queue import FairQueue
from flask_poolguard.pool.slot import GuardedRecord
from flask_poolguard.pool.types import AnonymousClaim
from flask_poolguard.pool.waiter import Waiter
from tests.support.guarded_app import guarded_pool
from tests.support.people import SECONDS, Person, Stop, Struck, people

# Longer than any test may take: who is served in spite of it was woken.
FOR_EVER = 600.0

tend = GuardedPool.tend


@pytest.fixture(autouse=True)
def no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the housekeeper from serving whoever was forgotten."""
    monkeypatch.setattr(GuardedPool, "tend", lambda _: None)


def make_engine(url: sa.URL, **options: Any) -> sa.Engine:
    """Return an engine with one slot, or what the options say."""
    settings = {"pool_size": 1, "max_overflow": 0, "pool_timeout": FOR_EVER}
    return sa.create_engine(url, poolclass=GuardedPool, **{**settings, **options})


@pytest.fixture
def engine(sqlite_url: sa.URL) -> Iterator[sa.Engine]:
    """Return an engine with one slot."""
    engine = make_engine(sqlite_url)
    yield engine
    engine.dispose()


def assert_whole(engine: sa.Engine) -> None:
    """Check that every slot can be had, and that none is out."""
    pool = guarded_pool(engine)
    assert (pool.checkedout(), pool.waiting) == (0, 0)
    limit = pool.size() + pool._max_overflow
    held = [engine.connect() for _ in range(limit)]
    assert pool.checkedout() == limit
    for each in held:
        each.close()
    assert pool.checkedout() == 0
    assert pool._pool.opened == pool.checkedin()


class TestOrder:
    """Without threads: what the queue itself decides."""

    def hand_off(self, slots: int = 1) -> FairQueue[Any]:
        pool = GuardedPool(lambda: None, pool_size=slots, max_overflow=0)
        return pool._pool

    def waiters(self, queue: FairQueue[Any], ages: Any) -> list[Waiter[Any]]:
        waiters = [Waiter[Any](AnonymousClaim(began_at)) for began_at in ages]
        for each in waiters:
            queue.enqueue(each, FOR_EVER, AssertionError)
        return waiters

    @pytest.mark.parametrize("ages", list(itertools.permutations((1.0, 2.0, 3.0))))
    def test_who_began_first_is_served_first(self, ages: tuple[float, ...]) -> None:
        queue = self.hand_off()
        record = queue.get_now()
        assert record is not None
        waiters = self.waiters(queue, ages)
        for waiter in sorted(waiters, key=lambda each: each.claim.began_at):
            assert not waiter.is_settled()
            assert queue.put(record) is None
            assert waiter.grant is record
            assert waiter.sleep(0)
        assert queue.waiting == []

    def test_of_equals_the_first_to_ask_is_served_first(self) -> None:
        queue = self.hand_off()
        record = queue.get_now()
        assert record is not None
        for waiter in self.waiters(queue, [1.0] * 20):
            queue.put(record)
            assert waiter.grant is record

    @pytest.mark.parametrize("gone", range(7))
    def test_one_who_leaves_changes_nothing_for_the_others(self, gone: int) -> None:
        queue = self.hand_off()
        record = queue.get_now()
        assert record is not None
        waiters = self.waiters(queue, (4.0, 2.0, 6.0, 1.0, 3.0, 5.0, 7.0))
        assert queue.withdraw(waiters[gone]) is None
        assert queue.withdraw(waiters[gone]) is None
        del waiters[gone]
        for waiter in sorted(waiters, key=lambda each: each.claim.began_at):
            queue.put(record)
            assert waiter.grant is record

    def test_a_collection_while_one_leaves_serves_each_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A collection may give connections back at any moment."""
        queue = self.hand_off(slots=2)
        records = [queue.get_now(), queue.get_now()]
        waiters = self.waiters(queue, (1.0, 2.0, 3.0))
        heapify = "flask_poolguard.pool.fair_queue.heapq.heapify"

        def collect(_: object) -> None:
            for record in records:
                assert record is not None
                queue.put(record)

        monkeypatch.setattr(heapify, collect)
        queue.withdraw(waiters[0])
        grants = [each.grant for each in waiters]
        assert grants == [None, *records]
        assert queue.waiting == []

    @pytest.mark.parametrize("ages", [(1.0, 2.0), (2.0, 1.0)])
    def test_a_refusal_that_cannot_be_worded_is_told_without_words(
        self, ages: tuple[float, float]
    ) -> None:
        def refuse() -> BaseException:
            raise ZeroDivisionError

        queue = self.hand_off()
        record = queue.get_now()
        assert record is not None
        (first,) = self.waiters(queue, ages[:1])
        second = Waiter[Any](AnonymousClaim(ages[1]))
        with pytest.raises(ZeroDivisionError):
            queue.enqueue(second, 1, refuse)
        older, younger = (first, second) if ages[0] < ages[1] else (second, first)
        assert younger.sleep(0)
        with pytest.raises(TooManyWaiting, match="POOLGUARD_MAX_WAITING"):
            queue.wait(younger, FOR_EVER)
        assert not older.is_settled()
        assert queue.put(record) is None
        assert older.grant is record

    def test_nobody_overtakes_who_waits(self) -> None:
        queue = self.hand_off()
        record = queue.get_now()
        assert record is not None
        self.waiters(queue, [1.0])
        queue.idle.append(record)  # it just came back; no waiter was served yet
        assert queue.get_now() is None


def check_in(person: Person, engine: sa.Engine) -> None:
    """Give the connection back."""
    person.give_back()


def invalidate(person: Person, engine: sa.Engine) -> None:
    """Declare the connection unusable, and keep what is left of it."""
    person.do(person.connections[-1].invalidate)


def invalidate_softly(person: Person, engine: sa.Engine) -> None:
    """Have the connection replaced at its next checkout."""
    fairy = person.connections[-1].connection
    person.do(lambda: fairy.invalidate(soft=True))
    person.give_back()


def detach(person: Person, engine: sa.Engine) -> None:
    """Take the connection out of the pool, and keep it."""
    person.do(person.connections[-1].detach)


def dispose(person: Person, engine: sa.Engine) -> None:
    """Replace the pool, then give the connection back to the old one."""
    engine.dispose()
    person.give_back()


def forget(person: Person, engine: sa.Engine) -> None:
    """Lose the connection, for the collector to find."""
    cycle: list[Any] = [person.connections.pop()]
    cycle.append(cycle)
    del cycle
    gc.collect()


def fail_to_reset(person: Person, engine: sa.Engine) -> None:
    """Give the connection back, which cannot be rolled back."""

    def fail(*_: object) -> None:
        raise ValueError("reset")

    event.listen(engine, "reset", fail, once=True)
    person.give_back()


def end_the_thread(person: Person, engine: sa.Engine) -> None:
    """Give the connection back from another thread, after its own has ended."""
    connection = person.connections.pop()
    person.end_thread()
    connection.close()
    person.begin_thread()


WAYS = (
    *(check_in, invalidate, invalidate_softly, detach, dispose, forget),
    *(fail_to_reset, end_the_thread),
)


class TestComingFree:
    """One slot; pool_timeout is longer than the test, and no housekeeper helps."""

    @pytest.mark.parametrize("way", WAYS)
    def test_the_oldest_who_waits_is_served(
        self,
        way: Callable[[Person, sa.Engine], None],
        engine: sa.Engine,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with people(engine, 3) as (holder, first, second):
            holder.take()
            old_pool = holder.pool
            asked = [first.ask(), second.ask()]
            way(holder, engine)
            asked[0].result(SECONDS)
            assert old_pool.waiting == 1
            assert not asked[1].done()
            first.give_back()
            asked[1].result(SECONDS)
        assert old_pool.checkedout() == 0
        assert_whole(engine)

    @pytest.mark.parametrize("error", [OSError("no route"), KeyboardInterrupt()])
    @pytest.mark.parametrize("moment", ["do_connect", "connect", "checkout"])
    def test_a_checkout_that_fails_serves_who_waits(
        self, moment: str, error: BaseException, engine: sa.Engine
    ) -> None:
        stop = Stop()

        def fail(*_: object) -> None:
            stop()
            raise error

        with people(engine, 2) as (failing, waiting):
            event.listen(engine, moment, fail, once=True)
            failed = failing.start(engine.connect)
            stop.until_reached()
            asked = waiting.ask()
            stop.open()
            with pytest.raises(type(error)):
                failed.result(SECONDS)
            asked.result(SECONDS)
        assert_whole(engine)

    def test_an_overflow_connection_that_is_closed_makes_room(
        self, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, max_overflow=1)
        stop = Stop()
        with people(engine, 4) as (first, second, third, waiting):
            first.take()
            second.take()
            first.give_back()
            event.listen(engine, "close", stop, once=True)
            closing = second.start(second.connections.pop().close)
            stop.until_reached()  # it is one too many, and still open
            third.take()
            asked = waiting.ask()
            stop.open()
            closing.result(SECONDS)
            asked.result(SECONDS)
        assert_whole(engine)
        engine.dispose()

    def test_an_idle_connection_that_is_disposed_of_makes_room(
        self, engine: sa.Engine
    ) -> None:
        pool, stop = guarded_pool(engine), Stop()
        with people(engine, 2) as (disposing, waiting):
            engine.connect().close()
            event.listen(engine, "close", stop, once=True)
            disposed = disposing.start(pool.dispose)
            stop.until_reached()
            asked = waiting.ask()
            stop.open()
            disposed.result(SECONDS)
            asked.result(SECONDS)
        assert_whole(engine)

    def test_an_idle_connection_that_nobody_needed_makes_room(
        self, engine: sa.Engine
    ) -> None:
        pool, stop = guarded_pool(engine), Stop()
        pool.policy = Policy(max_idle=0)
        with people(engine, 2) as (housekeeper, waiting):
            engine.connect().close()
            event.listen(engine, "close", stop, once=True)
            tended = housekeeper.start(lambda: tend(pool))
            stop.until_reached()
            asked = waiting.ask()
            stop.open()
            tended.result(SECONDS)
            asked.result(SECONDS)
        assert_whole(engine)

    def test_many_who_wait_share_what_comes_free(self, sqlite_url: sa.URL) -> None:
        engine = make_engine(sqlite_url, pool_size=3)
        with people(engine, 9) as (*holders, a, b, c, d, e, f):
            for each in holders:
                each.take()
            waiting = [a, b, c, d, e, f]
            askings = [each.ask() for each in waiting]
            detach(holders[0], engine)
            invalidate(holders[1], engine)
            check_in(holders[2], engine)
            for asked in askings[:3]:
                asked.result(SECONDS)
            assert guarded_pool(engine).waiting == 3
            for person in (a, b, c):
                person.give_back()
            for asked in askings[3:]:
                asked.result(SECONDS)
        assert_whole(engine)
        engine.dispose()


class TestLastMoment:
    """A connection that is handed over in the moment in which its waiter leaves."""

    @pytest.fixture
    def leave(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
        """Return what makes the next waiter leave just after it was served."""

        def leave(outcome: BaseException | bool) -> None:
            outcomes = [outcome]
            sleep = Waiter.sleep

            def served_too_late(self: Waiter[Any], seconds: float) -> bool:
                result = sleep(self, seconds)
                if not outcomes:
                    return result
                assert result
                found = outcomes.pop()
                if isinstance(found, BaseException):
                    raise found
                return found

            monkeypatch.setattr(Waiter, "sleep", served_too_late)

        return leave

    def test_who_timed_out_just_then_has_it(
        self, leave: Callable[[Any], None], engine: sa.Engine
    ) -> None:
        with people(engine, 2) as (holder, late):
            holder.take()
            leave(False)
            asked = late.ask()
            holder.give_back()
            asked.result(SECONDS)
            assert guarded_pool(engine).checkedout() == 1
        assert_whole(engine)

    @pytest.mark.parametrize("way", [check_in, detach])
    def test_who_was_struck_just_then_leaves_it_to_the_next(
        self,
        way: Callable[[Person, sa.Engine], None],
        leave: Callable[[Any], None],
        engine: sa.Engine,
    ) -> None:
        with people(engine, 3) as (holder, struck, following):
            holder.take()
            leave(Struck())
            first = struck.ask()
            second = following.ask()
            way(holder, engine)
            with pytest.raises(Struck):
                first.result(SECONDS)
            second.result(SECONDS)
        assert_whole(engine)

    def test_who_is_struck_while_waiting_waits_no_more(
        self, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sleep, strikes = Waiter.sleep, [Struck()]

        def struck(self: Waiter[Any], seconds: float) -> bool:
            if strikes:
                raise strikes.pop()
            return sleep(self, seconds)

        monkeypatch.setattr(Waiter, "sleep", struck)
        with people(engine, 3) as (holder, first, second):
            holder.take()
            with pytest.raises(Struck):
                first.ask().result(SECONDS)
            assert guarded_pool(engine).waiting == 0
            asked = second.ask()
            holder.give_back()
            asked.result(SECONDS)
        assert_whole(engine)

    @pytest.mark.parametrize("name", ["enqueue", "wait", "withdraw"])
    def test_a_strike_at_any_step_loses_nothing(
        self, name: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Struck after the step is done, as a signal's handler may do."""
        step, strikes = getattr(FairQueue, name), [Struck()]

        def struck(self: FairQueue[Any], *arguments: Any) -> Any:
            result = step(self, *arguments)
            if strikes:
                raise strikes.pop()
            return result

        pool = guarded_pool(engine)
        pool._timeout = 0
        with people(engine, 2) as (holder, asking):
            holder.take()
            monkeypatch.setattr(FairQueue, name, struck)
            with pytest.raises(Struck):
                asking.do(engine.connect)
            assert strikes == []
            assert pool.waiting == 0
        assert_whole(engine)


class TestSizes:
    @pytest.mark.parametrize("size", [0, 2])
    def test_without_a_limit_nobody_waits(self, size: int, sqlite_url: sa.URL) -> None:
        engine = make_engine(sqlite_url, pool_size=size, max_overflow=-1)
        held = [engine.connect() for _ in range(30)]
        assert guarded_pool(engine).checkedout() == 30
        for each in held:
            each.close()
        assert guarded_pool(engine).checkedin() == (size or 30)
        assert guarded_pool(engine).checkedout() == 0
        engine.dispose()

    def test_a_timeout_of_zero_waits_for_nothing(self, sqlite_url: sa.URL) -> None:
        engine = make_engine(sqlite_url, pool_timeout=0)
        with engine.connect():
            for _ in range(3):
                with pytest.raises(exc.TimeoutError, match=r"timeout 0\.00"):
                    engine.connect()
        assert_whole(engine)
        engine.dispose()

    def test_a_timeout_of_none_waits_for_ever(self, sqlite_url: sa.URL) -> None:
        engine = make_engine(sqlite_url, pool_timeout=None)
        with people(engine, 2) as (holder, waiting):
            holder.take()
            asked = waiting.ask()
            holder.give_back()
            asked.result(SECONDS)
        assert_whole(engine)
        engine.dispose()
        assert_whole(engine)
        engine.dispose()

    @pytest.mark.parametrize("use_lifo", [False, True])
    def test_what_is_idle_is_reused_in_sqlalchemys_order(
        self, use_lifo: bool, sqlite_url: sa.URL
    ) -> None:
        def reused(pool_class: type[QueuePool]) -> list[int]:
            engine = sa.create_engine(
                sqlite_url,
                poolclass=pool_class,
                pool_size=4,
                max_overflow=0,
                pool_use_lifo=use_lifo,
            )
            held = [engine.raw_connection() for _ in range(4)]
            drivers = [each.dbapi_connection for each in held]
            for number in (2, 0, 3, 1):
                held[number].close()
            again = [engine.raw_connection() for _ in range(4)]
            order = [drivers.index(each.dbapi_connection) for each in again]
            for each in again:
                each.close()
            engine.dispose()
            return order

        assert reused(GuardedPool) == reused(QueuePool)

    @pytest.mark.parametrize("use_lifo", [False, True])
    def test_a_waiter_has_what_came_back_whatever_the_order(
        self, use_lifo: bool, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_use_lifo=use_lifo)
        with people(engine, 2) as (holder, waiting):
            driver = holder.take().connections[0].connection.dbapi_connection
            asked = waiting.ask()
            holder.give_back()
            asked.result(SECONDS)
            again = waiting.connections[0].connection
            assert again.dbapi_connection is driver
        engine.dispose()


class TestCounters:
    """They tell the truth where a QueuePool's do not."""

    def counters(self, pool: GuardedPool) -> tuple[int, int, int]:
        return pool.checkedin(), pool.checkedout(), pool.overflow()

    def test_after_a_disposal_with_one_out(self, sqlite_url: sa.URL) -> None:
        engine = make_engine(sqlite_url, pool_size=2)
        pool = guarded_pool(engine)
        connection = engine.connect()
        engine.connect().close()
        pool.dispose()
        assert self.counters(pool) == (0, 1, -1)
        connection.close()
        assert self.counters(pool) == (1, 0, -1)
        pool.dispose()
        assert self.counters(pool) == (0, 0, -2)

    def test_after_a_change_of_pools_with_one_out(self, sqlite_url: sa.URL) -> None:
        engine = make_engine(sqlite_url, pool_size=2)
        old = guarded_pool(engine)
        connection = engine.connect()
        engine.dispose()
        new = guarded_pool(engine)
        assert self.counters(old) == (0, 1, -1)
        assert self.counters(new) == (0, 0, -2)
        connection.close()
        assert self.counters(old) == (0, 0, -2)
        assert self.counters(new) == (0, 0, -2)

    def test_after_detaching(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            connection.detach()
            assert self.counters(guarded_pool(engine)) == (0, 0, -1)
        assert self.counters(guarded_pool(engine)) == (0, 0, -1)

    def test_after_the_pool_was_changed_under_those_who_wait(
        self, engine: sa.Engine
    ) -> None:
        old = guarded_pool(engine)
        with people(engine, 4) as (holder, first, second, newcomer):
            holder.take()
            asked: list[Future[None]] = [first.ask(), second.ask()]
            engine.dispose()
            newcomer.take()  # from the new pool, at once
            assert old.waiting == 2
            holder.give_back()
            asked[0].result(SECONDS)
            assert self.counters(old) == (0, 1, 0)
            first.give_back()
            asked[1].result(SECONDS)
            second.give_back()
            assert self.counters(old) == (0, 0, -1)
        assert_whole(engine)

    def test_a_record_keeps_its_info_when_its_connection_goes(
        self, engine: sa.Engine
    ) -> None:
        with engine.connect() as connection:
            record = connection.connection._connection_record
            assert isinstance(record, GuardedRecord)
            assert record.record_info is not None
            record.record_info["mine"] = True
            connection.invalidate()
        with engine.connect() as connection:
            assert connection.connection.record_info == {"mine": True}
