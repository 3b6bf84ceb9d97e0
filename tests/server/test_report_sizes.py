"""Findings about pools that are too small or too big for what they were asked for."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, QueuePool, create_engine, text

from flask_poolguard.report.evidence import Evidence
from flask_poolguard.report.model import Finding
from flask_poolguard.report.rules.pool_use import Use, uses_of
from tests.conftest import Database
from tests.support.evidence import (
    changed,
    codes_of,
    evidence_of,
    found_by_rules,
    with_another,
)
from tests.support.reporting import MakeShop, found

SIZES = {"nesting", "pool-too-small", "idle-threads", "pool-too-big"}
HOUR = 3600.0


@pytest.fixture
def evidence(make_shop: MakeShop, sqlite_url: URL) -> Evidence:
    """Return a worker's figures after one checkout, with a pool of 5 + 10."""
    shop = make_shop(default=create_engine(sqlite_url))
    shop.use()
    return evidence_of(shop)


def one(findings: list[Finding]) -> Finding:
    """Return the only finding, which must say everything."""
    (finding,) = findings
    assert finding.message
    assert finding.fix.endswith(".")
    assert finding.consequence
    assert finding.consequence.endswith(".")
    return finding


def sizes_of(evidence: Evidence) -> set[str]:
    """Return which findings about sizes there are."""
    return codes_of(evidence) & SIZES


def test_a_fresh_app_has_none(make_shop: MakeShop, served_database: Database) -> None:
    shop = make_shop(default=create_engine(served_database.url))
    for _ in range(20):
        shop.use()
    assert sizes_of(evidence_of(shop)) == set()


def test_a_worker_that_was_not_used_has_none(
    make_shop: MakeShop, sqlite_url: URL
) -> None:
    shop = make_shop(default=create_engine(sqlite_url))
    with shop.app.test_client() as client:
        client.get("/")
    assert sizes_of(changed(evidence_of(shop), age_seconds=2 * HOUR)) == set()


class TestNesting:
    def test_in_a_view_of_several_threads_is_found(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = create_engine(served_database.url, pool_size=2, max_overflow=1)
        shop = make_shop(default=engine)

        @shop.app.get("/nested")
        def nested() -> str:
            with engine.connect() as first, engine.connect() as second:
                return f"{first.scalar(text('SELECT 1'))}{second.closed}"

        ready, done = threading.Barrier(4), threading.Event()

        def serve(number: int) -> int:
            # One after the other asks; all of them live at once.
            with lock:
                status = shop.app.test_client().get("/nested").status_code
            ready.wait(30)
            done.wait(30)
            return status

        lock = threading.Lock()
        with ThreadPoolExecutor(3) as threads:
            served = [threads.submit(serve, number) for number in range(3)]
            ready.wait(30)
            finding = one(found_by_rules(evidence_of(shop), "nesting"))
            done.set()
        assert [each.result(30) for each in served] == [200] * 3
        (pool,) = evidence_of(shop).all_pools()
        assert pool.usage.threads >= 3
        needed = pool.usage.threads + 1
        assert finding.level == "warning"
        assert finding.message == (
            "A request or task wanted 2 connections of bind 'default' at once:"
            f" {needed - 1} threads that do so need {needed - 1} × (2 - 1) + 1 ="
            f" {needed}, and the pool may have 3 (worker {os.getpid()})"
        )
        assert (
            f"create_engine(pool_size=…) of 'default' = {needed} (now 2)" in finding.fix
        )
        assert "PoolDeadlock" in str(finding.consequence)

    @pytest.mark.parametrize(
        ("threads", "nesting", "needed"), [(14, 2, 15), (7, 3, 15), (15, 1, 1)]
    )
    def test_with_enough_connections_is_none(
        self, evidence: Evidence, threads: int, nesting: int, needed: int
    ) -> None:
        assert needed <= 15
        enough = changed(evidence, usage={"threads": threads, "nesting": nesting})
        assert not found_by_rules(enough, "nesting")

    @pytest.mark.parametrize(
        ("threads", "nesting", "needed"), [(15, 2, 16), (8, 3, 17), (5, 4, 16)]
    )
    def test_with_one_too_few_is_found(
        self, evidence: Evidence, threads: int, nesting: int, needed: int
    ) -> None:
        tight = changed(evidence, usage={"threads": threads, "nesting": nesting})
        finding = one(found_by_rules(tight, "nesting"))
        assert f"= {needed}, and the pool may have 15" in finding.message
        assert f"POOLGUARD_POOL_SIZE = {needed} (now 5)" in finding.fix
        # Whoever does that has no finding any more.
        mended = changed(tight, size=needed)
        assert not found_by_rules(mended, "nesting")

    @pytest.mark.parametrize("sizes", [{"size": 0}, {"max_overflow": -1}])
    def test_without_a_limit_is_none(
        self, evidence: Evidence, sizes: dict[str, Any]
    ) -> None:
        usage = {"threads": 500, "nesting": 3}
        assert not found_by_rules(changed(evidence, usage=usage, **sizes), "nesting")

    def test_of_several_workers_the_worst_is_shown(self, evidence: Evidence) -> None:
        bad = changed(evidence, usage={"threads": 15, "nesting": 2})
        worse = changed(evidence, usage={"threads": 30, "nesting": 2})
        both = with_another(bad, worse, 77)
        finding = one(found_by_rules(both, "nesting"))
        own = os.getpid()
        assert f"(worker 77, and likewise worker {own})" in finding.message

    def test_in_a_pool_of_another_class_names_no_key_without_effect(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        class OwnPool(QueuePool):
            pass

        shop = make_shop(default=create_engine(sqlite_url, poolclass=OwnPool))
        shop.use()
        usage = {"threads": 15, "nesting": 2}
        tight = changed(evidence_of(shop), usage=usage)
        finding = one(found_by_rules(tight, "nesting"))
        assert "pool_size of the engine of bind 'default' = 16" in finding.fix
        assert "PoolDeadlock" not in str(finding.consequence)


class TestTooSmall:
    def test_overflow_that_comes_and_goes_is_found(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = create_engine(served_database.url, pool_size=1, max_overflow=3)
        shop = make_shop(default=engine)
        shop.use()
        for _ in range(949):
            with engine.connect():
                pass
        assert sizes_of(evidence_of(shop)) == set()
        for _ in range(25):
            with engine.connect(), engine.connect():
                pass
        (finding,) = found_by_rules(evidence_of(shop), "pool-too-small")
        assert found(shop.report(), "pool-too-small") == [finding]
        one([finding])
        assert finding.level == "info"
        assert finding.message == (
            "25 connections above the size of 1 were opened and closed again in 1000"
            f" checkouts of bind 'default' (worker {os.getpid()})"
        )
        assert (
            "Set create_engine(pool_size=…) of 'default' = 2 (now 1), or more: 1,000"
            " checkouts tell no more; flask pool advise says how much overflow the"
            " server has room for." in finding.fix
        )

    def test_waiting_is_found(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = create_engine(served_database.url, pool_size=1, max_overflow=0)
        shop = make_shop(default=engine)
        with shop.app.app_context():
            pass  # from now on it is guarded

        def work() -> None:
            for _ in range(260):
                with engine.connect() as connection:
                    connection.execute(text("SELECT 1"))

        with ThreadPoolExecutor(4) as threads:
            for each in [threads.submit(work) for _ in range(4)]:
                each.result(60)
        evidence = evidence_of(shop)
        usage = next(evidence.all_pools()).usage
        finding = one(found_by_rules(evidence, "pool-too-small"))
        assert f"{usage.waits} of 1040 checkouts" in finding.message
        assert "for one of 1 connections" in finding.message
        assert "has room for " in finding.fix
        slow = changed(evidence, usage={"longest_wait_seconds": 1.0})
        assert one(found_by_rules(slow, "pool-too-small")).level == "warning"
        quick = changed(evidence, usage={"longest_wait_seconds": 0.99})
        assert one(found_by_rules(quick, "pool-too-small")).level == "info"

    def test_threads_that_waited_for_a_budget_do_not_make_the_pool_too_small(
        self, evidence: Evidence
    ) -> None:
        usage = {"waits": 90, "longest_wait_seconds": 2.0, "demand": {18: 1000}}
        tight = changed(
            evidence, usage=usage, budget_file="a.budget", peak_checked_out=14
        )
        assert not found_by_rules(tight, "pool-too-small")
        full = changed(tight, peak_checked_out=15)
        assert found_by_rules(full, "pool-too-small")

    @pytest.mark.parametrize(
        ("checkouts", "closed"), [(999, 999), (1000, 19), (2000, 39)]
    )
    def test_a_little_overflow_is_none(
        self, evidence: Evidence, checkouts: int, closed: int
    ) -> None:
        little = changed(
            evidence,
            closed={"overflow": closed},
            usage={"demand": {7: checkouts}},
        )
        assert not found_by_rules(little, "pool-too-small")

    @pytest.mark.parametrize(("checkouts", "closed"), [(1000, 20), (2000, 40)])
    def test_a_little_more_is_found(
        self, evidence: Evidence, checkouts: int, closed: int
    ) -> None:
        more = changed(
            evidence,
            closed={"overflow": closed},
            usage={"demand": {3: checkouts - closed, 7: closed}},
        )
        finding = one(found_by_rules(more, "pool-too-small"))
        assert "POOLGUARD_POOL_SIZE = 7 (now 5)" in finding.fix
        mended = changed(more, size=7, max_overflow=8)
        assert not found_by_rules(mended, "pool-too-small")

    def test_what_was_thrown_away_in_one_burst_long_ago_is_none(
        self, evidence: Evidence
    ) -> None:
        burst = changed(
            evidence,
            closed={"overflow": 50},
            usage={"demand": {2: 2000, 15: 10}},
        )
        assert not found_by_rules(burst, "pool-too-small")

    @pytest.mark.parametrize(("waits", "is_found"), [(10, False), (11, True)])
    def test_more_than_one_in_a_hundred_may_not_wait(
        self, evidence: Evidence, waits: int, is_found: bool
    ) -> None:
        usage = {
            "waits": waits,
            "longest_wait_seconds": 2.0,
            "demand": {3: 1000 - waits, 18: waits},
        }
        findings = found_by_rules(changed(evidence, usage=usage), "pool-too-small")
        assert bool(findings) == is_found

    def test_waiting_while_the_server_was_full_is_none(
        self, evidence: Evidence
    ) -> None:
        usage = {"waits": 400, "longest_wait_seconds": 9.0, "demand": {3: 1000}}
        assert not found_by_rules(changed(evidence, usage=usage), "pool-too-small")

    @pytest.mark.parametrize(("waits", "found"), [(10, 0), (11, 1)])
    def test_a_hundredth_of_the_checkouts_may_wait(
        self, evidence: Evidence, waits: int, found: int
    ) -> None:
        usage = {"waits": waits, "longest_wait_seconds": 0.1, "demand": {20: 1000}}
        findings = found_by_rules(changed(evidence, usage=usage), "pool-too-small")
        assert len(findings) == found

    def test_with_nesting_its_advice_leaves_room_for_that(
        self, evidence: Evidence
    ) -> None:
        both = changed(
            evidence,
            closed={"overflow": 50},
            usage={"demand": {7: 1000}, "threads": 19, "nesting": 2},
        )
        assert sizes_of(both) == {"nesting", "pool-too-small"}
        fix = one(found_by_rules(both, "pool-too-small")).fix
        assert "POOL_SIZE = 20 (now 5)" in fix
        assert "room for 5 more per worker" in fix
        assert not sizes_of(changed(both, size=20, max_overflow=0))

    def test_a_pool_without_a_size_has_no_overflow(self, evidence: Evidence) -> None:
        usage = {"demand": {40: 1000}}
        endless = changed(
            evidence, size=0, max_overflow=-1, closed={"overflow": 900}, usage=usage
        )
        assert not found_by_rules(endless, "pool-too-small")

    def test_without_a_limit_only_the_size_is_to_be_changed(
        self, evidence: Evidence
    ) -> None:
        usage = {"demand": {40: 1000}}
        endless = changed(
            evidence, max_overflow=-1, closed={"overflow": 900}, usage=usage
        )
        fix = one(found_by_rules(endless, "pool-too-small")).fix
        assert "POOLGUARD_POOL_SIZE = 40 (now 5)" in fix
        assert "OVERFLOW" not in fix


class TestIdleThreads:
    def test_are_found_after_an_hour_of_traffic(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        # More than there are threads in this process.
        engine = create_engine(served_database.url, pool_size=3, max_overflow=500)
        shop = make_shop(default=engine)
        for _ in range(1000):
            shop.use()
        fresh = evidence_of(shop)
        assert sizes_of(fresh) == set()
        finding = one(found_by_rules(changed(fresh, age_seconds=HOUR), "idle-threads"))
        threads = next(fresh.all_pools()).usage.threads
        assert finding.level == "info"
        assert "may have 503 connections" in finding.message
        assert f"cannot use more than {threads} " in finding.message
        assert "1000 checkouts in 1.0 h" in finding.message

    @pytest.mark.parametrize(
        ("threads", "nesting", "is_found"),
        [(14, 1, True), (15, 1, False), (7, 2, True), (8, 2, False), (0, 0, False)],
    )
    def test_are_found_where_the_threads_are_too_few(
        self, evidence: Evidence, threads: int, nesting: int, is_found: bool
    ) -> None:
        usage = {"threads": threads, "nesting": nesting, "demand": {3: 1000}}
        findings = found_by_rules(
            changed(evidence, age_seconds=HOUR, usage=usage), "idle-threads"
        )
        # With no thread seen it is not known what they could use.
        assert bool(findings) == is_found

    @pytest.mark.parametrize(
        ("threads", "size", "overflow"), [(8, 5, 3), (3, 3, 0), (5, 5, 0)]
    )
    def test_the_advice_fits_the_threads(
        self, evidence: Evidence, threads: int, size: int, overflow: int
    ) -> None:
        usage = {"threads": threads, "nesting": 1, "demand": {2: 1000}}
        wide = changed(evidence, age_seconds=HOUR, usage=usage)
        finding = one(found_by_rules(wide, "idle-threads"))
        assert f"POOL_SIZE = {size} (now 5)" in finding.fix
        assert f"OVERFLOW = {overflow} (now 10)" in finding.fix
        assert not sizes_of(changed(wide, size=size, max_overflow=overflow))

    @pytest.mark.parametrize(("age", "checkouts"), [(HOUR / 2, 5000), (HOUR * 2, 999)])
    def test_are_not_spoken_of_too_early(
        self, evidence: Evidence, age: float, checkouts: int
    ) -> None:
        usage = {"threads": 2, "nesting": 1, "demand": {2: checkouts}}
        early = changed(evidence, age_seconds=age, usage=usage)
        assert sizes_of(early) == set()

    def test_are_not_spoken_of_while_the_pool_is_too_small(
        self, evidence: Evidence
    ) -> None:
        both = changed(
            evidence,
            age_seconds=HOUR,
            closed={"overflow": 50},
            usage={"threads": 8, "demand": {7: 1000}},
        )
        assert sizes_of(both) == {"pool-too-small"}
        # Whoever has done as that one says is told the rest.
        mended = changed(both, size=7, max_overflow=8)
        assert "OVERFLOW = 1 (now 8)" in one(found_by_rules(mended, "idle-threads")).fix
        assert not sizes_of(changed(mended, max_overflow=1))

    @pytest.mark.parametrize(
        "peak",
        [{"usage": {"demand": {2: 990, 4: 10}}}, {"peak_checked_out": 4}],
    )
    def test_are_none_where_more_was_wanted_than_they_can_use(
        self, evidence: Evidence, peak: dict[str, Any]
    ) -> None:
        usage = {"threads": 3, "nesting": 1, "demand": {2: 1000}}
        few = changed(evidence, age_seconds=HOUR, usage=usage)
        assert found_by_rules(few, "idle-threads")
        assert not found_by_rules(changed(few, **peak), "idle-threads")

    def test_of_one_worker_are_none_where_another_wanted_more(
        self, evidence: Evidence
    ) -> None:
        usage = {"threads": 2, "nesting": 1, "demand": {2: 1000}}
        few = changed(evidence, age_seconds=HOUR, usage=usage)
        burst = changed(evidence, usage={**usage, "demand": {15: 1}})
        assert found_by_rules(few, "idle-threads")
        assert not found_by_rules(with_another(few, burst, 77), "idle-threads")

    def test_are_none_where_another_worker_has_more_threads(
        self, evidence: Evidence
    ) -> None:
        few = changed(
            evidence, age_seconds=HOUR, usage={"threads": 2, "demand": {2: 1000}}
        )
        many = changed(evidence, usage={"threads": 20})
        assert found_by_rules(few, "idle-threads")
        assert not found_by_rules(with_another(few, many, 77), "idle-threads")


class TestTooBig:
    USAGE: dict[str, Any] = {"threads": 50, "nesting": 1, "demand": {4: 3000}}  # noqa: RUF012 (no test changes it)

    @pytest.mark.parametrize(("size", "is_found"), [(11, False), (12, True)])
    def test_is_a_size_of_which_two_thirds_were_never_used(
        self, evidence: Evidence, size: int, is_found: bool
    ) -> None:
        wide = changed(evidence, age_seconds=HOUR, usage=self.USAGE, size=size)
        findings = found_by_rules(wide, "pool-too-big")
        assert bool(findings) == is_found
        if findings:
            finding = one(findings)
            assert finding.level == "info"
            assert "no more than 4 were ever in use" in finding.message
            assert "POOLGUARD_POOL_SIZE = 4 (now 12)" in finding.fix
            assert not sizes_of(changed(wide, size=4))

    def test_is_not_spoken_of_too_early(self, evidence: Evidence) -> None:
        wide = changed(evidence, usage=self.USAGE, size=40, age_seconds=HOUR / 2)
        assert sizes_of(wide) == set()
        usage = {**self.USAGE, "demand": {4: 999}}
        wide = changed(evidence, usage=usage, size=40, age_seconds=HOUR)
        assert sizes_of(wide) == set()

    def test_is_none_where_one_worker_needs_it(self, evidence: Evidence) -> None:
        wide = changed(evidence, age_seconds=HOUR, usage=self.USAGE, size=30)
        assert found_by_rules(wide, "pool-too-big")
        usage = {**self.USAGE, "demand": {20: 3}}
        busy = changed(evidence, usage=usage, size=30)
        assert not found_by_rules(with_another(wide, busy, 77), "pool-too-big")

    def test_one_peak_is_enough_to_be_needed(self, evidence: Evidence) -> None:
        wide = changed(
            evidence,
            age_seconds=HOUR,
            usage=self.USAGE,
            size=30,
            peak_checked_out=11,
        )
        assert not found_by_rules(wide, "pool-too-big")

    def test_is_not_to_be_made_so_small_that_threads_block_each_other(
        self, evidence: Evidence
    ) -> None:
        usage = {**self.USAGE, "nesting": 2}
        wide = changed(evidence, age_seconds=HOUR, usage=usage, size=60, max_overflow=0)
        assert "= 51 (now 60)" in one(found_by_rules(wide, "pool-too-big")).fix
        assert not sizes_of(changed(wide, size=51))


# Figures as they can come together.
FIGURES = {
    "size": st.integers(0, 40),
    "max_overflow": st.integers(-1, 40),
    "threads": st.integers(0, 60),
    "nesting": st.integers(0, 4),
    "waits": st.integers(0, 500),
    "overflow": st.integers(0, 500),
    "demand": st.dictionaries(st.integers(1, 64), st.integers(1, 5000), max_size=5),
}


class TestTogether:
    # Nothing changes the evidence, so that all examples may share it.
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(figures=st.fixed_dictionaries(FIGURES))
    def test_no_two_contradict_each_other(
        self, figures: dict[str, Any], evidence: Evidence
    ) -> None:
        codes = sizes_of(
            changed(
                evidence,
                age_seconds=HOUR,
                size=figures["size"],
                max_overflow=figures["max_overflow"],
                closed={"overflow": figures["overflow"]},
                usage={name: figures[name] for name in ("threads", "nesting", "waits")}
                | {"demand": figures["demand"], "longest_wait_seconds": 2.0},
            )
        )
        larger = codes & {"nesting", "pool-too-small"}
        smaller = codes & {"idle-threads", "pool-too-big"}
        assert not (larger and smaller)
        assert len(smaller) <= 1


class TestShareNeeds:
    @pytest.mark.parametrize(
        ("demand", "share", "needed"),
        [
            ({}, 0.01, 1),
            ({3: 100}, 0.0, 3),
            ({3: 99, 9: 1}, 0.01, 3),
            ({3: 98, 9: 2}, 0.01, 9),
            ({3: 98, 9: 2}, 0.0, 9),
        ],
    )
    def test_leaves_out_that_share_of_the_checkouts_at_most(
        self, evidence: Evidence, demand: dict[int, int], share: float, needed: int
    ) -> None:
        other = changed(evidence, usage={"demand": demand})
        (use,) = uses_of(other, other.engines[0])
        assert isinstance(use, Use)
        assert use.share_needs(share) == needed
