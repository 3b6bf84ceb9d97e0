"""The arithmetic of sizes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_poolguard.report import sizing
from flask_poolguard.report.sizing import Need

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
