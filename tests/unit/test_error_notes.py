"""What a note says follows from the facts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flask_poolguard.databases import IdleLimit, Loss
from flask_poolguard.error_notes import (
    First,
    HolderFacts,
    Lost,
    Neighbours,
    Room,
    add_note,
    explain_away,
    explain_full,
    explain_loss,
    explain_pending,
    explain_timeout,
)

HELD = HolderFacts(
    "shop.export", "shop/views.py:88", 650.0, "gthread-1", is_by_other=False
)
LOST = Lost(
    bind="default",
    loss=Loss.UNKNOWN,
    site="shop/views.py:120",
    thread="gthread-1",
    pid=4123,
    held=HELD,
)
LIMIT = IdleLimit(600, "wait_timeout 600 s")


def lines_of(note: str) -> dict[str, str]:
    """Return the lines of a note by what they begin with."""
    found = dict(
        line.partition(": ")[::2] for line in note.splitlines() if ": " in line
    )
    found["pointer"] = note.splitlines()[-1]
    return found


def cause(**facts: object) -> str:
    """Return the cause that is told of a loss with these facts."""
    return lines_of(explain_loss(replace(LOST, **facts)))["Cause"]  # type: ignore[arg-type] # names of its fields


class TestWhatHappened:
    def test_names_who_took_it_where_and_when_and_where_it_was_lost(self) -> None:
        assert lines_of(explain_loss(LOST))["Flask-PoolGuard"] == (
            "shop.export took this connection of bind 'default' at shop/views.py:88,"
            " 650 s before it was lost at shop/views.py:120."
        )

    def test_names_the_bind_and_the_line_if_nobody_is_known_to_have_it(self) -> None:
        first = explain_loss(replace(LOST, held=None)).splitlines()[0]
        assert "bind 'default'" in first
        assert "shop/views.py:120" in first

    @pytest.mark.parametrize("loss", list(Loss))
    def test_each_has_cause_remedy_and_pointer(self, loss: Loss) -> None:
        note = explain_loss(replace(LOST, loss=loss)).splitlines()
        assert len(note) == 4
        assert note[1].startswith("Cause: ")
        assert note[1].endswith(".")
        assert note[2].startswith("Remedy: ")
        assert note[3].startswith("See: flask pool explain ")


class TestIdle:
    def test_told_by_the_server(self) -> None:
        text = cause(loss=Loss.IDLE, limit=LIMIT)
        assert "idle for longer than 600 s (wait_timeout 600 s)" in text
        assert "Either" not in text

    def test_told_by_the_server_sooner_than_the_limit_that_it_gave(self) -> None:
        text = cause(loss=Loss.IDLE, limit=IdleLimit(700, "wait_timeout 700 s"))
        assert "something has changed the session's limit since" in text

    def test_followed_from_the_time_that_it_was_held(self) -> None:
        assert "wait_timeout 600 s" in cause(limit=LIMIT)

    def test_does_not_follow_when_it_was_held_for_less(self) -> None:
        note = explain_loss(replace(LOST, limit=IdleLimit(700, "wait_timeout 700 s")))
        assert "It was not for idling: the limit is 700 s" in note

    def test_within_a_transaction(self) -> None:
        limit = IdleLimit(None, "idle_session_timeout is 0: no limit", 60.0)
        assert "within a transaction for longer than 60 s" in cause(limit=limit)

    def test_within_a_transaction_of_a_limit_that_is_not_known(self) -> None:
        assert "longer than it allows" in cause(loss=Loss.IDLE_IN_TRANSACTION)


class TestSeveralAtOnce:
    @pytest.mark.parametrize("loss", [Loss.UNKNOWN, Loss.TERMINATED, Loss.SHUT_DOWN])
    def test_a_server_that_went_down(self, loss: Loss) -> None:
        text = cause(loss=loss, neighbours=Neighbours(gone=3), limit=LIMIT)
        assert "went down" in text or "shut down or crashed" in text
        assert "3 other connections of this process ended with it" in text

    def test_a_server_that_does_not_answer_since(self) -> None:
        assert "since then: refused" in cause(outage="refused")

    def test_one_alone_that_says_so_was_ended_by_somebody(self) -> None:
        text = cause(loss=Loss.TERMINATED, neighbours=Neighbours(quiet=2))
        assert "pg_terminate_backend()" in text
        assert "shut" not in text

    def test_one_alone_that_does_not_say_why(self) -> None:
        text = cause(neighbours=Neighbours(quiet=1))
        assert "this session only; 1 other connection of this process is well" in text
        assert "restart" not in text

    def test_not_known_lists_a_restart_as_well(self) -> None:
        assert "restarted or crashed" in cause()

    def test_a_read_timeout_of_the_user_comes_first(self) -> None:
        assert "Either the driver's read_timeout of 30 s" in cause(read_timeout=30.0)


class TestSize:
    def test_of_a_large_statement_is_the_likeliest_cause(self) -> None:
        text = cause(largest=20_000_000, neighbours=Neighbours(gone=1), limit=LIMIT)
        assert "of 20.0 MB, is bigger than the server's max_allowed_packet" in text

    def test_of_a_small_statement_is_none(self) -> None:
        assert "max_allowed_packet" not in cause(largest=999_999)


class TestOutOfStep:
    def test_names_both_threads_and_the_line(self) -> None:
        held = replace(HELD, is_by_other=True)
        text = cause(loss=Loss.OUT_OF_STEP, held=held, thread="mailer")
        assert "thread 'gthread-1' took it at shop/views.py:88" in text
        assert "thread 'mailer' uses it at shop/views.py:120" in text

    def test_names_a_thread_that_is_at_it_now(self) -> None:
        users = ("thread 'mailer' at shop/mail.py:12 in send",)
        for loss in (Loss.OUT_OF_STEP, Loss.UNKNOWN):
            assert f"and {users[0]} use it at the same time" in cause(
                loss=loss, users=users
            )

    def test_a_server_that_went_down_is_not_laid_on_threads(self) -> None:
        text = cause(users=("thread 'x' at y",), neighbours=Neighbours(gone=1))
        assert "went down" in text

    def test_of_a_thread_that_has_ended(self) -> None:
        held = replace(HELD, thread=None, is_by_other=True)
        assert "a thread that has ended took it" in cause(
            loss=Loss.OUT_OF_STEP, held=held
        )

    def test_within_one_thread_names_the_two_ways(self) -> None:
        text = cause(loss=Loss.OUT_OF_STEP)
        assert "either another thread" in text
        assert "exception from outside" in text

    def test_a_fork_comes_before_all(self) -> None:
        text = cause(opened_by=77, loss=Loss.OUT_OF_STEP, users=("thread 'x' at y",))
        assert "process 77 opened it and forked this one, 4123" in text


class TestNoAnswer:
    def test_names_the_limit(self) -> None:
        text = cause(loss=Loss.NO_ANSWER, read_timeout=30.0)
        assert "read_timeout of 30 s" in text


class TestPending:
    FIRST = First(
        text="OperationalError: (2013, 'Lost connection')",
        kind="UPDATE",
        site="shop/views.py:88",
        at=100.0,
        note=explain_loss(LOST),
    )

    def test_names_the_first_error_and_its_cause(self) -> None:
        note = explain_pending(self.FIRST, 100.5)
        assert "at shop/views.py:88 (UPDATE), 0.50 s before" in note
        assert "(2013, 'Lost connection')" in note
        assert "Of that error: the line was closed without a word" in note
        assert "rollback()" in lines_of(note)["Remedy"]

    def test_does_without_what_is_not_known(self) -> None:
        note = explain_pending(First("FlushError: x", None, "shop/views.py:88"), 1.0)
        assert "was, at shop/views.py:88:\n  FlushError: x" in note
        assert "None" not in note


class TestRefusals:
    ROOM = Room("default", open=3, out=3, size=5, max_overflow=10)

    def test_a_full_server(self) -> None:
        note = explain_full(self.ROOM)
        assert "has 3 connections of at most 15 (POOLGUARD_POOL_SIZE 5 +" in note
        assert "flask pool doctor" in note
        assert "Lower POOLGUARD_MAX_OVERFLOW" in note

    def test_a_pool_without_a_size(self) -> None:
        room = replace(self.ROOM, size=None, max_overflow=None, open=1)
        assert "has 1 connection." in explain_full(room)

    def test_a_pool_without_a_limit(self) -> None:
        room = replace(self.ROOM, max_overflow=-1)
        assert "no limit" in explain_full(room)

    def test_nobody_answers(self) -> None:
        assert "POOLGUARD_CONNECT_RETRY = 5 s" in explain_away("default", 5.0)
        assert "POOLGUARD_CONNECT_RETRY" not in explain_away("default", None)

    def test_too_few_connections(self) -> None:
        note = explain_timeout(replace(self.ROOM, waiting=2), 30.0, [0.5, 2.0, 4.0])
        assert "2 more wait" in note
        assert "more threads want a connection than there are" in note
        assert "raise POOLGUARD_MAX_OVERFLOW" in note

    def test_some_hold_for_too_long(self) -> None:
        note = explain_timeout(self.ROOM, 30.0, [0.5, 42.0, 31.0])
        assert "2 of them are held for longer than the 30 s" in note
        assert "the longest for 42 s" in note
        assert "raise" not in note


class TestAddNote:
    def test_adds_one_note_only(self) -> None:
        error = ValueError()
        error.add_note("somebody else's")
        add_note(error, explain_full(TestRefusals.ROOM))
        add_note(error, explain_away("default", None))
        assert len(error.__notes__) == 2
        assert "takes no more" in error.__notes__[1]
