"""The arithmetic of a budget by the server's own limits, and its place in the file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from flask_poolguard.budget import Budget, PoolPlaces
from flask_poolguard.budget.auto_limit import (
    FAILED,
    MOST,
    NO_LIMIT,
    AutoLimit,
    allowance,
    renewed,
)
from flask_poolguard.budget.layout import Allowed, pack_allowed, unpack_allowed
from flask_poolguard.budget.shared_file import BudgetFile, file_name
from flask_poolguard.databases import ConnectionLimit, IdleLimit, ServerView
from flask_poolguard.pool import FairQueue
from tests.support.forking import in_child
from tests.support.waiting import wait_until

HOUR = 3600


def view(used: int | None = 10, limits: Any = (), **facts: Any) -> ServerView:
    """Return what a server of 100 connections may have said."""
    values = {"max_connections": 100, "connections": used, "sessions": ()}
    none = IdleLimit(None, "no limit")
    return ServerView(
        "PostgreSQL 15", none, user="app", limits=limits, **values | facts
    )


def of_user(most: int, used: int) -> ConnectionLimit:
    """Return the limit of a user."""
    return ConnectionLimit("user", "app", most, used, "ALTER ROLE")


class TestAllowance:
    @pytest.mark.parametrize(
        ("told", "ours", "hosts", "number"),
        [
            (view(10), 10, 1, 90),
            (view(10), 0, 1, 80),
            (view(10), 25, 1, 90),  # some were just being opened
            (view(10), 4, 1, 84),
            (view(10, reserved=3), 10, 1, 87),
            (view(10), 10, 4, 22),
            (view(10, (of_user(20, 12),)), 10, 1, 16),
            (view(90, (of_user(20, 2),)), 2, 1, 2),
            (view(100), 0, 1, 1),
            (view(5), 5, 1000, 1),
        ],
    )
    def test_is_what_the_narrowest_limit_leaves(
        self, told: ServerView, ours: int, hosts: int, number: int
    ) -> None:
        assert allowance(told, ours, hosts)[0] == number

    def test_says_how_it_came_about(self) -> None:
        assert allowance(view(10, reserved=3), 4, 2)[2] == (
            "97 (100 less 3 reserved) of the server less 6 of others, a tenth,"
            " on 2 hosts"
        )

    @pytest.mark.parametrize(
        ("told", "why"),
        [
            (view(None), "does not say how many"),
            (view(max_connections=None), "does not say how many"),
            (view(handshake_id=4, session_id=5), "a pooler stands before the server"),
        ],
    )
    def test_is_none_where_the_server_does_not_tell(
        self, told: ServerView, why: str
    ) -> None:
        number, _, text = allowance(told, 1, 1)
        assert number == NO_LIMIT
        assert why in text


def series(*numbers: tuple[float, int], limits: int = 100) -> list[int]:
    """Return what counts after each answer, of an hour and a number."""
    allowed, found = Allowed(), []
    for hours, number in numbers:
        allowed = renewed(allowed, hours * HOUR, number, limits, f"{number} of it")
        found.append(allowed.number)
    return found


class TestRenewed:
    def test_others_count_with_the_most_of_this_hour_and_the_last(self) -> None:
        answers = ((1.0, 90), (1.1, 70), (1.2, 70), (1.3, 90), (2.8, 85), (2.9, 85))
        assert series(*answers, (3.1, 90), (4.1, 90)) == [
            *(90, 90, 70, 70, 70, 70, 85, 90),
        ]

    def test_falls_with_the_second_answer_that_says_so(self) -> None:
        assert series((1.0, 90), (1.1, 20), (1.2, 90), (1.3, 20)) == [90] * 4
        assert series((1.0, 90), (1.1, 20), (1.2, 30)) == [90, 90, 30]

    def test_after_hours_without_a_process_it_begins_anew(self) -> None:
        assert series((1.0, 20), (3.0, 90)) == [20, 90]

    def test_a_clock_that_was_set_back_begins_anew(self) -> None:
        assert series((9.0, 20), (3.0, 90)) == [20, 90]

    def test_other_limits_begin_anew(self) -> None:
        before = renewed(Allowed(), HOUR, 90, 100, "less a tenth")
        assert renewed(before, HOUR, 400, 500, "less a tenth").number == 400

    def test_a_smaller_number_keeps_its_reason(self) -> None:
        allowed = renewed(Allowed(), HOUR, 90, 100, "less a tenth")
        for number in (60, 70, 90):
            allowed = renewed(allowed, HOUR, number, 100, f"allows {number}")
        assert (allowed.number, allowed.told) == (70, "allows 70")
        assert (allowed.last, allowed.answers) == (90, 2)

    def test_a_failure_is_followed_by_any_answer(self) -> None:
        failed = renewed(Allowed(), HOUR, FAILED, 0, "no answer")
        assert renewed(failed, HOUR, 90, 100, "less a tenth").number == 90


class TestTheFile:
    def test_keeps_it(self) -> None:
        allowed = Allowed(1.5, 60, 151, 7, 60, 61, 62, 2, "less a tenth, é")
        assert unpack_allowed(pack_allowed(allowed)) == allowed

    def test_cuts_a_text_between_two_letters(self) -> None:
        found = unpack_allowed(pack_allowed(Allowed(told="é" * 150)))
        assert found.told == "é" * 100

    @pytest.mark.parametrize("data", [b"", b"\0" * 7, b"x" * 1000])
    def test_that_is_cut_off_says_nothing(self, data: bytes) -> None:
        assert unpack_allowed(data) == Allowed()

    def test_of_garbage_does_no_harm(self, tmp_path: Path) -> None:
        file = BudgetFile.open(str(tmp_path), file_name(["x"]))
        for number in (10**9, -7, 0, 1):
            file.write_allowed(Allowed(number=number, told="\x1b[31m"))
            limit = AutoLimit(lambda: None, 1).number_in(file)
            assert limit is None or 1 <= limit <= MOST


class Slot:
    """A slot whose connection takes no time."""

    returns = 0
    dbapi_connection = None
    idle_since = 0.0


class Host:
    """A process of a budget, and a server that answers at once."""

    def __init__(self, folder: Path, maximum: int = 10) -> None:
        self.questions = 0
        self.maximum, self.others = maximum, 0
        self.budget = Budget(str(folder), "x.budget", "shop")
        self.budget.go_by(None, AutoLimit(self.ask, 1))
        self.queue: FairQueue[Any] = FairQueue(
            0, float("inf"), False, Slot, PoolPlaces(self.budget)
        )
        self.slots: list[Any] = []

    def ask(self) -> ServerView:
        """Answer as a server does."""
        self.questions += 1
        return view(self.others + len(self.slots), max_connections=self.maximum)

    def take(self, count: int = 1) -> int:
        """Open slots; return how many there are then."""
        for _ in range(count):
            self.budget._refused_until = 0.0
            slot = self.queue.get_now()
            if slot is not None:
                self.slots.append(slot)
        return len(self.slots)

    def look(self) -> None:
        """Look as the budget's thread does, and let the answer come."""
        self.budget.look()
        auto = self.budget._auto
        assert auto is not None
        wait_until(lambda: not auto._is_open)
        self.budget.look()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a process whose budget's thread the test plays."""
    monkeypatch.setattr("flask_poolguard.budget.budget._start", lambda *args: None)
    return Host(tmp_path)


class TestPlaces:
    def test_a_process_has_one_until_the_server_was_asked(self, host: Host) -> None:
        assert host.take(5) == 1
        host.look()
        assert host.take(12) == 9

    def test_beyond_a_limit_that_fell_none_is_opened(self, host: Host) -> None:
        host.take()
        host.look()
        assert host.take(8) == 9
        host.budget.limit = host.budget._number = 5
        for _ in range(4):
            host.queue.free(host.slots.pop())
            assert host.take() == len(host.slots) <= 8
        host.budget.look()
        while len(host.slots) > 4:
            host.queue.free(host.slots.pop())
        assert host.take(3) == 5

    def test_places_beyond_it_are_exchanged_for_free_ones(self, host: Host) -> None:
        host.take()
        host.look()
        host.take(8)
        part = next(iter(host.budget._parts))
        part.held.sort()
        for _ in range(5):  # the low ones go first
            low = part.held.pop(0)
            part.held.append(low)
            host.queue.free(host.slots.pop())
        host.budget._number = 4
        host.budget.look()
        assert sorted(part.held) == sorted(host.budget._claimed)
        assert max(part.held) < 4
        assert len(part.held) == len(host.slots) == 4

    def test_it_is_asked_again_after_a_minute_and_not_before(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.take()
        host.look()
        now = time.time()
        for later, questions in ((4, 1), (6, 2), (64, 2), (67, 3)):
            monkeypatch.setattr(time, "time", lambda at=now + later: at)
            host.look()
            assert host.questions == questions, later

    def test_a_child_asks_by_itself(self, host: Host) -> None:
        host.take()
        auto = host.budget._auto
        assert auto is not None
        auto._is_open = True

        def child() -> tuple[int, int]:
            found = host.take()
            host.look()
            return host.questions, found

        host.slots.clear()
        assert in_child(child) == (1, 1)
