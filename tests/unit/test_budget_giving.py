"""Which process gives a place back when another wishes for one."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flask_poolguard.budget.giving import ALIVE, Giving, part_of, wishes
from flask_poolguard.budget.layout import Row

NOW = 1000.0


def row(
    used: int,
    idle: int = 0,
    *,
    asked: float = 0.0,
    waits: bool = True,
    spare: int = 0,
    seen: float = NOW,
) -> Row:
    """Return the row of a process that is alive."""
    return Row(asked, seen, waits, used, idle, spare, 10, "shop")


def giving(rows: dict[int, Row], since: float = math.inf) -> dict[int, Giving]:
    """Return what each process gives, as it reckons itself."""
    return {pid: part_of(pid, rows, since, NOW) for pid in rows}


class TestAnIdleConnection:
    def test_of_who_has_most_is_given(self) -> None:
        rows = {1: row(2, 1), 2: row(5, 2), 3: row(1, asked=990.0)}
        assert giving(rows)[2] == Giving(idle=1)
        assert giving(rows)[1] == giving(rows)[3] == Giving()

    def test_comes_before_the_next_one_that_is_returned(self) -> None:
        rows = {1: row(2, 1), 2: row(9, 0), 3: row(1, asked=990.0)}
        assert giving(rows) == {1: Giving(idle=1), 2: Giving(), 3: Giving()}

    def test_that_is_the_only_one_is_kept(self) -> None:
        rows = {1: row(1, 1), 2: row(1, asked=990.0)}
        assert giving(rows)[1] == Giving()

    def test_that_is_the_only_one_is_given_to_a_request_that_has_none(self) -> None:
        rows = {1: row(1, 1), 2: row(0, asked=990.0)}
        assert giving(rows)[1] == Giving(idle=1)
        rows = {1: row(1, 1), 2: row(0, asked=990.0, waits=False)}
        assert giving(rows)[1] == Giving()

    def test_comes_after_a_place_that_is_kept_without_one(self) -> None:
        rows = {1: row(1, 1), 2: row(0, spare=1), 3: row(0, asked=990.0)}
        assert giving(rows)[1] == Giving()
        assert giving(rows)[2] == Giving(spare=1)

    def test_is_given_for_each_wish(self) -> None:
        rows = {1: row(4, 3), 2: row(1, asked=990.0), 3: row(1, asked=991.0)}
        assert giving(rows)[1] == Giving(idle=2)


class TestWhereAllAreInUse:
    def test_who_has_most_gives_the_next_one_that_is_returned(self) -> None:
        rows = {1: row(6), 2: row(1, asked=990.0)}
        assert giving(rows)[1] == Giving(returned=1)

    def test_a_thread_that_has_waited_for_longer_comes_first(self) -> None:
        rows = {1: row(6), 2: row(1, asked=990.0)}
        assert part_of(1, rows, 989.0, NOW) == Giving()
        assert part_of(1, rows, 991.0, NOW) == Giving(returned=1)

    def test_nothing_goes_to_and_fro(self) -> None:
        """Who would then have fewer than the other gives nothing."""
        rows = {1: row(2), 2: row(1, asked=990.0)}
        assert giving(rows)[1] == Giving()

    def test_a_process_without_any_gets_one_from_who_has_waiters(self) -> None:
        rows = {1: row(2), 2: row(0, asked=999.0)}
        assert part_of(1, rows, 1.0, NOW) == Giving(returned=1)


class TestAStoppedProcess:
    """It wrote its row long ago, and will neither take nor give."""

    def test_is_not_waited_for(self) -> None:
        rows = {1: row(3, 2), 2: row(1, asked=1.0, seen=NOW - 2 * ALIVE)}
        assert wishes(rows, NOW) == []
        assert giving(rows)[1] == Giving()

    def test_is_not_counted_on(self) -> None:
        rows = {
            1: row(9, 9, seen=NOW - 2 * ALIVE),
            2: row(3, 1),
            3: row(1, asked=990.0),
        }
        assert giving(rows)[2] == Giving(idle=1)


def test_wishes_are_in_the_order_of_service() -> None:
    rows = {
        1: row(1, asked=10.0),
        2: row(0, asked=30.0),
        3: row(1, asked=5.0),
        4: row(2),
        5: row(0, asked=1.0, waits=False),
    }
    assert wishes(rows, NOW) == [2, 3, 1, 5]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans())))
def test_no_process_gives_its_last_and_no_wish_is_granted_twice(
    figures: list[tuple[int, int, bool]],
) -> None:
    rows: dict[int, Any] = {
        pid: row(used, min(idle, used), asked=900.0 + pid if asks else 0.0)
        for pid, (used, idle, asks) in enumerate(figures, start=1)
    }
    given_away = giving(rows)
    for pid, each in given_away.items():
        total = each.idle + each.returned
        assert total <= rows[pid].used
        assert each.idle <= rows[pid].idle
        if total == rows[pid].used > 0:  # only to those that have none
            assert any(rows[wish].used == 0 for wish in wishes(rows, NOW))
    assert sum(sum(each) for each in given_away.values()) <= len(wishes(rows, NOW))
