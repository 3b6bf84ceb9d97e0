"""Sizes that follow what is asked for: the decision alone, without a pool."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_poolguard.tracking import sizing
from flask_poolguard.tracking.auto_sizes import (
    STEP,
    STOCK_OVERFLOW,
    STOCK_SIZE,
    TO_LOWER,
    AutoSizes,
    PoolSizes,
    Seen,
)

STOCK = STOCK_SIZE + STOCK_OVERFLOW

demands = st.dictionaries(st.integers(1, 40), st.integers(1, 5000), max_size=6)
# What comes within a second: demand, threads that begin to be seen, nesting, waits.
seconds = st.tuples(
    demands, st.integers(0, 40), st.integers(0, 3), st.integers(0, 5), st.booleans()
)
budgets = st.none() | st.integers(1, 60)
overflows = st.none() | st.integers(0, 20)


@dataclass
class Worker:
    """A worker as its pool's sizes see it, whose clock is told to go on."""

    sizes: AutoSizes
    threads: int | None = None
    budget: int | None = None
    now: float = 1000.0
    seen: Seen = field(default_factory=lambda: Seen({}))
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes.begin(self.threads, self.budget, self.now)
        self.seen = Seen({}, self.threads or 0, budget=self.budget)

    @property
    def size(self) -> int:
        return self.sizes.sizes.pool_size

    def second(
        self,
        demand: dict[int, int],
        waits: int = 0,
        seconds: float = 1.0,
        **others: int | bool,
    ) -> PoolSizes:
        """Let this be asked for within some seconds, and look then."""
        self.now += seconds
        self.seen = replace(
            self.seen,
            demand=sizing.add_up([self.seen.demand, demand]),
            waits=self.seen.waits + waits,
            **others,  # type: ignore[arg-type] # a field's own type each
        )
        why = self.sizes.look(self.seen, self.now)
        if why is not None:
            self.reasons.append(why)
        return self.sizes.sizes

    def serve(self, demand: dict[int, int], minutes: int) -> None:
        """Let this be asked for each minute."""
        for _ in range(minutes):
            self.second(demand, seconds=60.0)


def auto(threads: int | None = None, budget: int | None = None) -> Worker:
    return Worker(AutoSizes(None, None), threads, budget)


class TestTheBeginning:
    @pytest.mark.parametrize(
        ("threads", "budget", "expected"),
        [
            (None, None, PoolSizes(5, 10)),
            (1, None, PoolSizes(1, 14)),
            (8, None, PoolSizes(8, 7)),
            (40, None, PoolSizes(15, 0)),
            (40, 30, PoolSizes(30, 0)),
            (8, 60, PoolSizes(8, 7)),
            (8, 4, PoolSizes(4, 0)),
        ],
    )
    def test_is_a_connection_for_each_thread_as_far_as_allowed(
        self, threads: int | None, budget: int | None, expected: PoolSizes
    ) -> None:
        assert auto(threads, budget).sizes.sizes == expected

    @pytest.mark.parametrize(
        ("overflow", "expected"),
        [
            (0, PoolSizes(8, 0)),
            (10, PoolSizes(5, 10)),
            (50, PoolSizes(5, 50)),
            (-1, PoolSizes(8, -1)),
        ],
    )
    def test_leaves_the_users_own_overflow(
        self, overflow: int, expected: PoolSizes
    ) -> None:
        assert Worker(AutoSizes(None, overflow), 8).sizes.sizes == expected

    @pytest.mark.parametrize(
        ("size", "expected"),
        [(0, PoolSizes(0, -1)), (3, PoolSizes(3, 10)), (30, PoolSizes(30, 10))],
    )
    def test_leaves_the_users_own_size(self, size: int, expected: PoolSizes) -> None:
        assert Worker(AutoSizes(size, None), 8).sizes.sizes == expected

    @pytest.mark.parametrize(
        ("overflow", "budget", "expected"),
        [
            (None, None, PoolSizes(9, 6)),
            (10, None, PoolSizes(9, 10)),
            (None, 6, PoolSizes(6, 0)),
        ],
    )
    def test_is_what_is_to_be_idle_at_least(
        self, overflow: int | None, budget: int | None, expected: PoolSizes
    ) -> None:
        worker = Worker(AutoSizes(None, overflow, at_least=9), 2, budget)
        assert worker.sizes.sizes == expected
        worker.serve({1: 5000}, minutes=60)
        assert worker.sizes.sizes == expected

    def test_says_nothing(self) -> None:
        worker = auto(8)
        worker.second({})
        assert worker.reasons == []


class TestGrowth:
    def test_comes_at_once_where_it_is_sure(self) -> None:
        worker = auto(2)
        assert worker.second({2: 40, 6: 1}, threads=8).pool_size == 6
        assert worker.reasons == [
            "1 of 41 checkouts of the last minute wanted more at a time"
        ]

    def test_does_not_come_for_what_may_be_chance(self) -> None:
        worker = auto(2)
        worker.second({2: 900, 6: 1}, threads=8)
        assert worker.size == 2
        assert worker.reasons == []

    def test_comes_when_callers_wait_for_the_limit(self) -> None:
        worker = Worker(AutoSizes(None, 0), 2)
        assert worker.second({1: 5000, 3: 1}, waits=1).pool_size == 3
        assert worker.reasons == [
            "1 checkout had to wait, and the server gives connections"
        ]

    def test_does_not_come_for_waits_below_the_limit(self) -> None:
        # For a place of a budget, or for a server that is full.
        worker = Worker(AutoSizes(None, 4), 2)
        worker.second({1: 5000, 3: 1}, waits=1)
        assert worker.size == 2

    def test_waits_for_a_server_that_gives_no_connections(self) -> None:
        worker = auto(2)
        worker.second({2: 10, 9: 10}, waits=10, may_open=False)
        assert worker.size == 2
        worker.second({2: 1}, may_open=True)
        assert worker.size == 9

    def test_ends_at_the_budget(self) -> None:
        worker = auto(2, budget=6)
        assert worker.second({20: 100}, waits=50, threads=40) == PoolSizes(6, 0)

    def test_follows_a_budget_that_becomes_smaller(self) -> None:
        worker = auto(12, budget=40)
        assert worker.second({}, budget=7) == PoolSizes(7, 0)
        assert worker.reasons == ["the budget is 7"]

    def test_of_the_overflow_follows_the_threads_up_to_the_budget(self) -> None:
        worker = auto(4, budget=60)
        assert worker.second({1: 1}, threads=20, nesting=1) == PoolSizes(4, 16)
        assert worker.second({1: 1}, threads=20, nesting=2).limit == 40
        assert worker.second({1: 1}, threads=50).limit == 60

    def test_of_the_overflow_does_not_touch_the_users_own_size(self) -> None:
        worker = Worker(AutoSizes(3, None), 2, budget=60)
        assert worker.second({40: 100}, waits=9, threads=20) == PoolSizes(3, 37)


class TestShrinking:
    def test_is_one_step_a_minute(self) -> None:
        worker = auto(6)
        sizes = []
        for _ in range(22 * 60):
            worker.second({1: 100})
            sizes.append(worker.size)
        changes = [
            second
            for second, (before, after) in enumerate(itertools.pairwise(sizes))
            if before != after
        ]
        assert sorted(set(sizes), reverse=True) == [6, 5, 4, 3, 2, 1]
        assert sizes == sorted(sizes, reverse=True)
        assert changes[0] >= TO_LOWER - 2
        assert all(
            later - earlier >= STEP for earlier, later in itertools.pairwise(changes)
        )

    def test_says_what_it_is_based_on(self) -> None:
        worker = auto(2)
        worker.serve({1: 1000}, minutes=15)
        assert worker.size == 1
        assert worker.reasons == [
            "0 of 15,000 checkouts of the last 15 minutes wanted more at a time"
        ]

    def test_takes_as_many_checkouts_as_one_number_of_advise(self) -> None:
        worker = auto(4)
        worker.serve({1: 49}, minutes=60)
        assert worker.size == 4  # 2,940 within the hour
        worker.serve({1: 51}, minutes=61)
        assert worker.size < 4

    def test_does_not_go_by_chance(self) -> None:
        worker = auto(2)
        worker.serve({1: 599, 2: 1}, minutes=60)
        assert worker.size == 2

    def test_leaves_what_the_threads_need_to_be_free_of_a_deadlock(self) -> None:
        worker = auto(20)
        worker.second({1: 1000}, nesting=2)
        worker.serve({1: 10_000}, minutes=60)
        limit = sizing.without_deadlock(20, 2)
        assert worker.sizes.sizes == PoolSizes(1, limit - 1)

    def test_comes_after_a_peak_is_over(self) -> None:
        worker = auto(2)
        worker.serve({2: 5000, 9: 500}, minutes=10)
        assert worker.size == 9
        worker.serve({2: 5000}, minutes=30)
        assert worker.size == 2

    def test_is_no_swing(self) -> None:
        worker = auto(8)
        worker.serve({1: 5000}, minutes=30)
        assert worker.sizes.swings(worker.now) == 0


class TestNesting:
    def test_raises_the_size_at_once_where_the_overflow_is_fixed(self) -> None:
        worker = Worker(AutoSizes(None, 0), 4)
        assert worker.second({2: 1}, nesting=2).pool_size == 5
        assert worker.reasons == [
            "a request had 2 connections at once, and 4 threads that do so need 5 so"
            " that one of them always gets on"
        ]

    def test_raises_the_limit_beyond_what_is_allowed_without_a_budget(self) -> None:
        """But keeps no more connections open."""
        worker = auto(20)
        assert worker.second({2: 1}, nesting=2) == PoolSizes(15, 6)

    def test_raises_it_to_a_hundred_at_most(self) -> None:
        worker = auto(1000)
        assert worker.second({2: 1}, nesting=2).limit == 100

    def test_of_a_budget_that_is_not_kept_any_more_the_sizes_stay(self) -> None:
        worker = auto(40, budget=60)
        assert worker.size == 40
        worker.budget = None
        worker.second({1: 1})
        assert (worker.size, worker.sizes.sizes.limit) == (40, 40)

    def test_does_not_go_beyond_a_budget(self) -> None:
        worker = auto(20, budget=18)
        assert worker.second({2: 1}, nesting=2) == PoolSizes(18, 0)

    def test_counts_the_users_own_overflow(self) -> None:
        worker = Worker(AutoSizes(None, 10), 8)
        assert worker.second({1: 1}, nesting=2) == PoolSizes(5, 10)
        assert worker.second({1: 1}, nesting=3) == PoolSizes(7, 10)


class TestSwings:
    def test_are_counted_once_each_for_an_hour(self) -> None:
        worker = auto(2)
        for number in range(3):
            worker.serve({1: 5000, 6: 500}, minutes=1)
            assert worker.size == 6
            assert worker.sizes.swings(worker.now) == number
            worker.serve({1: 5000}, minutes=22)
            assert worker.size < 6
        worker.serve({1: 5000}, minutes=60)
        assert worker.sizes.swings(worker.now) == 0

    @pytest.mark.parametrize("overflow", [None, 0])
    def test_do_not_come_from_waves_of_some_minutes(self, overflow: int | None) -> None:
        worker = Worker(AutoSizes(None, overflow), 2)
        for _ in range(30):
            worker.second({1: 2000, 6: 500}, waits=20, seconds=60.0)
            worker.serve({1: 5000}, minutes=9)
        assert worker.size == 6
        assert len(worker.reasons) == 1

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(0, 3), min_size=60, max_size=60), st.integers(2, 9))
    def test_do_not_come_from_a_demand_that_hardly_varies(
        self, beyond: list[int], size: int
    ) -> None:
        """Of 2,000 a minute about as many go beyond it as the share allows."""
        worker = auto(size)
        for each in beyond:
            worker.second({size - 1: 2000 - each, size: each}, seconds=60)
        assert worker.sizes.swings(worker.now) < 3


def each_look(
    worker: Worker, course: list[tuple[dict[int, int], int, int, int, bool]]
) -> list[tuple[Seen, PoolSizes]]:
    found = []
    threads, nesting = worker.threads or 0, 0
    for demand, more_threads, deeper, waits, may_open in course:
        threads, nesting = max(threads, more_threads), max(nesting, deeper)
        sizes = worker.second(
            demand,
            waits,
            seconds=17.0,
            threads=threads,
            nesting=nesting,
            may_open=may_open,
        )
        found.append((worker.seen, sizes))
    return found


class TestWhateverComes:
    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(seconds, max_size=40),
        budgets,
        overflows,
        st.none() | st.integers(1, 40),
    )
    def test_the_sizes_stay_within_their_bounds(
        self,
        course: list[tuple[dict[int, int], int, int, int, bool]],
        budget: int | None,
        overflow: int | None,
        threads: int | None,
    ) -> None:
        worker = Worker(AutoSizes(None, overflow), threads, budget)
        for seen, sizes in each_look(worker, course):
            needed = sizing.need_of(
                seen.demand, 0.001, seen.threads, seen.nesting
            ).fewest
            assert sizes.pool_size >= 1
            if budget is not None:
                assert sizes.pool_size <= budget
            elif overflow is None:
                assert sizes.limit <= max(STOCK, needed)
            else:
                assert sizes.limit <= max(STOCK, STOCK_SIZE + overflow, needed)
            most = sizes.limit if budget is None else budget
            assert sizes.limit >= min(needed, most)
            if overflow is not None:
                assert sizes.max_overflow == overflow
            elif budget is not None:
                assert sizes.limit <= budget

    @settings(max_examples=40, deadline=None)
    @given(st.lists(seconds, max_size=40), st.none() | st.integers(1, 40))
    def test_each_change_has_its_reason_and_nothing_else_has(
        self,
        course: list[tuple[dict[int, int], int, int, int, bool]],
        threads: int | None,
    ) -> None:
        worker = auto(threads, budget=30)
        before = worker.sizes.sizes
        changes = 0
        for _, sizes in each_look(worker, course):
            changes += sizes != before
            before = sizes
        assert len(worker.reasons) == changes
        assert all(worker.reasons)

    @settings(max_examples=40, deadline=None)
    @given(demands.filter(bool), st.integers(1, 20), st.integers(1, 15))
    def test_a_demand_that_stays_the_same_leads_to_one_size(
        self, demand: dict[int, int], threads: int, budget: int
    ) -> None:
        worker = auto(threads, budget)
        worker.serve(demand, minutes=120)
        settled, said = worker.sizes.sizes, len(worker.reasons)
        worker.serve(demand, minutes=60)
        assert worker.sizes.sizes == settled
        assert len(worker.reasons) == said
        assert worker.sizes.swings(worker.now) == 0

    @settings(max_examples=40, deadline=None)
    @given(demands.filter(bool), st.integers(1, 20))
    def test_the_size_is_what_advise_would_name_for_the_same_minutes(
        self, demand: dict[int, int], threads: int
    ) -> None:
        """Nor does it stop above it if that is sure."""
        worker = auto(threads, budget=40)
        worker.serve(demand, minutes=180)
        need = sizing.need_of(worker.seen.demand, 0.001, threads, 0)
        minutes = min(max(math.ceil(3000 / sum(demand.values())), 5), 58)
        lately = {bound: minutes * count for bound, count in demand.items()}
        assert worker.size >= min(sizing.not_ruled_out(lately, 0.001), 40)
        hour = {bound: 60 * count for bound, count in demand.items()}
        enough = sizing.surely_enough(hour, 0.001)
        if enough is not None and sum(demand.values()) * 60 > 3100:
            assert worker.size <= max(enough, need.size)
