"""A server that has no room for one more connection."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from flask_poolguard.errors import DatabaseUnavailable, PoolDeadlock
from flask_poolguard.pool import GuardedPool
from flask_poolguard.pool.connect_breaker import ConnectBreaker
from flask_poolguard.pool.waiter import Waiter
from tests.conftest import Database
from tests.support.guarded_app import (
    checked_out_id,
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
)
from tests.support.people import SECONDS, Stop, people
from tests.support.servers import APP_PASSWORD
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product

RESERVED: dict[str, dict[str, Any]] = {
    "MariaDB": {},
    "MySQL": {},
    "PostgreSQL": {"superuser_reserved_connections": 6},
}
SLOW = {"mysql": "SELECT SLEEP(0.005)", "postgresql": "SELECT pg_sleep(0.005)"}


@pytest.fixture
def room(own_server: None, served_database: Database) -> Iterator[int]:
    """Leave the app's user room for 3 connections."""
    server = served_database.running_server
    mysql = served_database.url.get_backend_name() == "mysql"
    limit = "WITH MAX_USER_CONNECTIONS 3" if mysql else "CONNECTION LIMIT 3"
    no_limit = limit.replace("3", "0" if mysql else "-1")
    wait_until(lambda: not server.session_ids(), what="room")
    server.execute(f"ALTER USER app {limit}")
    yield 3
    server.execute(f"ALTER USER app {no_limit}")


def set_room(database: Database, room: int) -> None:
    """Change how many connections the app's user may have."""
    kind = (
        "WITH MAX_USER_CONNECTIONS"
        if "mysql" in str(database.url)
        else "CONNECTION LIMIT"
    )
    database.running_server.execute(f"ALTER USER app {kind} {room}")


def hammer(engine: sa.Engine, requests: int = 1000, threads: int = 8) -> list[str]:
    """Make requests by several threads; return the errors."""
    query = sa.text(SLOW[engine.dialect.name])
    errors: list[str] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            try:
                with engine.connect() as connection:
                    connection.execute(query)
            except sa.exc.SQLAlchemyError as error:
                errors.append(str(error))

    with ThreadPoolExecutor(threads) as executor:
        for done in [executor.submit(work) for _ in range(threads)]:
            done.result()
    return errors


def count_calls(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    calls: Counter[str],
    step: str,
) -> None:
    """Count how often this thread calls a method from now on."""
    method, mine = getattr(owner, name), threading.get_ident()

    def call(*arguments: Any, **keywords: Any) -> Any:
        if threading.get_ident() == mine:
            calls[step] += 1
        return method(*arguments, **keywords)

    monkeypatch.setattr(owner, name, call)


class TestInUse:
    """Connections of this pool will come free."""

    def test_a_pool_that_wants_more_than_there_is_waits_for_its_own(
        self, served_database: Database, room: int
    ) -> None:
        stock = sa.create_engine(served_database.url, pool_size=8, max_overflow=0)
        stock_errors = hammer(stock)
        stock.dispose()
        assert stock_errors  # the test tests something
        server = served_database.running_server
        wait_until(lambda: not server.session_ids(), what="room")
        config = {"POOLGUARD_POOL_SIZE": 8, "POOLGUARD_MAX_OVERFLOW": 0}
        with guarded_engine(served_database.url, **config) as engine:
            assert hammer(engine) == []
            assert guarded_pool(engine).checkedout() == 0

    def test_the_pool_grows_once_there_is_room(
        self, served_database: Database, room: int
    ) -> None:
        with (
            guarded_engine(served_database.url, POOLGUARD_POOL_SIZE=4) as engine,
            ExitStack() as held,
        ):
            for _ in range(room):
                held.enter_context(engine.connect())
            with ThreadPoolExecutor(1) as executor:
                fourth = executor.submit(engine.connect)
                pool = guarded_pool(engine)
                wait_until(lambda: pool.waiting == 1, what="a waiter")
                set_room(served_database, 10)
                # None of the three came back.
                fourth.result(10).close()

    def test_after_it_recovered_the_pool_grows_without_delay_or_spinning(
        self, served_database: Database, room: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = {"POOLGUARD_POOL_SIZE": 8, "POOLGUARD_MAX_OVERFLOW": 0}
        set_room(served_database, 1)
        with (
            guarded_engine(served_database.url, **config) as engine,
            ExitStack() as held,
        ):
            other = sa.create_engine(served_database.url, poolclass=sa.NullPool)
            occupant = other.connect()
            with ThreadPoolExecutor(1) as executor:
                first = executor.submit(engine.connect)
                wait_until(lambda: guarded_pool(engine)._breaker.outage, what="trouble")
                set_room(served_database, 10)
                occupant.close()
                held.callback(first.result(10).close)
            calls: Counter[str] = Counter()
            for step, owner, name in (
                ("asks the breaker", ConnectBreaker, "connect"),
                ("tries", engine.dialect, "connect"),
                ("waits for a turn", threading.Condition, "wait"),
                ("waits for a record", Waiter, "sleep"),
            ):
                count_calls(monkeypatch, owner, name, calls, step)
            for _ in range(7):
                held.enter_context(engine.connect())
            assert calls == {"asks the breaker": 7, "tries": 7}

    def test_the_error_of_one_who_waited_in_vain_says_why(
        self, served_database: Database, room: int
    ) -> None:
        config = {"POOLGUARD_POOL_TIMEOUT": 0.6}
        with (
            guarded_engine(served_database.url, **config) as engine,
            ExitStack() as held,
        ):
            for _ in range(room):
                held.enter_context(engine.connect())
            with pytest.raises(
                sa.exc.TimeoutError, match="The server refuses more"
            ) as caught:
                engine.connect()
            assert APP_PASSWORD not in str(caught.value)

    def test_who_waits_for_its_own_connection_is_told_so_at_once(
        self, served_database: Database, room: int
    ) -> None:
        set_room(served_database, 1)
        app = make_app(served_database.url, POOLGUARD_POOL_TIMEOUT=60)
        engine = engine_of(app)
        with app.app_context(), engine.connect():
            with pytest.raises(PoolDeadlock, match="all 1 connections") as caught:
                engine.connect()
            assert "The server refuses more: " in str(caught.value)
            assert guarded_pool(engine).checkedout() == 1
        checked_out_id(engine)
        engine.dispose()

    def test_who_asked_while_another_was_trying_is_told_when_that_failed(
        self,
        served_database: Database,
        room: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One that is being connected might have been the way out."""
        monkeypatch.setattr(GuardedPool, "tend", lambda _: None)
        set_room(served_database, 1)
        app = make_app(served_database.url, POOLGUARD_POOL_TIMEOUT=600)
        engine = engine_of(app)
        stop = Stop()
        with people(engine, 2) as (older, nested):
            older.begin(app)
            nested.begin(app).take()
            waiting = older.ask()  # and tries now and then, before anybody else
            event.listen(engine, "do_connect", stop, once=True)
            stop.until_reached()
            asked = nested.ask()
            stop.open()
            with pytest.raises(PoolDeadlock, match="all 1 connections"):
                asked.result(SECONDS)
            nested.give_back()
            waiting.result(SECONDS)
        assert guarded_pool(engine).checkedout() == 0
        engine.dispose()


class TestNoneInUse:
    @pytest.fixture
    def occupant(self, served_database: Database, room: int) -> Iterator[ExitStack]:
        """Take all the room."""
        other = sa.create_engine(served_database.url, poolclass=sa.NullPool)
        with ExitStack() as occupant:
            for _ in range(room):
                occupant.enter_context(other.connect())
            yield occupant

    def test_full_at_the_very_first_connect_it_recovers_by_itself(
        self, served_database: Database, occupant: ExitStack
    ) -> None:
        with (
            guarded_engine(served_database.url) as engine,
            ThreadPoolExecutor(4) as executor,
        ):
            waiting = [executor.submit(engine.connect) for _ in range(3)]
            wait_until(lambda: guarded_pool(engine)._breaker.outage, what="trouble")
            occupant.close()
            for each in waiting:
                each.result(10).close()

    def test_in_the_end_it_is_unavailable(
        self, served_database: Database, occupant: ExitStack
    ) -> None:
        config: dict[str, Any] = {"POOLGUARD_CONNECT_RETRY": 0.3}
        with guarded_engine(served_database.url, **config) as engine:
            with pytest.raises(DatabaseUnavailable, match=r"tried (once|\d+ times)"):
                engine.connect()
            assert guarded_pool(engine).checkedout() == 0


class TestMaxConnections:
    """1040 and 53300 of a server that has no room for anybody."""

    def test_those_who_come_one_too_many_wait(self, served_database: Database) -> None:
        kind = type(served_database.running_server)
        with kind(max_connections=10, **RESERVED[kind.product]) as server:
            url = server.url(database=server.create_database())
            config = {"POOLGUARD_POOL_SIZE": 16, "POOLGUARD_MAX_OVERFLOW": 0}
            with guarded_engine(url, **config) as engine:
                assert hammer(engine, 300, 16) == []
                assert guarded_pool(engine).checkedin() < 16
