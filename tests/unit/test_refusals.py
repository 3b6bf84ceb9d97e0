"""Requests that ended in a deadlock, and writes that a server refused, as findings."""

from __future__ import annotations

import dataclasses
import re
import time

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard import PoolDeadlock
from flask_poolguard.budget import PlaceHolder, Standing
from flask_poolguard.report.evidence import Evidence
from flask_poolguard.report.rules import OF_WORKERS, findings_of
from flask_poolguard.state.history import History, Minute
from tests.support.evidence import changed, evidence_of, found_by_rules
from tests.support.reporting import MakeShop

NOW = "now"
LATELY = "within the last five minutes"
LONG_AGO = "before that"
BY_NUMBER_AND_AGE = pytest.mark.parametrize(
    ("when", "count", "level"),
    [
        (NOW, 1, "warning"),
        (NOW, 3, "critical"),
        (LATELY, 3, "warning"),
        (LONG_AGO, 3, "info"),
    ],
)
AGO = {NOW: 5.0, LATELY: 200.0, LONG_AGO: 1200.0}


@pytest.fixture
def evidence(make_shop: MakeShop, sqlite_url: URL) -> Evidence:
    """Return what a worker wrote that used one connection."""
    shop = make_shop(default=create_engine(sqlite_url))
    shop.use()
    return evidence_of(shop)


def minute(when: str, **counts: int) -> History:
    """Return an hour in which this happened within one minute."""
    at = time.time() - AGO[when]
    return History(
        (
            Minute(
                at=int(at) // 60 * 60,
                checkouts=12,
                first_failed_at=at,
                last_failed_at=at,
                **counts,
            ),
        )
    )


class TestBudget:
    @pytest.mark.parametrize("taken", [2, 9])
    def test_is_named_as_the_cause_of_timeouts_only_if_it_is_used_up(
        self, evidence: Evidence, taken: int
    ) -> None:
        """A server that is full keeps pools below their sizes as well."""
        standing = Standing(9, (PlaceHolder(1, "shop", taken),))
        met = dataclasses.replace(
            changed(evidence, timeouts=3, history=minute(NOW, timeouts=3)),
            budgets={"default": standing},
        )
        (finding,) = found_by_rules(met, "timeouts")
        assert ("raise POOLGUARD_BUDGET (now 9)" in finding.fix) == (taken == 9)
        assert ("raise POOLGUARD_POOL_SIZE" in finding.fix) == (taken == 2)
        assert ("is used up" in (finding.summary or "")) == (taken == 9)


class TestDeadlocks:
    def met(self, evidence: Evidence, when: str, count: int, more: int = 0) -> Evidence:
        """Return evidence of deadlocks, and of so many timeouts besides."""
        return changed(
            evidence,
            deadlocks=count,
            deadlock_line="views.py:12 in pay",
            timeouts=count + more,
            history=minute(when, deadlocks=count, timeouts=count + more),
        )

    @BY_NUMBER_AND_AGE
    def test_are_found_by_number_and_age_and_are_no_timeouts(
        self, evidence: Evidence, when: str, count: int, level: str
    ) -> None:
        met = self.met(evidence, when, count)
        (finding,) = found_by_rules(met, "deadlock")
        assert finding.level == level
        assert "at views.py:12 in pay" in finding.message
        assert found_by_rules(met, "timeouts") == []
        # How long ago it was may be another second there.
        assert finding.code in [each.code for each in findings_of(met, OF_WORKERS)]

    def test_the_line_and_the_time_are_said_in_short(self, evidence: Evidence) -> None:
        (finding,) = found_by_rules(self.met(evidence, NOW, 1), "deadlock")
        assert re.fullmatch(
            r"1 request failed in a deadlock at \d\d:\d\d:\d\d: all connections of"
            r" bind default were held by requests that wanted another, at"
            r" views\.py:12 in pay",
            finding.in_short,
        )

    def test_timeouts_beside_them_are_counted_apart(self, evidence: Evidence) -> None:
        met = self.met(evidence, NOW, 2, more=1)
        (timeouts,) = found_by_rules(met, "timeouts")
        assert timeouts.in_short.startswith("1 of 12 checkouts of bind default")
        (deadlocks,) = found_by_rules(met, "deadlock")
        assert deadlocks.in_short.startswith("2 requests failed in a deadlock")

    def test_are_counted_with_the_line_that_asked(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        engine = create_engine(sqlite_url, pool_size=1, max_overflow=0)
        shop = make_shop(default=engine)
        engines = shop.engines
        with (
            shop.app.app_context(),
            engines["default"].connect(),
            pytest.raises(PoolDeadlock),
        ):
            engines["default"].connect()
        tracker = shop.app.extensions["poolguard"].app_tracker.trackers[0]
        with tracker.figures.lock:
            status = tracker.figures.status()
        assert (status.deadlocks, status.timeouts, status.timed_out) == (1, 1, 0)
        assert re.search(
            r"test_refusals\.py:\d+ in test_are_counted", str(status.deadlock_line)
        )


class TestRefusedWrites:
    @BY_NUMBER_AND_AGE
    def test_are_found_by_number_and_age(
        self, evidence: Evidence, when: str, count: int, level: str
    ) -> None:
        met = changed(
            evidence, refused_writes=count, history=minute(when, refused_writes=count)
        )
        (finding,) = found_by_rules(met, "read-only")
        assert finding.level == level
        writes = "1 write" if count == 1 else f"{count} writes"
        assert f"is read-only: it refused {writes} since" in finding.message
        # How long ago it was may be another second there.
        assert finding.code in [each.code for each in findings_of(met, OF_WORKERS)]
