"""How a recycle time is derived from an idle limit: pure arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_poolguard.databases import IdleLimit
from flask_poolguard.pool import Recycle
from flask_poolguard.pool.idle_limits import derive
from flask_poolguard.pool.types import JITTER, jittered

# From a millisecond to longer than any server's maximum.
seconds = st.floats(min_value=0.001, max_value=1e9)
maybe_seconds = st.none() | seconds


def server(limit: float | None) -> IdleLimit:
    """Return what a server says that closes idle sessions after so many seconds."""
    return IdleLimit(limit, "no limit" if limit is None else f"limit {limit:g} s")


class TestDerive:
    @pytest.mark.parametrize(
        ("limit", "derived"),
        [
            (600, 500),
            (28_800, 24_000),
            (30, 25),
            (10, 10 * 5 / 6),
            (2, 2 * 5 / 6),
            (1, 5 / 6),
            (31_536_000, 26_280_000),
        ],
    )
    def test_it_is_five_sixths_of_the_servers_limit(
        self, limit: float, derived: float
    ) -> None:
        assert derive(server(limit), None).seconds == pytest.approx(derived)

    def test_it_names_the_limit_and_the_share(self) -> None:
        limit = IdleLimit(600, "wait_timeout 600 s")
        assert derive(limit, None).source == "wait_timeout 600 s × 5/6"

    def test_without_any_limit_there_is_none_and_the_server_says_why(self) -> None:
        limit = IdleLimit(None, "SQLite has no idle limit")
        assert derive(limit, None) == Recycle(None, "SQLite has no idle limit")

    @given(limit=seconds, known=maybe_seconds)
    def test_it_is_above_zero_and_below_every_limit(
        self, limit: float, known: float | None
    ) -> None:
        derived = derive(server(limit), known).seconds
        assert derived is not None
        assert 0 < derived < limit
        assert known is None or derived < known


class TestKnownLimit:
    def test_a_smaller_one_beats_the_servers(self) -> None:
        derived = derive(server(600), 60)
        assert derived == Recycle(50, "POOLGUARD_IDLE_LIMIT 60 s × 5/6")

    def test_a_larger_one_gives_way_to_the_servers(self) -> None:
        assert derive(server(60), 600) == Recycle(50, "limit 60 s × 5/6")

    def test_it_counts_where_the_server_has_none(self) -> None:
        assert derive(server(None), 60).seconds == 50

    @given(limit=maybe_seconds, known=seconds)
    def test_it_never_makes_recycling_later(
        self, limit: float | None, known: float
    ) -> None:
        without = derive(server(limit), None).seconds
        with_it = derive(server(limit), known).seconds
        assert with_it is not None
        assert without is None or with_it <= without


class TestJitter:
    @given(limit=seconds)
    def test_it_only_shortens_and_by_a_tenth_at_most(self, limit: float) -> None:
        recycle = derive(server(limit), None)
        assert recycle.seconds is not None
        for _ in range(20):
            own = jittered(recycle.seconds)
            assert own is not None
            least = recycle.seconds * (1 - JITTER)
            assert 0 < least * 0.999999 <= own <= recycle.seconds

    def test_connections_of_one_pool_do_not_all_expire_together(self) -> None:
        recycle = derive(server(600), None)
        assert len({jittered(recycle.seconds) for _ in range(100)}) > 90

    def test_no_limit_stays_no_limit(self) -> None:
        assert jittered(None) is None
