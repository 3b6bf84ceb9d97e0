"""A deadlock is named at once, one gives way, and nothing else is taken for one."""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy import URL, Connection, event, exc

from flask_poolguard.errors import PoolDeadlock
from flask_poolguard.pool import GuardedPool
from flask_poolguard.tracking.pool_tracker import PoolTracker
from tests.support.guarded_app import guarded_pool
from tests.support.people import SECONDS, Person, Stop, Struck, people
from tests.support.tracked import Tracked
from tests.support.waiting import wait_until

MakeTracked = Callable[[int], Tracked]


@pytest.fixture
def make_tracked(
    sqlite_url: URL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeTracked]:
    """Return what guards pools of so many slots, for which one may wait for ever.

    In the end every slot must be there, and no housekeeper may have helped.
    """
    monkeypatch.setattr(GuardedPool, "tend", lambda _: None)
    made = []

    def make_tracked(slots: int) -> Tracked:
        tracked = Tracked(sqlite_url, pool_size=slots, max_overflow=0, pool_timeout=600)
        made.append((tracked, slots))
        return tracked

    yield make_tracked
    for tracked, slots in made:
        pool = guarded_pool(tracked.engine)
        assert (pool.waiting, pool.checkedout()) == (0, 0)
        assert tracked.tracker.figures.waiting == 0
        assert tracked.tracker.out == {}
        held = [tracked.engine.connect() for _ in range(slots)]
        for each in held:
            each.close()
        tracked.engine.dispose()


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return what fills with the outcomes of all searches for a deadlock."""
    found: list[bool] = []
    find = PoolTracker.find_deadlock

    def find_deadlock(self: PoolTracker, *arguments: Any) -> Any:
        outcome = find(self, *arguments)
        found.append(outcome is not None)
        return outcome

    monkeypatch.setattr(PoolTracker, "find_deadlock", find_deadlock)
    return found


def searched(verdicts: list[bool], count: int) -> list[bool]:
    """Wait for so many searches and return their outcomes."""
    wait_until(lambda: len(verdicts) >= count, what=f"{count} searches")
    return verdicts


class TestFound:
    @pytest.mark.parametrize("slots", [1, 2, 5])
    def test_one_thread_that_needs_more_than_there_are(
        self, slots: int, make_tracked: MakeTracked
    ) -> None:
        tracked = make_tracked(slots)
        with people(tracked.engine, 1) as (person,):
            person.begin(tracked.app)
            for _ in range(slots):
                person.take()
            with pytest.raises(PoolDeadlock) as raised:
                person.take()
            assert isinstance(raised.value, exc.TimeoutError)
            assert f"1 × ({slots + 1} - 1) + 1 = {slots + 1} conn" in str(raised.value)
            person.give_back()
            person.take()
        assert tracked.tracker.figures.counts["timeouts"] == 1

    @pytest.mark.parametrize(
        "order",
        [*itertools.permutations(range(2)), *itertools.permutations(range(3))],
    )
    def test_of_several_who_have_one_each_only_the_youngest_fails(
        self, order: tuple[int, ...], make_tracked: MakeTracked
    ) -> None:
        tracked = make_tracked(len(order))
        with people(tracked.engine, len(order)) as everybody:
            for each in everybody:
                each.begin(tracked.app).take()
            asked = {}
            for number in order[:-1]:
                asked[number] = everybody[number].ask()
            last = everybody[order[-1]]
            asked[order[-1]] = last.start(last._take)
            *others, youngest = everybody
            with pytest.raises(PoolDeadlock):
                asked[len(others)].result(SECONDS)
            # Exactly one: the others go on when it unwinds, one after the other.
            giver = youngest
            for number, other in enumerate(others):
                assert not any(
                    asked[each].done() for each in range(number, len(others))
                )
                giver.give_back()
                asked[number].result(SECONDS)
                giver = other
        assert tracked.tracker.figures.counts["timeouts"] == 1

    def test_who_gave_way_and_asks_again_gives_way_again(
        self, make_tracked: MakeTracked
    ) -> None:
        tracked = make_tracked(2)
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app).take()
            asked = older.ask()
            for _ in range(3):
                with pytest.raises(PoolDeadlock):
                    younger.take()
            younger.give_back()
            asked.result(SECONDS)
        assert tracked.tracker.figures.counts["timeouts"] == 3

    def test_who_only_waits_does_not_hide_it(self, make_tracked: MakeTracked) -> None:
        tracked = make_tracked(2)
        with people(tracked.engine, 3) as (older, younger, waiting):
            older.begin(tracked.app).take()
            younger.begin(tracked.app).take()
            asked = older.ask(), waiting.ask()
            with pytest.raises(PoolDeadlock):
                younger.take()
            younger.give_back()
            asked[0].result(SECONDS)
            older.give_back()
            asked[1].result(SECONDS)

    def test_requests_of_which_each_takes_two(self, make_tracked: MakeTracked) -> None:
        tracked = make_tracked(2)
        both = threading.Barrier(2)

        @tracked.app.get("/")
        def view() -> str:
            with tracked.engine.connect():
                both.wait(SECONDS)
                with tracked.engine.connect():
                    return "done"

        @tracked.app.errorhandler(PoolDeadlock)
        def busy(error: PoolDeadlock) -> tuple[str, int]:
            return str(error), 503

        with people(tracked.engine, 2) as clients:
            get = tracked.app.test_client().get
            asked = [each.start(lambda: get("/")) for each in clients]
            answers = sorted(
                (each.result(SECONDS) for each in asked), key=lambda a: a.status_code
            )
        assert [each.status_code for each in answers] == [200, 503]
        text = answers[1].text
        assert text.count("view has 1, taken at") == 2
        assert text.count("(the youngest: it gives way)") == 1
        assert "2 × (2 - 1) + 1 = 3 connections" in text
        first = view.__code__.co_firstlineno + 2
        assert text.count(f"unit/test_deadlocks.py:{first}, and asks") == 2
        assert text.count(f"unit/test_deadlocks.py:{first + 2}") == 2
        assert "POOLGUARD_POOL_SIZE + POOLGUARD_MAX_OVERFLOW" in text


class TestNotFound:
    """Somebody can go on."""

    def test_a_holder_that_does_not_wait(
        self, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        tracked = make_tracked(2)
        with people(tracked.engine, 2) as (nested, bystander):
            nested.begin(tracked.app).take()
            bystander.take()
            asked = nested.ask()
            assert searched(verdicts, 1) == [False]
            bystander.give_back()
            asked.result(SECONDS)

    def test_a_thread_that_works_for_the_same_request(
        self, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        tracked = make_tracked(1)
        with people(tracked.engine, 2) as (view, helper):
            view.begin(tracked.app).take()
            context = view.do(contextvars.copy_context)
            asked = helper.start(lambda: context.run(helper._take))
            assert searched(verdicts, 1) == [False]
            view.give_back()
            asked.result(SECONDS)

    def test_a_holder_whose_thread_has_ended(
        self, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        tracked = make_tracked(2)
        kept: list[Connection] = []
        thread = threading.Thread(target=lambda: kept.append(tracked.engine.connect()))
        thread.start()
        thread.join()
        with people(tracked.engine, 1) as (nested,):
            nested.begin(tracked.app).take()
            asked = nested.ask()
            assert searched(verdicts, 1) == [False]
            kept.pop().close()
            asked.result(SECONDS)

    def test_a_slot_that_is_being_connected(
        self, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        tracked = make_tracked(2)
        stop = Stop()
        with people(tracked.engine, 2) as (nested, connecting):
            nested.begin(tracked.app).take()
            event.listen(tracked.engine, "do_connect", stop, once=True)
            connected = connecting.start(connecting._take)
            stop.until_reached()
            asked = nested.ask()
            assert searched(verdicts, 1) == [False]
            stop.open()
            connected.result(SECONDS)
            connecting.give_back()
            asked.result(SECONDS)

    def test_a_connection_of_the_pool_before_the_last_dispose(
        self, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        """It is no slot of the pool in which its thread waits."""
        tracked = make_tracked(1)
        stop = Stop()
        with people(tracked.engine, 2) as (holder, connecting):
            holder.begin(tracked.app).take()
            tracked.engine.dispose()
            event.listen(tracked.engine, "do_connect", stop, once=True)
            connected = connecting.start(connecting._take)
            stop.until_reached()
            asked = holder.ask()
            assert searched(verdicts, 1) == [False]
            stop.open()
            connected.result(SECONDS)
            connecting.give_back()
            asked.result(SECONDS)

    def test_one_that_was_held_before_a_dispose_hides_none(
        self, make_tracked: MakeTracked
    ) -> None:
        tracked = make_tracked(1)
        with people(tracked.engine, 2) as (bystander, nested):
            bystander.take()
            tracked.engine.dispose()
            nested.begin(tracked.app).take()
            with pytest.raises(PoolDeadlock):
                nested.take()

    def test_a_connection_that_comes_back_while_one_looks(
        self, make_tracked: MakeTracked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its thread asks again at once, but then it has nothing."""
        tracked = make_tracked(2)
        queue = guarded_pool(tracked.engine)._pool
        claims = queue.claims
        with people(tracked.engine, 3) as (nested, moving, third):
            nested.begin(tracked.app).take()
            moving.take()
            third_asked = third.ask()
            moved: list[bool] = []
            again: list[Future[None]] = []

            def move_on() -> Any:
                if not moved:
                    moved.append(True)
                    moving.give_back()
                    third_asked.result(SECONDS)
                    again.append(moving.ask())
                return claims()

            # The oldest of those who wait is to be the one who has nothing yet.
            (entry,) = queue.waiting
            queue.waiting[0] = (0.0, *entry[1:])
            monkeypatch.setattr(queue, "claims", move_on)
            asked = nested.start(nested._take)
            wait_until(lambda: again, what="the move")
            third.give_back()
            asked.result(SECONDS)
            nested.give_back()
            again[0].result(SECONDS)
        assert tracked.tracker.figures.counts["timeouts"] == 0

    def test_a_stream_that_another_thread_reads(
        self, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        """The thread that took its connection waits on behalf of another request."""
        tracked = make_tracked(2)

        @tracked.app.get("/stream")
        def stream() -> Iterator[str]:
            connection = tracked.engine.connect()

            def rows() -> Iterator[str]:
                yield "first"
                connection.close()
                yield "last"

            return rows()

        with people(tracked.engine, 2) as (server, reader):
            answer = server.do(
                lambda: tracked.app.test_client().get("/stream", buffered=False)
            )
            parts = iter(answer.response)
            assert reader.do(lambda: next(parts)) == b"first"
            server.begin(tracked.app).take()
            asked = server.ask()
            assert searched(verdicts, 1) == [False]
            assert reader.do(lambda: next(parts)) == b"last"
            asked.result(SECONDS)
            reader.do(answer.close)

    def test_a_pool_with_room_is_not_searched(
        self, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        tracked = make_tracked(3)
        with people(tracked.engine, 1) as (nested,):
            nested.take().take().take()
        assert verdicts == []

    @pytest.mark.parametrize(
        "within_task",
        [
            False,
            pytest.param(
                True,
                marks=pytest.mark.xfail(  # who uses a connection is not known
                    strict=True, reason="who uses a connection is not known"
                ),
            ),
        ],
    )
    def test_a_connection_that_was_handed_to_another_thread(
        self, within_task: bool, make_tracked: MakeTracked, verdicts: list[bool]
    ) -> None:
        tracked = make_tracked(1)
        with people(tracked.engine, 2) as (giving, working):
            if within_task:
                giving.begin(tracked.app)
            giving.take()
            working.connections.append(giving.connections.pop())
            asked = giving.ask()  # until it waits
            if within_task:
                searched(verdicts, 2)
            else:  # outside of any, it is known to have none that others wait for
                assert not verdicts
            working.give_back()
            asked.result(SECONDS)


class TestMoment:
    @pytest.fixture
    def tracked(self, make_tracked: MakeTracked) -> Tracked:
        """Guard a pool of two."""
        return make_tracked(2)

    @pytest.fixture
    def nearly(self, tracked: Tracked) -> Iterator[tuple[Person, Person]]:
        """Give two with one connection each, of whom the older asks for another."""
        with people(tracked.engine, 2) as (older, younger):
            older.begin(tracked.app).take()
            younger.begin(tracked.app).take()
            asked = older.ask()
            yield older, younger
            asked.result(SECONDS)

    def test_who_is_served_just_then_does_not_fail(
        self,
        tracked: Tracked,
        nearly: tuple[Person, Person],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        queue = guarded_pool(tracked.engine)._pool
        fail = queue.fail
        failed: list[bool] = []

        def fail_late(*arguments: Any) -> bool:
            # Both come back from another thread, as an app may do, or a collection:
            # the first goes to the older one, the second to the one that is to fail.
            for each in nearly:
                each.connections.pop(0).close()
            failed.append(fail(*arguments))
            return failed[-1]

        monkeypatch.setattr(queue, "fail", fail_late)
        _, younger = nearly
        younger.take()
        assert failed == [False]
        assert tracked.tracker.figures.counts["timeouts"] == 0

    def test_another_who_is_served_just_then_saves_nobody(
        self,
        tracked: Tracked,
        nearly: tuple[Person, Person],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        queue = guarded_pool(tracked.engine)._pool
        fail = queue.fail
        older, younger = nearly

        def fail_late(*arguments: Any) -> bool:
            older.connections.pop(0).close()
            return fail(*arguments)

        monkeypatch.setattr(queue, "fail", fail_late)
        with pytest.raises(PoolDeadlock):
            younger.take()
        assert tracked.tracker.figures.counts["timeouts"] == 1

    def test_a_strike_while_one_looks_loses_nothing(
        self,
        tracked: Tracked,
        nearly: tuple[Person, Person],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        queue = guarded_pool(tracked.engine)._pool
        claims, strikes = queue.claims, [Struck()]

        def struck() -> Any:
            found = claims()
            if strikes:
                raise strikes.pop()
            return found

        monkeypatch.setattr(queue, "claims", struck)
        _, younger = nearly
        with pytest.raises(Struck):
            younger.take()
        assert strikes == []
        assert len(queue.waiting) == 1
        younger.give_back()
