"""The arithmetic of sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_poolguard.report import estimate
from flask_poolguard.tracking import sizing
from flask_poolguard.tracking.sizing import Need
from tests.support.statuses import POOL

counts = st.integers(0, 1_000_000)
demands = st.dictionaries(st.integers(1, 1024), counts, max_size=30)
shares = st.floats(0.00001, 0.5)
needs = st.lists(
    st.tuples(st.integers(1, 200), st.integers(0, 200)).map(
        lambda pair: Need(pair[0], sum(pair), 1)
    ),
    max_size=6,
)


class TestCheckoutsNeeded:
    def test_are_three_for_each_that_the_share_lets_pass(self) -> None:
        assert sizing.checkouts_needed(0.001) == 3000
        assert sizing.checkouts_needed(0.0001) == 30_000

    def test_are_never_few(self) -> None:
        assert sizing.checkouts_needed(0.5) == 1000

    @given(shares)
    def test_would_most_likely_show_a_larger_share(self, share: float) -> None:
        # The chance that none of them shows what happens with this share.
        assert (1 - share) ** sizing.checkouts_needed(share) < 0.05


class TestSmallest:
    @given(demands, shares)
    def test_leaves_at_most_the_share_beyond(
        self, demand: dict[int, int], share: float
    ) -> None:
        size = sizing.smallest(demand, share)
        assert sizing.exceeding(demand, size) <= share * sum(demand.values())

    @given(demands, shares)
    def test_is_the_smallest_that_does(
        self, demand: dict[int, int], share: float
    ) -> None:
        size = sizing.smallest(demand, share)
        allowed = share * sum(demand.values())
        assert all(sizing.exceeding(demand, each) > allowed for each in range(1, size))

    @given(demands, shares, shares)
    def test_grows_when_the_share_shrinks(
        self, demand: dict[int, int], one: float, other: float
    ) -> None:
        less, more = sorted((one, other))
        assert sizing.smallest(demand, less) >= sizing.smallest(demand, more)

    def test_of_nothing_is_one(self) -> None:
        assert sizing.smallest({}, 0.1) == sizing.smallest({7: 0}, 0.1) == 1

    def test_by_hand(self) -> None:
        demand = {1: 9000, 2: 989, 3: 10, 9: 1}
        assert sizing.smallest(demand, 0.001) == 3
        assert sizing.smallest(demand, 0.0001) == 3
        assert sizing.smallest(demand, 0.00001) == 9
        assert sizing.smallest(demand, 0.01) == 2
        assert sizing.exceeding(demand, 2) == 11

    @given(st.lists(demands, max_size=4))
    def test_workers_are_added_up(self, several: list[dict[int, int]]) -> None:
        total = sizing.add_up(several)
        for connections in (0, 1, 5, 64, 1024):
            assert sizing.exceeding(total, connections) == sum(
                sizing.exceeding(each, connections) for each in several
            )
        assert list(total) == sorted(total)


class TestNotRuledOut:
    @given(demands, shares)
    def test_is_no_more_than_what_was_enough(
        self, demand: dict[int, int], share: float
    ) -> None:
        assert sizing.not_ruled_out(demand, share) <= sizing.smallest(demand, share)

    @pytest.mark.parametrize(
        ("demand", "expected"),
        [
            ({}, 1),
            ({1: 12}, 1),
            # One in twelve is no chance where it is one in a thousand.
            ({1: 11, 4: 1}, 4),
            # The probability of one or more in 100 is 10 %.
            ({1: 99, 4: 1}, 1),
            ({1: 98, 4: 2}, 4),
            ({2: 99_880, 3: 115, 4: 5}, 3),
            ({2: 99_890, 3: 105, 4: 5}, 2),
            ({2: 999_000, 3: 1_000}, 2),
            ({2: 998_900, 3: 1_100}, 3),
        ],
    )
    def test_by_hand(self, demand: dict[int, int], expected: int) -> None:
        assert sizing.not_ruled_out(demand, 0.001) == expected


def asked(
    demand: dict[int, int], hours: float = 0.1, **usage: int | None
) -> estimate.Asked:
    """Return what a worker's pool was asked for, by four threads."""
    values: dict[str, Any] = {"threads": 4, "nesting": 1, **usage}
    changed = replace(POOL.usage, demand=demand, **values)
    return estimate.Asked(changed, hours * 3600)


class TestSurelyEnough:
    @given(demands, shares)
    def test_is_no_less_than_what_was_enough(
        self, demand: dict[int, int], share: float
    ) -> None:
        found = sizing.surely_enough(demand, share)
        assert found is None or found >= sizing.smallest(demand, share)

    @pytest.mark.parametrize(
        ("demand", "expected"),
        [
            ({}, None),
            # None of so many is what chance would show, too.
            ({1: 2990}, None),
            ({1: 3000}, 1),
            ({1: 2999, 4: 1}, 4),
            ({1: 4800, 4: 1}, 1),
            ({2: 99_910, 3: 85, 4: 5}, 3),
            ({2: 99_925, 3: 70, 4: 5}, 2),
            ({2: 999_000, 3: 1_000}, 3),
            ({2: 999_100, 3: 900}, 2),
        ],
    )
    def test_by_hand(self, demand: dict[int, int], expected: int | None) -> None:
        assert sizing.surely_enough(demand, 0.001) == expected


class TestEstimate:
    def test_of_many_checkouts_is_one_size(self) -> None:
        found = estimate.estimate([asked({1: 2000, 3: 1000})])
        assert found.is_sure
        assert (found.low, found.high, found.pool_size(5)) == (3, 3, 3)

    def test_of_few_has_no_upper_end_while_the_threads_are_not_known(self) -> None:
        found = estimate.estimate([asked({1: 11, 2: 1})])
        assert (found.low, found.high, found.checkouts) == (2, None, 12)
        assert not found.is_sure
        assert [found.pool_size(present) for present in (1, 2, 5, 0)] == [2, 2, 5, 0]

    def test_of_few_makes_nothing_smaller(self) -> None:
        """A view that had no request yet may take several at once."""
        found = estimate.estimate([asked({1: 12}, threads=1, server_threads=8)])
        assert (found.low, found.high, found.is_sure) == (1, 8, False)
        assert [found.pool_size(present) for present in (0, 1, 5, 9)] == [0, 1, 5, 9]

    def test_of_an_hour_is_no_more_than_its_threads_use(self) -> None:
        found = estimate.estimate([asked({1: 1000}, hours=1)])
        assert (found.low, found.high, found.is_sure) == (1, 4, False)
        assert [found.pool_size(present) for present in (0, 1, 3, 9)] == [4, 1, 3, 4]

    def test_leaves_no_worker_short(self) -> None:
        """One is busy; of all checkouts together a thousandth is its."""
        quiet, busy = asked({1: 10_000_000}), asked({1: 900, 7: 100})
        assert estimate.estimate([quiet]).pool_size(5) == 1
        assert estimate.estimate([quiet, busy]).pool_size(5) == 7

    def test_leaves_room_for_requests_that_take_two(self) -> None:
        found = estimate.estimate([asked({2: 12}, nesting=2)])
        assert (found.low, found.pool_size(2)) == (5, 5)

    @given(st.lists(demands, max_size=3), shares, st.integers(0, 100))
    def test_is_a_range_that_holds_its_size(
        self, several: list[dict[int, int]], share: float, present: int
    ) -> None:
        found = estimate.estimate([asked(each) for each in several], share)
        assert found.low <= found.need.size <= found.need.most
        assert found.high is None or found.need.size <= found.high
        if found.may_lower:
            assert found.low <= found.pool_size(present) <= found.need.most
        elif present:
            assert found.pool_size(present) == max(present, found.low)


class TestDeadlock:
    @given(st.integers(1, 50), st.integers(1, 8), st.data())
    def test_one_thread_always_gets_on(
        self, threads: int, nesting: int, data: st.DataObject
    ) -> None:
        """Whatever they hold while each wants one more, one is left."""
        held = data.draw(
            st.lists(st.integers(0, nesting - 1), min_size=threads, max_size=threads)
        )
        assert sum(held) < sizing.without_deadlock(threads, nesting)

    @given(st.integers(1, 50), st.integers(2, 8))
    def test_with_one_less_all_can_wait(self, threads: int, nesting: int) -> None:
        worst = threads * (nesting - 1)
        assert worst == sizing.without_deadlock(threads, nesting) - 1


class TestNeed:
    @given(demands, shares, st.integers(0, 64), st.integers(0, 4))
    def test_is_between_what_avoids_deadlock_and_what_threads_can_use(
        self, demand: dict[int, int], share: float, threads: int, nesting: int
    ) -> None:
        need = sizing.need_of(demand, share, threads, nesting)
        assert 1 <= need.fewest <= need.size <= need.most
        assert need.fewest >= min(sizing.without_deadlock(threads, nesting), need.most)

    def test_nested_requests_need_more_than_was_seen(self) -> None:
        need = sizing.need_of({1: 5000, 2: 5000}, 0.001, threads=8, nesting=2)
        assert need == Need(size=9, most=16, fewest=9)

    def test_what_was_seen_counts_beyond_the_threads(self) -> None:
        need = sizing.need_of({1: 5000, 6: 5000}, 0.001, threads=4, nesting=1)
        assert need == Need(size=6, most=6, fewest=1)


class TestShareOut:
    wants = st.lists(st.integers(0, 300), max_size=8)

    @given(st.integers(0, 1000), wants)
    def test_gives_all_it_has_and_nobody_too_much(
        self, amount: int, wants: list[int]
    ) -> None:
        shares = sizing.share_out(amount, wants)
        assert sum(shares) == min(amount, sum(wants))
        assert all(0 <= got <= want for got, want in zip(shares, wants, strict=True))

    @given(st.integers(0, 1000), wants)
    def test_gives_nobody_less_than_another_who_could_have_more(
        self, amount: int, wants: list[int]
    ) -> None:
        shares = sizing.share_out(amount, wants)
        for got, want in zip(shares, wants, strict=True):
            if got < want:
                assert all(other <= got + 1 for other in shares)


class TestSizesWithin:
    @given(needs, st.integers(0, 500))
    def test_stay_within_the_room(self, wanted: list[Need], room: int) -> None:
        found = sizing.sizes_within(wanted, room)
        total = sum(each.pool_size + (each.max_overflow or 0) for each in found)
        # One connection each is the least: a pool_size of 0 would be no limit.
        assert total <= max(room, len(wanted))
        for need, sizes in zip(wanted, found, strict=True):
            assert 1 <= sizes.pool_size <= need.size
            assert sizes.pool_size + (sizes.max_overflow or 0) <= need.most
            assert sizes.pool_size == need.size or sizes.is_short
        is_short = sum(need.size for need in wanted) > room
        assert any(each.is_short for each in found) == is_short

    @given(needs)
    def test_without_a_limit_are_all_that_threads_can_use(
        self, wanted: list[Need]
    ) -> None:
        for need, sizes in zip(
            wanted, sizing.sizes_within(wanted, math.inf), strict=True
        ):
            assert sizes.pool_size == need.size
            assert sizes.pool_size + (sizes.max_overflow or 0) == need.most
            assert not sizes.is_short

    @given(needs)
    def test_say_nothing_of_overflow_where_the_room_is_unknown(
        self, wanted: list[Need]
    ) -> None:
        found = sizing.sizes_within(wanted, None)
        assert [each.max_overflow for each in found] == [None] * len(wanted)

    @pytest.mark.parametrize(
        ("room", "expected"),
        [
            (100, [(4, 4), (2, 2)]),
            (9, [(4, 2), (2, 1)]),
            (6, [(4, 0), (2, 0)]),
            (5, [(3, 0), (2, 0)]),
            (1, [(1, 0), (1, 0)]),
        ],
    )
    def test_by_hand(self, room: int, expected: list[tuple[int, int]]) -> None:
        found = sizing.sizes_within([Need(4, 8, 1), Need(2, 4, 1)], room)
        assert [(each.pool_size, each.max_overflow) for each in found] == expected
