"""A connection waits for a request that asks again at once, and for no other."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import URL

from flask_poolguard.pool import GuardedPool, housekeeper
from flask_poolguard.pool.fair_queue import FairQueue
from flask_poolguard.pool.types import AnonymousClaim
from flask_poolguard.pool.waiter import Waiter
from flask_poolguard.tracking import returners
from flask_poolguard.tracking.checkout import OUTSIDE
from flask_poolguard.tracking.returners import Returners
from tests.support.people import SECONDS, Person, Struck, people
from tests.support.tracked import Tracked, one_connection


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
    """Guard a pool of one connection; tasks are known to ask again at once."""
    with one_connection(sqlite_url) as tracked:
        teach(tracked)
        yield tracked
        assert not tracked.tracker.returners.expected


def teach(tracked: Tracked) -> None:
    """Let tasks be known to ask again at once: one does while others wait."""
    with people(tracked.engine, 3) as (older, younger, youngest):
        for each in (older, younger, youngest):
            each.begin(tracked.app)
        older.take()
        asked, last = younger.ask(), youngest.ask()
        older.give_back()
        asked.result(SECONDS)  # it was not known yet
        again = older.ask()
        younger.give_back()
        again.result(SECONDS)
        older.give_back()
        end_task(older)
        last.result(SECONDS)


def end_task(person: Person) -> None:
    """Let a person's task come to its end."""
    person.do(person._contexts.close)


@dataclass
class Kept:
    """What was just given back by an older task is kept for it; a younger one waits."""

    older: Person
    younger: Person
    asked: Future[None]


@pytest.fixture
def kept(tracked: Tracked) -> Iterator[Kept]:
    """Let an older task give back its connection while a younger one waits."""
    with people(tracked.engine, 2) as (older, younger):
        older.begin(tracked.app).take()
        younger.begin(tracked.app)
        asked = younger.ask()
        older.give_back()
        assert not asked.done()
        assert (older.pool.waiting, older.pool.checkedin()) == (1, 1)
        yield Kept(older, younger, asked)
        asked.result(SECONDS)


class TestReturner:
    def test_has_its_connection_again_before_one_that_began_later(
        self, tracked: Tracked, kept: Kept
    ) -> None:
        waits = tracked.tracker.usage.waits
        for _ in range(5):
            kept.older.take()
            kept.older.give_back()
            assert not kept.asked.done()
        assert tracked.tracker.usage.waits == waits
        end_task(kept.older)

    def test_that_ends_leaves_it_to_the_next(self, kept: Kept) -> None:
        end_task(kept.older)

    def test_that_does_not_ask_is_not_waited_for_again(
        self,
        tracked: Tracked,
        kept: Kept,
        monkeypatch: pytest.MonkeyPatch,
        by_hand: Callable[[Returners], None],
    ) -> None:
        by_hand(tracked.tracker.returners)  # it may still come
        assert not kept.asked.done()
        monkeypatch.setattr(returners, "AT_ONCE", 0.0)
        monkeypatch.setattr(returners, "LATE", 0.0)
        by_hand(tracked.tracker.returners)
        kept.asked.result(SECONDS)
        monkeypatch.setattr(returners, "AT_ONCE", 600.0)
        kept.younger.give_back()
        kept.older.take()
        asked = kept.younger.ask()
        kept.older.give_back()
        asked.result(SECONDS)

    def test_that_is_younger_is_not_waited_for(self, tracked: Tracked) -> None:
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app)
            younger.begin(tracked.app).take()
            asked = older.ask()
            younger.give_back()
            asked.result(SECONDS)

    def test_is_not_waited_for_when_another_asks(
        self, tracked: Tracked, kept: Kept
    ) -> None:
        """A thread that gives or takes one meanwhile serves the oldest that waits."""
        with people(tracked.engine, 1) as (youngest,):
            youngest.begin(tracked.app)
            last = youngest.start(youngest._take)
            kept.asked.result(SECONDS)
            assert not last.done()
            kept.younger.give_back()
            end_task(kept.younger)
            last.result(SECONDS)

    def test_goes_before_others_for_a_while_only(
        self, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A task that runs for long would let them starve."""
        kept.older.take()
        monkeypatch.setattr(returners, "PRIVILEGE", 0.0)
        kept.older.give_back()

    def test_is_served_by_the_round_if_the_earlier_one_was_lost(
        self,
        tracked: Tracked,
        kept: Kept,
        monkeypatch: pytest.MonkeyPatch,
        by_hand: Callable[[Returners], None],
    ) -> None:
        monkeypatch.setattr(returners, "AT_ONCE", 0.0)
        monkeypatch.setattr(Returners, "tend", by_hand)
        housekeeper._soon.clear()
        tracked.tracker.tend()

    def test_that_is_struck_while_it_asks_leaves_it_to_the_next(
        self, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def strike(_: float) -> None:
            raise Struck

        with monkeypatch.context() as patch:
            patch.setattr(kept.older.pool._pool, "get_now", strike)
            with pytest.raises(Struck):
                kept.older.take()

    def test_loses_it_to_one_that_would_time_out(self, kept: Kept) -> None:
        queue = kept.older.pool._pool
        ((_, _, waiter),) = queue.waiting
        assert not waiter.is_settled()
        assert queue.withdraw(waiter) is not None

    def test_outside_any_task_is_not_waited_for(self, tracked: Tracked) -> None:
        with people(tracked.engine, 2) as (bare, younger):
            bare.take()
            younger.begin(tracked.app)
            asked = younger.ask()
            bare.give_back()
            asked.result(SECONDS)

    def test_alone_is_not_expected(self, tracked: Tracked) -> None:
        with people(tracked.engine, 1) as (alone,):
            alone.begin(tracked.app).take().give_back()
            assert not tracked.tracker.returners.expected


def test_one_that_gives_two_back_keeps_none_from_others(sqlite_url: URL) -> None:
    """It would ask for one of them only."""
    tracked = Tracked(sqlite_url, pool_size=2, max_overflow=0, pool_timeout=600)
    tracked.tracker.returners._known_from[OUTSIDE] = 0.0
    with people(tracked.engine, 3) as (older, *others):
        older.begin(tracked.app).take().take()
        for each in others:
            each.begin(tracked.app)
        asked = [each.ask() for each in others]
        older.give_back()
        assert not any(future.done() for future in asked)
        older.give_back()
        for future in asked:
            future.result(SECONDS)
    tracked.engine.dispose()


def test_one_of_another_pool_teaches_nothing(sqlite_url: URL) -> None:
    """A request that gives to one pool and asks another does not ask that one again."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 600}
    first, second = (Tracked(sqlite_url, **options) for _ in range(2))
    gave, asked = first.tracker.returners, second.tracker.returners
    with first.app.app_context():
        assert gave.comes_back() == math.inf
        assert asked.came_back() == math.inf
        assert not asked._known_from
        asked._known_from[OUTSIDE] = 0.0
        assert asked.comes_back() == math.inf  # half a second is for one pool
        assert gave.came_back() == math.inf
        assert gave._known_from
    for each in (first, second):
        each.engine.dispose()


@pytest.mark.parametrize("seed", range(40))
def test_the_oldest_comes_first_in_any_order_of_steps(seed: int) -> None:
    """No claim is served while an older one waits; a connection is only idle while
    others wait if it waits for one that is older than they; one call serves them all.
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
                if age < oldest:  # none was woken, none older waits
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
                waiter = Waiter[Any](AnonymousClaim(age))
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
