"""Connections that are replaced because of their age."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from flask_poolguard.pool import GuardedPool
from flask_poolguard.pool.types import JITTER
from tests.conftest import Database
from tests.support.guarded_app import (
    Clock,
    checked_out_id,
    guarded_engine,
    guarded_pool,
    session_id,
)
from tests.support.waiting import wait_until

AGE = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let pools go by a clock that stands still."""
    clock = Clock()
    monkeypatch.setattr(GuardedPool, "clock", staticmethod(clock))
    return clock


@pytest.fixture
def engine(served_database: Database, clock: Clock) -> Iterator[sa.Engine]:
    """Return an engine whose connections may have an age."""
    with guarded_engine(served_database.url, POOLGUARD_MAX_AGE=AGE) as engine:
        yield engine


def test_a_connection_is_replaced_however_much_it_is_used(
    engine: sa.Engine, clock: Clock
) -> None:
    first = checked_out_id(engine)
    for _ in range(8):
        clock.now += AGE * (1 - JITTER) / 9
        assert checked_out_id(engine) == first
    clock.now += AGE / 3
    second = checked_out_id(engine)
    assert second != first
    assert checked_out_id(engine) == second


def test_an_idle_one_is_closed_by_the_housekeeper(
    engine: sa.Engine, clock: Clock, served_database: Database
) -> None:
    number = checked_out_id(engine)
    clock.now += AGE
    guarded_pool(engine).tend()
    assert guarded_pool(engine).checkedin() == 0
    server = served_database.running_server
    wait_until(lambda: number not in server.session_ids(), what="the session's end")


def test_one_in_use_is_left_alone(engine: sa.Engine, clock: Clock) -> None:
    with engine.connect() as connection:
        number = session_id(connection)
        clock.now += 2 * AGE
        guarded_pool(engine).tend()
        assert session_id(connection) == number
    assert checked_out_id(engine) != number


def test_those_opened_together_do_not_all_go_together(
    engine: sa.Engine, clock: Clock
) -> None:
    pool = guarded_pool(engine)
    taken = [engine.connect() for _ in range(15)]
    for each in taken:
        each.close()
    left = []
    for share in (1 - JITTER, 1 - JITTER / 2, 1):
        clock.now = 1000.0 + AGE * share
        pool.tend()
        left.append(pool.checkedin())
    assert left[0] == 5  # pool_size; the overflow was closed
    assert left[2] == 0


def test_none_is_replaced_without_the_setting(
    served_database: Database, clock: Clock
) -> None:
    with guarded_engine(served_database.url) as engine:
        ages = [each._expires_at for each in guarded_pool(engine)._pool.records]
        checked_out_id(engine)
        ages += [each._expires_at for each in guarded_pool(engine)._pool.records]
    assert ages == [float("inf")]
