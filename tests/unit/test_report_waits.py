"""From when on waiting and connecting are found, and how bad that is."""

from __future__ import annotations

import os
import re
import time

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard.report.evidence import Evidence
from flask_poolguard.report.rules import OF_WORKERS, findings_of
from flask_poolguard.state.history import History, Minute
from tests.support.evidence import changed, evidence_of, found_by_rules
from tests.support.reporting import MakeShop


@pytest.fixture
def evidence(make_shop: MakeShop, sqlite_url: URL) -> Evidence:
    """Return what a worker wrote that used one connection."""
    shop = make_shop(default=create_engine(sqlite_url))
    shop.use()
    return evidence_of(shop)


def levels(evidence: Evidence, code: str) -> list[str]:
    """Return the levels of the findings with this code."""
    return [finding.level for finding in found_by_rules(evidence, code)]


class TestWaiting:
    @pytest.mark.parametrize(
        ("timeout", "waited", "found"),
        [
            (30.0, 0.9, []),
            (30.0, 1.1, ["warning"]),
            (30.0, 4.9, ["warning"]),
            (30.0, 5.1, ["critical"]),
            (4.0, 1.9, ["warning"]),
            (4.0, 2.0, ["critical"]),
            (None, 4.9, ["warning"]),
            (None, 5.1, ["critical"]),
        ],
    )
    def test_is_found_after_a_while_and_critical_before_it_is_in_vain(
        self,
        evidence: Evidence,
        timeout: float | None,
        waited: float,
        found: list[str],
    ) -> None:
        waits = changed(
            evidence, waiting=2, oldest_wait_seconds=waited, timeout_seconds=timeout
        )
        assert levels(waits, "saturated") == found

    def test_says_how_long_the_worker_lets_it_last(self, evidence: Evidence) -> None:
        waits = changed(
            evidence, waiting=1, oldest_wait_seconds=9.0, timeout_seconds=12.5
        )
        (finding,) = found_by_rules(waits, "saturated")
        assert "Who has waited for 12.5 s fails" in str(finding.consequence)
        # Nothing is out, so nobody is named.
        assert finding.message.endswith("0 of 15 out)")


class TestWaitingThatIsOver:
    """Requests waited, and none does at the moment of the look."""

    def past(self, evidence: Evidence, seconds: float, ago: float = 30.0) -> Evidence:
        """Return evidence of a wait that ended so long ago."""
        now = time.time()
        minute = Minute(
            at=int(now - ago) // 60 * 60,
            checkouts=12,
            waits=4,
            longest_wait_seconds=seconds,
            first_waited_at=now - ago - seconds,
            last_waited_at=now - ago,
        )
        return changed(evidence, waiting=0, history=History((minute,)))

    @pytest.mark.parametrize(
        ("seconds", "level"), [(0.2, "info"), (1.1, "warning"), (40.0, "warning")]
    )
    def test_is_found_with_its_time_for_doctor_and_check(
        self, evidence: Evidence, seconds: float, level: str
    ) -> None:
        over = self.past(evidence, seconds)
        (finding,) = found_by_rules(over, "saturated")
        assert finding.level == level
        assert re.match(
            r"Requests waited for a connection of bind 'default' (at \S+|between \S+"
            r" and \S+), the longest for \S+s: 4 of 12 checkouts of worker"
            rf" {os.getpid()} found none of 15 free$",
            finding.message,
        )
        assert findings_of(over, OF_WORKERS) == [finding]

    def test_is_a_hint_after_a_minute(self, evidence: Evidence) -> None:
        assert levels(self.past(evidence, 9.0, ago=61.0), "saturated") == ["info"]

    def test_is_none_after_some_minutes(self, evidence: Evidence) -> None:
        assert levels(self.past(evidence, 9.0, ago=301.0), "saturated") == []

    def test_gives_way_to_a_wait_that_goes_on(self, evidence: Evidence) -> None:
        waits = self.past(evidence, 9.0)
        waits = changed(waits, waiting=1, oldest_wait_seconds=2.0)
        (finding,) = found_by_rules(waits, "saturated")
        assert "1 waits for a connection" in finding.message


class TestConnecting:
    @pytest.mark.parametrize(("lasted", "found"), [(1.0, []), (1.1, ["critical"])])
    def test_is_found_after_a_while(
        self, evidence: Evidence, lasted: float, found: list[str]
    ) -> None:
        connects = changed(evidence, connecting=2, oldest_connect_seconds=lasted)
        assert levels(connects, "unavailable") == found

    @pytest.mark.parametrize(
        ("obstacle", "what"),
        [("away", "been away"), ("full", "been full"), ("login", "refused the login")],
    )
    def test_in_vain_is_found_at_once(
        self, evidence: Evidence, obstacle: str, what: str
    ) -> None:
        met = changed(
            evidence,
            obstacle=obstacle,
            obstacle_seconds=12.0,
            connecting=1,
            oldest_connect_seconds=2.0,
        )
        (finding,) = found_by_rules(met, "unavailable")
        assert finding.level == "critical"
        assert f"it has {what} for 12s" in finding.message

    def test_to_a_full_server_is_no_alarm_while_all_are_served(
        self, evidence: Evidence
    ) -> None:
        met = changed(evidence, obstacle="full", obstacle_seconds=12.0)
        assert levels(met, "unavailable") == ["info"]

    def test_that_is_over_is_a_hint(self, evidence: Evidence) -> None:
        over = changed(evidence, unavailable=3)
        (finding,) = found_by_rules(over, "unavailable")
        assert finding.level == "info"
        assert "3 of 4 checkouts of bind 'default' failed since its" in finding.message
