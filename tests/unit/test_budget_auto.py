"""The arithmetic of a budget by the server's own limits, and its place in the file."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flask_poolguard.budget import Budget, PoolPlaces, auto_limit
from flask_poolguard.budget.allowance import (
    FAILED,
    MOST,
    NO_LIMIT,
    SPAN,
    Answer,
    allowance,
    pause_after,
    pressed,
    renewed,
)
from flask_poolguard.budget.auto_limit import AutoLimit, ServerIsFull
from flask_poolguard.budget.layout import Allowed, pack_allowed, unpack_allowed
from flask_poolguard.budget.shared_file import BudgetFile, file_name
from flask_poolguard.databases import ConnectionLimit, IdleLimit, ServerView
from flask_poolguard.pool import FairQueue
from tests.support.forking import in_child
from tests.support.guarded_app import warnings_of
from tests.support.waiting import wait_until


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
        assert allowance({"": told}, ours, hosts).number == number

    def test_says_how_it_came_about(self) -> None:
        assert allowance({"": view(10, reserved=3)}, 4, 2).told == (
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
        number, _, text = allowance({"": told}, 1, 1)
        assert number == NO_LIMIT
        assert why in text


def series(*numbers: tuple[float, int], limits: int = 100) -> list[int]:
    """Return what counts after each answer, of a time in spans and a number."""
    allowed, found = Allowed(), []
    for spans, number in numbers:
        answer = Answer(number, limits, f"{number} of it")
        allowed = renewed(allowed, spans * SPAN, answer)
        found.append(allowed.number)
    return found


class TestRenewed:
    def test_others_count_with_the_most_of_this_span_and_the_last(self) -> None:
        answers = ((1.0, 90), (2.1, 70), (2.2, 70), (2.3, 90), (3.8, 85), (3.9, 85))
        assert series(*answers, (4.1, 90), (5.1, 90)) == [
            *(90, 90, 70, 70, 70, 70, 85, 90),
        ]

    def test_falls_with_the_second_answer_that_says_so(self) -> None:
        assert series((1.0, 90), (2.1, 20), (2.2, 90), (2.3, 20)) == [90] * 4
        assert series((1.0, 90), (2.1, 20), (2.2, 30)) == [90, 90, 30]

    def test_what_is_told_in_the_beginning_is_forgotten_with_it(self) -> None:
        """The processes of the last deployment are there for a while."""
        assert series((1.0, 1), (1.1, 1), (1.2, 80), (1.3, 80)) == [1, 1, 1, 80]
        assert series((1.0, 80), (1.1, 5), (1.2, 5), (1.3, 80)) == [80, 80, 5, 5]
        assert series((1.0, 80), (1.1, 70), (1.2, 90), (1.3, 60)) == [80] * 4

    def test_after_a_while_without_a_process_it_begins_anew(self) -> None:
        assert series((1.0, 20), (2.0, 20), (4.0, 90)) == [20, 20, 90]

    def test_a_clock_that_was_set_back_begins_anew(self) -> None:
        assert series((9.0, 20), (3.0, 90)) == [20, 90]

    def test_other_limits_begin_anew(self) -> None:
        before = renewed(Allowed(), SPAN, Answer(90, 100, "less a tenth"))
        assert renewed(before, SPAN, Answer(400, 500, "less a tenth")).number == 400

    def test_a_smaller_number_keeps_its_reason(self) -> None:
        allowed = renewed(Allowed(), SPAN, Answer(90, 100, "less a tenth"))
        for number in (60, 70, 90):
            answer = Answer(number, 100, f"allows {number}")
            allowed = renewed(allowed, 2.5 * SPAN, answer)
        assert (allowed.number, allowed.told) == (70, "allows 70")
        assert (allowed.last, allowed.answers) == (90, 2)

    def test_a_failure_is_followed_by_any_answer(self) -> None:
        assert series((1.0, FAILED), (1.1, 90)) == [FAILED, 90]

    def test_a_number_outlives_failures(self) -> None:
        assert series((1.0, 90), (1.1, FAILED), (1.2, FAILED), (9.0, FAILED)) == [
            *(90, 90, 90, 90),
        ]

    def test_a_server_that_tells_no_more_ends_it_with_its_second_answer(self) -> None:
        assert series((1.0, 90), (1.1, NO_LIMIT), (1.2, 90), (1.3, NO_LIMIT)) == [
            *(90, 90, 90, 90),
        ]
        assert series((1.0, 90), (1.1, NO_LIMIT), (1.2, NO_LIMIT))[-1] == NO_LIMIT


class TestPressed:
    """The server has no room for the question."""

    def test_a_tenth_is_given_up(self) -> None:
        before = renewed(Allowed(), SPAN, Answer(90, 100, "less a tenth"))
        assert pressed(before, SPAN, 80).number == 72
        assert "full when this host had 80" in pressed(before, SPAN, 80).told

    def test_again_and_again_but_not_more_than_a_half(self) -> None:
        allowed = renewed(Allowed(), SPAN, Answer(90, 100, "less a tenth"))
        for _ in range(50):
            allowed = pressed(allowed, SPAN, allowed.number)
        assert allowed.number == 45

    def test_the_next_answer_ends_it(self) -> None:
        allowed = renewed(Allowed(), SPAN, Answer(90, 100, "less a tenth"))
        allowed = pressed(allowed, SPAN, 50)
        assert renewed(allowed, SPAN, Answer(90, 100, "less a tenth")).number == 90

    def test_before_the_first_answer(self) -> None:
        allowed = pressed(Allowed(), SPAN, 12)
        assert allowed.number == 10
        assert renewed(allowed, SPAN, Answer(18, 20, "less a tenth")).number == 18

    @pytest.mark.parametrize(("ours", "number"), [(1, 1), (2, 1), (0, 1)])
    def test_one_is_left(self, ours: int, number: int) -> None:
        assert pressed(Allowed(), SPAN, ours).number == number


@pytest.mark.parametrize(
    ("allowed", "is_short", "seconds"),
    [
        (Allowed(), False, 1),
        (Allowed(number=FAILED), False, 5),
        (Allowed(number=NO_LIMIT, last=NO_LIMIT, answers=1), True, 60),
        (Allowed(number=5, last=5, answers=1), False, 5),
        (Allowed(number=5, last=4, answers=2), False, 5),
        (Allowed(number=5, last=NO_LIMIT, answers=2), False, 5),
        (Allowed(number=5, last=6, answers=2), False, 60),
        (Allowed(number=5, last=6, answers=2), True, 5),
    ],
)
def test_when_to_ask_again(allowed: Allowed, is_short: bool, seconds: float) -> None:
    assert pause_after(allowed, is_short) == seconds


class TestTheFile:
    def test_keeps_it(self) -> None:
        allowed = Allowed(1.5, 1.0, 60, 151, 7, 60, 61, 62, 2, "less a tenth, é")
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
            limit = AutoLimit(lambda: None, "", 1).number_in(file)
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
        self.error: BaseException | None = None
        self.maximum, self.others = maximum, 0
        self.budget = Budget(str(folder), "x.budget", "shop")
        self.budget.go_by(None, AutoLimit(self.ask, "", 1))
        self.queue: FairQueue[Any] = FairQueue(
            0, float("inf"), False, Slot, PoolPlaces(self.budget)
        )
        self.slots: list[Any] = []

    def ask(self) -> ServerView:
        """Answer as a server does."""
        self.questions += 1
        if self.error is not None:
            raise self.error
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
        wait_until(lambda: auto._asks_since < 0)
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
        auto._asks_since = time.monotonic()

        def child() -> tuple[int, int]:
            found = host.take()
            host.look()
            return host.questions, found

        host.slots.clear()
        assert in_child(child) == (1, 1)


class TestNoAnswer:
    """A process is not left with one connection."""

    @pytest.mark.parametrize("error", [OSError("no"), SystemExit(), MemoryError()])
    def test_a_question_that_fails(
        self, error: BaseException, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.error = error
        host.take()
        host.look()
        assert host.take(5) == 6
        (warning,) = warnings_of(caplog)
        assert f"could not be asked ({type(error).__name__})" in warning
        assert host.budget._auto is not None

    def test_one_that_hangs(
        self,
        host: Host,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        host.take()
        hangs = threading.Event()
        monkeypatch.setattr(
            host.budget._auto, "_ask", lambda: {} if hangs.wait(30) else None
        )
        host.budget.look()
        assert host.take(5) == 1
        monkeypatch.setattr(auto_limit, "PATIENCE", -1.0)
        assert host.take(5) == 6
        hangs.set()
        assert "has not answered" in " ".join(warnings_of(caplog))

    @pytest.mark.parametrize(
        "error", [OSError(28, "No space left"), RuntimeError("can't start new thread")]
    )
    def test_one_that_cannot_be_asked_here(
        self, error: Exception, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise error

        host.take()
        if isinstance(error, OSError):
            monkeypatch.setattr(BudgetFile, "write_asked", refuse)
        else:
            monkeypatch.setattr(threading.Thread, "start", refuse)
        host.budget.look()
        assert host.take(5) == 6

    def test_an_exception_in_between_leaves_the_next_question_possible(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        host.take()
        with monkeypatch.context() as patch:
            patch.setattr(BudgetFile, "write_asked", interrupt)
            with pytest.raises(KeyboardInterrupt):
                host.budget.look()
        host.look()
        assert host.take(12) == 9

    def test_a_late_failure_does_not_undo_the_answer_of_another(
        self, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.take()
        hangs = threading.Event()

        def fail() -> Any:
            hangs.wait(30)
            raise OSError

        auto = host.budget._auto
        assert auto is not None
        with monkeypatch.context() as patch:
            patch.setattr(auto, "_ask", fail)
            host.budget.look()
            other = Host(tmp_path)
            other.take()
            later = time.time() + 2
            monkeypatch.setattr(time, "time", lambda: later)
            other.look()
            assert other.budget.limit == 9
            hangs.set()
            wait_until(lambda: auto._asks_since < 0)
        host.budget.look()
        assert host.budget.limit == 9

    def test_a_full_server_says_enough(self, host: Host) -> None:
        host.take()
        host.error = ServerIsFull()
        host.look()
        assert host.take(5) == 1
        host.error = None


def test_an_exchange_in_which_a_place_is_given_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.take()
    host.look()
    host.take(8)
    part = next(iter(host.budget._parts))
    exchange = host.budget._exchange

    def exchange_and_give(file: BudgetFile) -> int | None:
        found = exchange(file)
        if part.held:
            host.queue.free(host.slots.pop())
        return found

    for _ in range(4):
        host.queue.free(host.slots.pop())
    monkeypatch.setattr(host.budget, "_exchange", exchange_and_give)
    host.budget.limit = host.budget._number = 5
    host.queue.settle_places()
    assert sorted(part.held) == sorted(host.budget._claimed)
    assert len(part.held) == len(host.slots)
