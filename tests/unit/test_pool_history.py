"""What one pool met, minute by minute."""

from __future__ import annotations

from typing import Any

import pytest

from flask_poolguard.state.file_format import HISTORY_SIZE, pack_history, unpack_history
from flask_poolguard.state.history import History, Minute, Totals
from flask_poolguard.state.plain import Damaged
from flask_poolguard.tracking import pool_history
from flask_poolguard.tracking.pool_history import PoolHistory

NOON = 1_800_000_000 // 60 * 60
# Each figure as long as can be.
LARGE: dict[str, Any] = {
    **dict.fromkeys(("checkouts", "waits", "timeouts", "unavailable"), 2**40),
    **dict.fromkeys(("leaks", "most_out", "most_waiting"), 2**40),
    "longest_wait_seconds": 1e6 + 0.123,
    "first_failed_at": NOON + 0.1,
    "last_failed_at": NOON + 59.9,
    "first_waited_at": NOON + 0.1,
    "last_waited_at": NOON + 59.9,
}


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = float(NOON)

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the clock stand at noon."""
    found = Clock()
    monkeypatch.setattr(pool_history, "time", found)
    return found


@pytest.fixture
def history(clock: Clock) -> PoolHistory:
    """Return one that begins at noon."""
    return PoolHistory()


class TestMinutes:
    def test_there_is_none_in_which_nothing_was(
        self, clock: Clock, history: PoolHistory
    ) -> None:
        history.saw(0, 0)
        assert history.minutes(Totals()) == ()
        clock.now += 3600
        assert history.minutes(Totals()) == ()

    def test_each_has_what_was_counted_in_it(
        self, clock: Clock, history: PoolHistory
    ) -> None:
        history.saw(3, 1)
        history.saw(2, 4)
        history.waited(0.09)
        clock.now += 59
        (first,) = history.minutes(Totals(10, 2))
        assert first == Minute(
            at=NOON,
            checkouts=10,
            waits=2,
            most_out=3,
            most_waiting=4,
            longest_wait_seconds=0.09,
        )
        clock.now += 2
        assert history.minutes(Totals(11, 2))[0].checkouts == 11  # up to its end
        clock.now += 1
        history.saw(1, 0)
        _, second = history.minutes(Totals(15, 2, leaks=1))
        assert second == Minute(at=NOON + 60, checkouts=4, leaks=1, most_out=1)
        assert second.at - first.at == 60

    def test_failures_have_their_time(self, clock: Clock, history: PoolHistory) -> None:
        clock.now += 3.25
        history.failed()
        clock.now += 17
        history.failed()
        (found,) = history.minutes(Totals(24, timeouts=15))
        assert (found.first_failed_at, found.last_failed_at) == (
            NOON + 3.25,
            NOON + 20.25,
        )
        clock.now += 60
        history.minutes(Totals(24, timeouts=15))
        (found,) = history.minutes(Totals(24, timeouts=15))
        assert found.at == NOON

    def test_waits_that_a_user_may_notice_have_their_time(
        self, clock: Clock, history: PoolHistory
    ) -> None:
        clock.now += 10
        history.waited(4.0)
        clock.now += 20
        history.waited(0.2)
        history.waited(25.0)
        clock.now += 1
        history.waited(0.05)
        (found,) = history.minutes(Totals(24, 4))
        assert (found.first_waited_at, found.last_waited_at) == (NOON + 5, NOON + 30)
        assert found.longest_wait_seconds == 25.0

    def test_of_more_than_an_hour_ago_are_left_out(
        self, clock: Clock, history: PoolHistory
    ) -> None:
        for number in range(1, 181):
            history.minutes(Totals(number - 1))
            clock.now += 59
            history.minutes(Totals(number))
            clock.now += 1
        found = history.minutes(Totals(180))
        assert len(found) == 59
        assert found[0].at == clock.now - 59 * 60
        assert sum(each.checkouts for each in found) == 59


class TestInAFile:
    FULL = History(tuple(Minute(at=NOON + 60 * each, **LARGE) for each in range(60)))

    def test_comes_back_as_it_was(self) -> None:
        history = History(
            (
                Minute(at=NOON, checkouts=12),
                Minute(at=NOON + 120, checkouts=1, timeouts=1),
            )
        )
        assert unpack_history(pack_history(history, 5.0), 0) == history

    def test_without_the_oldest_minutes_if_there_is_no_room(self) -> None:
        data = pack_history(self.FULL, 5.0)
        assert len(data) <= HISTORY_SIZE
        found = unpack_history(data, 0).minutes
        assert 20 < len(found) < 60
        assert found == self.FULL.minutes[-len(found) :]

    def test_is_empty_before_it_is_written(self) -> None:
        assert unpack_history(bytes(HISTORY_SIZE), 0) == History()

    def test_that_is_changed_by_a_byte_is_damage(self) -> None:
        data = bytearray(pack_history(History((Minute(at=NOON, checkouts=12),)), 5.0))
        for place in range(len(data)):
            data[place] ^= 1
            with pytest.raises(Damaged):
                unpack_history(bytes(data.ljust(HISTORY_SIZE, b"\0")), 0)
            data[place] ^= 1
