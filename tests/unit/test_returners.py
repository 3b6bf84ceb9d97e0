"""A connection waits for a request that asks again at once, and for no other."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import URL

from flask_poolguard.pool import GuardedPool, housekeeper
from flask_poolguard.pool.fair_queue import FairQueue, Waiter
from flask_poolguard.pool.types import Asked
from flask_poolguard.tracking import returners
from flask_poolguard.tracking.returners import Returners
from tests.support.people import SECONDS, Struck, people
from tests.support.tracked import Tracked


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Callable[[Returners], None]:
    """Let no round serve those who wait; return what does one."""
    tend = Returners.tend
    monkeypatch.setattr(Returners, "tend", lambda _: None)
    monkeypatch.setattr(GuardedPool, "tend", lambda _: None)
    # However slow the machine is.
    monkeypatch.setattr(returners, "AT_ONCE", 600.0)
    monkeypatch.setattr(returners, "PRIVILEGE", 600.0)
    return tend


@pytest.fixture
def tracked(sqlite_url: URL) -> Iterator[Tracked]:
    """Guard a pool of one connection, for which one may wait for ever."""
    tracked = Tracked(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=600)
    yield tracked
    tracked.agree(out=0, idle=tracked.engine.pool.checkedin())  # type: ignore[attr-defined] # a QueuePool's
    assert tracked.tracker.figures.waiting == 0
    assert not tracked.tracker.returners.expected
    tracked.engine.dispose()


def teach(tracked: Tracked) -> None:
    """Let tasks be known to ask again at once."""
    with people(tracked.engine, 2) as (older, younger):
        older.begin(tracked.app).take()
        younger.begin(tracked.app)
        asked = younger.ask()
        older.give_back()
        asked.result(SECONDS)  # it was not known yet
        again = older.ask()
        younger.give_back()
        again.result(SECONDS)


class TestReturner:
    def test_has_its_connection_again_before_who_began_later(
        self, tracked: Tracked
    ) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            asked = younger.ask()
            waits = tracked.tracker.usage.waits
            for _ in range(5):
                older.give_back()
                assert not asked.done()
                assert (older.pool.waiting, older.pool.checkedin()) == (1, 1)
                older.take()
            assert tracked.tracker.usage.waits == waits
            older.leave()
            asked.result(SECONDS)
            older.begin_thread()

    def test_that_ends_leaves_it_to_the_next(self, tracked: Tracked) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            asked = younger.ask()
            older.give_back()
            assert not asked.done()
            older.do(older._contexts.close)
            asked.result(SECONDS)

    def test_that_does_not_ask_is_not_waited_for_again(
        self,
        tracked: Tracked,
        monkeypatch: pytest.MonkeyPatch,
        by_hand: Callable[[Returners], None],
    ) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            asked = younger.ask()
            older.give_back()
            by_hand(tracked.tracker.returners)  # it may still come
            assert not asked.done()
            monkeypatch.setattr(returners, "AT_ONCE", 0.0)
            monkeypatch.setattr(returners, "LATE", 0.0)
            by_hand(tracked.tracker.returners)
            asked.result(SECONDS)
            monkeypatch.setattr(returners, "AT_ONCE", 600.0)
            younger.give_back()
            older.take()
            asked = younger.ask()
            older.give_back()
            asked.result(SECONDS)

    def test_that_is_younger_is_not_waited_for(self, tracked: Tracked) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app)
            younger.begin(tracked.app).take()
            asked = older.ask()
            younger.give_back()
            asked.result(SECONDS)

    def test_is_not_waited_for_when_another_asks(self, tracked: Tracked) -> None:
        """Who gives or takes a connection meanwhile serves the oldest who waits."""
        teach(tracked)
        with people(tracked.engine, 3) as (older, younger, youngest):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            youngest.begin(tracked.app)
            asked = younger.ask()
            older.give_back()
            last = youngest.start(youngest._take)
            asked.result(SECONDS)
            assert not last.done()
            younger.give_back()
            younger.do(younger._contexts.close)
            last.result(SECONDS)

    def test_goes_before_others_for_a_while_only(
        self, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A task that runs for long would let them starve."""
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            asked = younger.ask()
            older.give_back()
            older.take()
            monkeypatch.setattr(returners, "PRIVILEGE", 0.0)
            older.give_back()
            asked.result(SECONDS)

    def test_is_served_by_the_round_if_the_earlier_one_was_lost(
        self,
        tracked: Tracked,
        monkeypatch: pytest.MonkeyPatch,
        by_hand: Callable[[Returners], None],
    ) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            asked = younger.ask()
            older.give_back()
            monkeypatch.setattr(returners, "AT_ONCE", 0.0)
            monkeypatch.setattr(Returners, "tend", by_hand)
            housekeeper._soon.clear()
            tracked.tracker.tend()
            asked.result(SECONDS)

    def test_is_struck_while_it_asks(
        self, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            asked = younger.ask()
            older.give_back()

            def strike(_: float) -> None:
                raise Struck

            with monkeypatch.context() as patch:
                patch.setattr(older.pool._pool, "get_now", strike)
                with pytest.raises(Struck):
                    older.take()
            asked.result(SECONDS)

    def test_has_what_is_kept_for_it_taken_by_who_would_time_out(
        self, tracked: Tracked
    ) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app)
            asked = younger.ask()
            (_, _, waiter) = older.pool._pool.waiting[0]
            older.give_back()
            assert not waiter.is_settled()
            assert older.pool._pool.withdraw(waiter) is not None
            asked.result(SECONDS)

    def test_outside_any_task_is_not_waited_for(self, tracked: Tracked) -> None:
        teach(tracked)
        with people(tracked.engine, 2) as (bare, younger):
            bare.take()
            younger.begin(tracked.app)
            asked = younger.ask()
            bare.give_back()
            asked.result(SECONDS)

    def test_without_others_costs_nothing(self, tracked: Tracked) -> None:
        teach(tracked)
        with people(tracked.engine, 1) as (alone,):
            alone.begin(tracked.app).take().give_back()
            assert not tracked.tracker.returners.expected


def test_of_two_connections_one_is_kept(sqlite_url: URL) -> None:
    tracked = Tracked(sqlite_url, pool_size=2, max_overflow=0, pool_timeout=600)
    with people(tracked.engine, 3) as (older, *others):
        older.begin(tracked.app).take().take()
        for each in others:
            each.begin(tracked.app)
        asked = [each.ask() for each in others]
        tracked.tracker.returners._since["(outside any request)"] = 0.0
        older.give_back()
        older.give_back()  # for whom nobody would ask
        asked[0].result(SECONDS)
        older.leave()
        asked[1].result(SECONDS)
        older.begin_thread()
    tracked.engine.dispose()


def test_of_another_pool_teach_nothing(sqlite_url: URL) -> None:
    """A request that gives to one pool and asks another does not ask that one again."""
    first = Tracked(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=600)
    second = Tracked(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=600)
    scope_returners = first.tracker.returners, second.tracker.returners
    with first.app.app_context():
        assert scope_returners[0].comes_back() == math.inf
        assert scope_returners[1].came_back() == math.inf
        assert not scope_returners[1]._since
        assert scope_returners[0].came_back() == math.inf
        assert scope_returners[0]._since
    for each in (first, second):
        each.engine.dispose()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_the_oldest_comes_first(seed: int) -> None:
    """Nobody is served while an older one waits; a connection is only idle while others
    wait if it waits for one who is older than they; one call serves them all.
    """
    chance = random.Random(seed)
    slots = chance.randint(1, 4)
    pool = GuardedPool(lambda: None, pool_size=slots, max_overflow=0)
    queue: FairQueue[Any] = pool._pool
    held: list[tuple[float, Any]] = []
    waiters: list[Waiter[Any]] = []
    expected = math.inf
    for _ in range(300):
        age = chance.random()
        step = chance.choice(("give", "give", "return", "return", "ask", "serve"))
        waiting = [each.claim.began_at for each in waiters]
        oldest = min(waiting, default=math.inf)
        if step == "give" and held:
            queue.put(held.pop()[1])
        elif step == "return" and held:
            age, record = held.pop(chance.randrange(len(held)))
            queue.put(record, age)
            expected = min(expected, age)
            if chance.random() < 0.7:
                waiting = [e.claim.began_at for e in waiters if e.grant is None]
                again = queue.get_now(age)
                if age < oldest:  # nobody was woken, nobody older waits
                    assert again is not None
                if again is not None:
                    assert age < min(waiting, default=math.inf)
                    held.append((age, again))
        elif step == "serve":
            queue.serve()
            expected = math.inf
            assert not (queue.idle and queue.waiting)
        elif step == "ask":
            record = queue.get_now()
            if record is not None:
                assert not waiting
                held.append((age, record))
            else:
                waiter = Waiter[Any](Asked(age))
                queue.enqueue(waiter, math.inf, AssertionError)
                waiters.append(waiter)
        served = [each for each in waiters if each.grant is not None]
        waiters = [each for each in waiters if each.grant is None]
        left = min((each.claim.began_at for each in waiters), default=math.inf)
        assert all(each.claim.began_at <= left for each in served)
        held += [(each.claim.began_at, each.grant) for each in served]
        if queue.idle and queue.waiting:
            assert expected < left
        assert len(held) + len(queue.idle) == queue.opened <= slots
