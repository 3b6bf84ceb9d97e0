"""The places of one process when something comes between two steps."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from flask_poolguard.budget import (
    Budget,
    PoolPlaces,
    own_places,
    pool_places,
    shared_file,
)
from flask_poolguard.budget import budget as budget_module
from flask_poolguard.pool import FairQueue
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child

pytestmark = pytest.mark.filterwarnings(MAY_DEADLOCK)


class Slot:
    """A slot whose connection takes no time."""

    returns = 0
    dbapi_connection = None
    idle_since = 0.0


def queue_of(budget: Budget) -> FairQueue[Any]:
    """Return a queue whose slots take places."""
    return FairQueue(0, float("inf"), False, Slot, PoolPlaces(budget))


@pytest.fixture
def budgets(tmp_path: Path) -> Iterator[Callable[[int], Budget]]:
    """Return what makes budgets, each with a file of its own."""
    made: list[Budget] = []

    def make(limit: int) -> Budget:
        made.append(Budget(str(tmp_path), f"{len(made)}.budget", "shop"))
        made[-1].go_by(limit)
        return made[-1]

    yield make
    for each in made:
        each._parts.clear()
        each.is_over()


def locked(budget: Budget) -> int:
    """Return how many places this process has by the word of the kernel."""
    file = budget._file
    assert file is not None
    return in_child(lambda: file.holders(budget.limit).total())


class TestThreads:
    @pytest.mark.parametrize("limit", [1, 3])
    def test_never_have_more_than_there_are(
        self, budgets: Callable[[int], Budget], limit: int
    ) -> None:
        budget = budgets(limit)
        queues = [queue_of(budget) for _ in range(5)]
        live: list[int] = []
        most = [0]
        turns = [0] * len(queues)
        until = time.monotonic() + 2.0

        def use(number: int) -> None:
            queue = queues[number]
            while time.monotonic() < until:
                slot = queue.get_now()
                if slot is None:
                    budget._refused_until = 0.0
                    continue
                live.append(number)
                most[0] = max(most[0], len(live))
                for _ in range(random.randrange(100)):
                    pass
                live.remove(number)
                queue.free(slot)
                turns[number] += 1

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [
                threading.Thread(target=use, args=(number,))
                for number in range(len(queues))
            ]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
        finally:
            sys.setswitchinterval(before)
        assert most[0] <= limit
        assert sum(turns) > 100
        assert locked(budget) <= limit


FILES = {
    module.__file__ for module in (budget_module, own_places, pool_places, shared_file)
}


class InterruptionError(BaseException):
    """What a signal's handler raises at any line."""


def interrupted_at(number: int, work: Callable[[], None]) -> bool:
    """Run something and raise at so many lines of the budget's; tell whether it came
    so far.
    """
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in FILES:
            return None
        if event in ("line", "return"):
            count += 1
            if count == number:
                sys.settrace(None)
                raise InterruptionError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except InterruptionError:
        return True
    finally:
        sys.settrace(before)
    return False


def interrupt_everywhere(folder: str) -> int:
    """Raise at each line in turn, and check what is left; return how many there are."""
    budget_module._start = lambda *args: None
    for number in range(1, 300):
        budget = Budget(folder, f"{number}.budget", "shop")
        budget.go_by(3)
        queue = queue_of(budget)
        first = queue.get_now()
        queue.free(first)

        def use() -> None:
            slot = queue.get_now()  # noqa: B023 (run at once)
            if slot is not None:
                queue.free(slot)  # noqa: B023 (run at once)

        came_so_far = interrupted_at(number, use)
        queue.opened = 0
        for _ in range(own_places._LOST_AFTER + 2):
            budget.look()
        assert locked(budget) == len(budget._claimed) == 0, number
        # All of them can be had again, and no more.
        slots = [queue.get_now() for _ in range(3)]
        assert None not in slots, number
        assert queue.get_now() is None
        if not came_so_far:
            return number
    raise AssertionError("the line after the last one was not reached")


def test_no_place_is_lost_or_had_twice_by_an_asynchronous_exception(
    tmp_path: Path,
) -> None:
    """In a child: CPython 3.11 keeps frames of later errors once it has traced."""
    assert in_child(lambda: interrupt_everywhere(str(tmp_path))) > 50


def test_a_collection_of_garbage_within_a_look_gives_back(
    budgets: Callable[[int], Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread is within the queue, and wants a place meanwhile."""
    budget = budgets(2)
    queue = queue_of(budget)
    entered, go_on = threading.Event(), threading.Event()

    class Leaked:
        """What gives its slot back when it is collected."""

        def __init__(self) -> None:
            self.slot = queue.get_now()
            self.me = self

        def __del__(self) -> None:
            queue.free(self.slot)

    gc.disable()
    try:
        held = queue.get_now()
        Leaked()
        settle = budget.settle

        def collect() -> None:
            entered.set()
            go_on.wait(10)
            gc.collect()
            settle()

        monkeypatch.setattr(budget, "settle", collect)
        looking = threading.Thread(target=budget.look)
        looking.start()
        entered.wait(10)
        asking = threading.Thread(target=queue.get_now)
        with queue._lock:
            asking.start()
            go_on.set()
            time.sleep(0.1)
        looking.join(10)
        asking.join(10)
        assert not looking.is_alive()
        assert not asking.is_alive()
        assert held is not None
    finally:
        gc.enable()


@pytest.mark.parametrize("fork", [os.fork, fork_without_hooks])
@pytest.mark.parametrize("gives", [True, False])
def test_a_forked_child_has_nothing_of_its_parents(
    budgets: Callable[[int], Budget], fork: Callable[[], int], gives: bool
) -> None:
    budget = budgets(3)
    queue = queue_of(budget)
    slot = queue.get_now()
    # One is spare, as a worker's first may be.
    budget._free.append(next(each for each in range(3) if each not in budget._claimed))
    assert locked(budget) == 1

    def take() -> int:
        if gives:
            budget.forked()  # as the hook of the fork does
            queue.free(slot)
        own = queue_of(budget)
        return sum(own.get_now() is not None for _ in range(3))

    assert in_child(take, fork=fork) == 2
    assert locked(budget) == 1


def test_a_question_gives_back_its_own_place_and_no_detached_connections(
    budgets: Callable[[int], Budget],
) -> None:
    class Connection:
        """A driver's connection that leaves its pool."""

    budget = budgets(3)
    queue = queue_of(budget)
    places = queue.places
    slot, connection = queue.get_now(), Connection()
    assert places.borrow()
    places.lend(connection)
    queue.free(slot)
    places.give_back()
    assert locked(budget) == 1
    del connection
    assert locked(budget) == 0


class TestAhead:
    """Places for connections that no thread waits for."""

    def test_leaves_one_for_a_checkout(
        self, budgets: Callable[[int], Budget], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # No slot is opened for these, so a look would give them back.
        monkeypatch.setattr(Budget, "_wake_thread", lambda _: None)
        queue = queue_of(budgets(3))
        assert [queue.places.take_ahead() for _ in range(4)] == [
            *(True, True),
            *(False, False),
        ]
        assert queue.places.take()

    def test_takes_the_first_place_of_a_worker(
        self, budgets: Callable[[int], Budget]
    ) -> None:
        budget = budgets(1)
        queue = queue_of(budget)
        budget._is_member = True
        budget.look()
        assert len(budget._free) == 1
        assert queue.places.take_ahead()
        assert locked(budget) == 1

    def test_takes_none_for_a_while_after_a_checkout_found_none(
        self, budgets: Callable[[int], Budget], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        budget = budgets(2)
        queue = queue_of(budget)
        slots = [queue.get_now() for _ in range(3)]
        assert slots[2] is None
        for each in slots[:2]:
            assert each is not None
            queue.free(each)
        assert not queue.places.take_ahead()
        monkeypatch.setattr(own_places, "CALM", 0.0)
        assert queue.places.take_ahead()

    def test_wishes_for_none(self, budgets: Callable[[int], Budget]) -> None:
        budget = budgets(1)
        queue = queue_of(budget)
        assert not queue.places.take_ahead()
        budget.look()
        assert budget._asked_at == 0
        assert not budget._open_file().is_wished_for()

    def test_finds_that_a_budget_is_not_kept(
        self, tmp_path: Path, budgets: Callable[[int], Budget]
    ) -> None:
        (tmp_path / "0.budget").write_bytes(b"another file" * 1000)
        queue = queue_of(budgets(1))
        assert queue.places.take_ahead()
        assert vars(queue.places)["held"] == [pool_places.ANY]
