"""Greenlets that a timeout strikes, or somebody kills, in the middle of a query."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import URL

from tests.support.programs import run_program

pytestmark = pytest.mark.process


def run(url: URL, scenario: str, **config: Any) -> dict[str, Any]:
    """Return what the program found."""
    address = url.render_as_string(hide_password=False)
    return run_program("greenlets", address, scenario, json.dumps(config))


class TestStruck:
    @pytest.mark.parametrize("scenario", ["timeout", "kill"])
    def test_the_connection_is_back_and_no_answer_is_read_by_another_request(
        self, driver_url: URL, scenario: str
    ) -> None:
        found = run(driver_url, scenario)
        assert found["answers"]
        assert (found["out"], found["checkouts"], found["left_behind"]) == (0, 0, 0)

    def test_a_pool_of_one_connection_goes_on_working(self, driver_url: URL) -> None:
        size = {"POOLGUARD_POOL_SIZE": 1, "POOLGUARD_MAX_OVERFLOW": 0}
        found = run(driver_url, "timeout", **size)
        assert found["answers"]
        assert (found["out"], found["checkouts"]) == (0, 0)

    def test_without_pooling_nothing_is_left_either(self, driver_url: URL) -> None:
        found = run(driver_url, "timeout", POOLGUARD_POOL_CLASS="null")
        assert found["answers"]
        assert found["checkouts"] == 0

    @pytest.mark.stress
    def test_hundreds_of_timeouts_at_any_moment_leave_nothing(
        self, driver_url: URL
    ) -> None:
        found = run(driver_url, "storm")
        assert found["answers"]
        assert found["enough"]
        assert (found["out"], found["checkouts"], found["left_behind"]) == (0, 0, 0)


class TestBystanders:
    def test_a_greenlet_that_works_on_is_left_alone(self, driver_url: URL) -> None:
        found = run(driver_url, "bystander")
        assert found["answers"]
        # What the greenlet forgot that had ended came back, the other one's did not.
        assert found["during"] == 1
        assert (found["out"], found["leaks"]) == (0, 1)


class TestMinIdle:
    def test_connections_are_opened_ahead_unless_the_driver_stops_all_greenlets(
        self, driver_url: URL
    ) -> None:
        found = run(driver_url, "fill", POOLGUARD_MIN_IDLE=3)
        blocks = driver_url.get_driver_name() == "mysqldb"
        assert found["idle"] == (1 if blocks else 3)
        assert found["answers"]
        assert not found["is_due"]
        assert (found["out"], found["leaks"]) == (0, 0)
