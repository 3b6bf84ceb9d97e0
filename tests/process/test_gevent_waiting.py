"""Greenlets wait as threads do: in order, and without losing what they are handed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import URL

from tests.conftest import database_by
from tests.support.programs import run_program

pytestmark = pytest.mark.process


def run(url: URL, scenario: str, *more: str) -> dict[str, Any]:
    """Return what the program found; nothing may be out or waiting in the end."""
    address = url.render_as_string(hide_password=False)
    found = run_program("waiting_greenlets", address, scenario, *more)
    assert (found["out"], found["checkouts"], found["waiting"]) == (0, 0, [0, 0])
    return found


class TestWaiting:
    def test_the_order_is_that_in_which_the_tasks_began(self, sqlite_url: URL) -> None:
        assert run(sqlite_url, "order")["order"] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("scenario", ["timeout", "kill"])
    def test_who_is_struck_when_served_leaves_it_to_the_next(
        self, sqlite_url: URL, scenario: str
    ) -> None:
        found = run(sqlite_url, scenario)
        assert found["handed_over"]
        assert found["order"] == [1, 2]

    @pytest.mark.stress
    def test_a_storm_of_timeouts_loses_nothing(self, sqlite_url: URL) -> None:
        run(sqlite_url, "storm")


class TestDeadlocks:
    def test_the_younger_gives_way(self, sqlite_url: URL) -> None:
        found = run(sqlite_url, "deadlock")
        assert sorted(found["order"][:2]) == [0, 1]
        assert found["order"][2:] == [0]
        (told,) = found["told"]
        assert told.count("tests/apps/waiting_greenlets.py:") == 4
        assert found["timeouts"] == 1

    def test_a_greenlet_that_does_not_wait_can_give_back(self, sqlite_url: URL) -> None:
        found = run(sqlite_url, "bystander")
        assert found["order"] == [1]
        assert found["timeouts"] == 0


class TestSignals:
    @pytest.mark.parametrize("driver", ["mysql+pymysql", "postgresql+psycopg"])
    def test_receivers_give_way_and_are_struck_like_other_code(
        self, driver: str, request: pytest.FixtureRequest
    ) -> None:
        found = run(database_by(driver, request).url, "signals")
        assert found["errors"] == ["PoolTimeout", "PoolTimeout", "Timeout"]
        told = found["told"]
        # Each greenlet's own, at the same time; the one that is struck has no end.
        assert told[:3] == ["begin PoolTimeout"] * 3
        assert told[3:5] == ["end"] * 2
        assert told[5:] == ["poolguard-signals"]

    def test_first_from_a_native_thread_let_later_ones_be_sent(
        self, sqlite_url: URL
    ) -> None:
        """A greenlet that begins there has a hub that runs no more."""
        assert set(run(sqlite_url, "native")["told"]) == {"poolguard-signals"}


class TestInquiry:
    """The server is asked what its sessions do, on a line where nobody answers."""

    # And whether psycopg2 lets other greenlets run while it waits.
    @pytest.mark.parametrize(
        ("driver", "more", "asked"),
        [
            ("mysql+pymysql", (), 1),
            ("postgresql+psycopg", (), 1),
            ("postgresql+psycopg2", ("COOPERATES",), 1),
            ("postgresql+psycopg2", (), 0),
        ],
    )
    def test_a_driver_that_stops_all_greenlets_is_not_asked(
        self,
        driver: str,
        more: tuple[str, ...],
        asked: int,
        request: pytest.FixtureRequest,
    ) -> None:
        found = run(database_by(driver, request).url, "silence", *more)
        assert "are held by" in found["told"]
        # The connect that nobody answers would take 25 s.
        assert found["seconds"] < 15
        assert found["asked"] == asked
