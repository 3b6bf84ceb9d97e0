"""All connections are replaced while they are in use, and nobody notices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event
from sqlalchemy.pool import (
    AssertionPool,
    NullPool,
    Pool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)

from flask_poolguard import PoolGuard
from flask_poolguard.errors import SetupError
from flask_poolguard.pool import GuardedPool
from flask_poolguard.state.recycle_requests import new_number
from flask_poolguard.tracking.pool_tracker import PoolTracker, tracker_of
from tests.conftest import Database
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import (
    checked_out_id,
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
    session_id,
    warnings_of,
)
from tests.support.reporting import MakeShop, Shop
from tests.support.waiting import wait_until

pytestmark = pytest.mark.every_product


def tracker_for(engine: sa.Engine) -> PoolTracker:
    """Return the books of an engine's pool."""
    tracker = tracker_of(engine)
    assert tracker is not None
    return tracker


def invalidated(engine: sa.Engine) -> int:
    """Return how many connections were declared unusable so far."""
    return tracker_for(engine).figures.counts["invalidated"]


@pytest.fixture
def engine(
    served_database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sa.Engine]:
    """Give a guarded engine whose housekeeper makes no rounds of its own."""
    with guarded_engine(
        served_database.url, POOLGUARD_POOL_SIZE=2, POOLGUARD_MAX_OVERFLOW=0
    ) as found:
        monkeypatch.setattr(GuardedPool, "tend", lambda _: None)
        yield found


class TestIdle:
    def test_connections_are_closed_at_once(
        self, engine: sa.Engine, served_database: Database
    ) -> None:
        server, name = served_database.running_server, served_database.url.database
        with engine.connect() as one, engine.connect() as other:
            old = {session_id(one), session_id(other)}
        pool = guarded_pool(engine)
        pool.renew()
        wait_until(lambda: not server.session_ids(database=name))
        assert (pool.checkedin(), pool.checkedout(), pool.outdated()) == (0, 0, 0)
        assert invalidated(engine) == 2
        assert checked_out_id(engine) not in old

    def test_ones_that_were_missed_are_not_handed_out(self, engine: sa.Engine) -> None:
        old = checked_out_id(engine)
        pool = guarded_pool(engine)
        pool.generation = object()  # before it gets to the idle ones
        assert pool.outdated() == 1
        assert checked_out_id(engine) != old
        assert (invalidated(engine), pool.outdated()) == (1, 0)

    def test_ones_that_were_missed_are_closed_by_the_housekeeper(
        self, served_database: Database
    ) -> None:
        with guarded_engine(served_database.url) as engine:
            checked_out_id(engine)
            pool = guarded_pool(engine)
            pool.generation = object()
            pool.tend()
            assert (pool.checkedin(), invalidated(engine)) == (0, 1)

    def test_without_any_nothing_happens(self, engine: sa.Engine) -> None:
        guarded_pool(engine).renew()
        assert (guarded_pool(engine).outdated(), invalidated(engine)) == (0, 0)

    def test_if_closing_fails_the_slot_comes_back(self, engine: sa.Engine) -> None:
        old = checked_out_id(engine)
        pool = guarded_pool(engine)

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        event.listen(engine, "close", fail)
        with pytest.raises(ZeroDivisionError):
            pool.renew()
        event.remove(engine, "close", fail)
        assert (pool.checkedin(), pool.checkedout(), pool.outdated()) == (0, 0, 0)
        assert checked_out_id(engine) != old


class TestOut:
    def test_ones_are_replaced_when_they_come_back(self, engine: sa.Engine) -> None:
        pool = guarded_pool(engine)
        with engine.connect() as held:
            old = session_id(held)
            pool.renew()
            assert pool.outdated() == 1
            held.rollback()
            assert session_id(held) == old
            with engine.connect() as new:
                fresh = session_id(new)
            assert (pool.outdated(), invalidated(engine)) == (1, 0)
        assert (pool.outdated(), invalidated(engine)) == (0, 1)
        assert checked_out_id(engine) == fresh

    def test_newer_ones_stay(self, engine: sa.Engine) -> None:
        guarded_pool(engine).renew()
        first = checked_out_id(engine)
        assert checked_out_id(engine) == first
        assert invalidated(engine) == 0

    def test_twice_is_as_good_as_once(self, engine: sa.Engine) -> None:
        pool = guarded_pool(engine)
        with engine.connect():
            pool.renew()
            pool.renew()
            assert pool.outdated() == 1
        assert (pool.outdated(), invalidated(engine)) == (0, 1)

    def test_a_waiter_gets_the_slot_with_a_new_connection(
        self, engine: sa.Engine
    ) -> None:
        pool = guarded_pool(engine)
        one, other = engine.connect(), engine.connect()
        old = {session_id(one), session_id(other)}
        with ThreadPoolExecutor() as threads:
            waiter = threads.submit(checked_out_id, engine)
            wait_until(lambda: pool.waiting == 1)
            pool.renew()
            one.close()
            assert waiter.result(20) not in old
        other.close()
        assert pool.outdated() == 0

    def test_a_soft_invalidation_is_still_for_the_next_checkout(
        self, engine: sa.Engine
    ) -> None:
        with engine.connect() as held:
            old = session_id(held)
            held.connection.invalidate(soft=True)
        assert guarded_pool(engine).checkedin() == 1
        assert checked_out_id(engine) != old


class TestBeingOpened:
    def test_one_that_began_before_is_replaced_before_anybody_gets_it(
        self, engine: sa.Engine
    ) -> None:
        pool, made = guarded_pool(engine), []

        def renew_meanwhile(connection: Any, _: object) -> None:
            made.append(connection)
            if len(made) == 1:
                pool.renew()

        event.listen(engine, "connect", renew_meanwhile)
        with engine.connect() as connection:
            assert len(made) == 2
            assert connection.connection.dbapi_connection is made[1]
            assert pool.outdated() == 0
        assert (invalidated(engine), pool.checkedin()) == (1, 1)

    def test_a_pool_that_is_renewed_all_the_time_still_serves(
        self, served_database: Database
    ) -> None:
        with guarded_engine(served_database.url, POOLGUARD_POOL_TIMEOUT=0.5) as engine:
            pool = guarded_pool(engine)
            event.listen(engine, "connect", lambda *_: pool.renew())
            with engine.connect() as connection:
                assert session_id(connection)
                assert pool.outdated() == 1
            assert pool.outdated() == 0

    def test_one_whose_time_is_up_is_replaced_once_all_the_same(
        self, served_database: Database
    ) -> None:
        with guarded_engine(served_database.url, POOLGUARD_POOL_TIMEOUT=0) as engine:
            pool, made = guarded_pool(engine), []

            def renew_meanwhile(connection: Any, _: object) -> None:
                made.append(connection)
                if len(made) == 1:
                    pool.renew()

            event.listen(engine, "connect", renew_meanwhile)
            with engine.connect() as connection:
                assert pool.outdated() == 0
                assert connection.connection.dbapi_connection is made[1]

    def test_one_that_began_before_counts_until_it_is_judged(
        self, engine: sa.Engine
    ) -> None:
        pool = guarded_pool(engine)
        counts: list[int] = []

        def renew_meanwhile(*_: object) -> None:
            if not counts:
                pool.renew()
            counts.append(pool.outdated())

        event.listen(engine, "do_connect", renew_meanwhile)
        with engine.connect():
            assert counts == [1, 0]
            assert pool.outdated() == 0

    def test_one_that_fails_no_longer_counts(self, engine: sa.Engine) -> None:
        pool = guarded_pool(engine)

        def fail(*_: object) -> None:
            pool.renew()
            assert pool.outdated() == 1
            raise ZeroDivisionError

        event.listen(engine, "do_connect", fail)
        with pytest.raises(ZeroDivisionError):
            engine.connect()
        assert pool.outdated() == 0

    def test_one_of_a_listener_at_checkout_counts_as_out(
        self, engine: sa.Engine
    ) -> None:
        pool, counts = guarded_pool(engine), []

        def renew_meanwhile(*_: object) -> None:
            pool.renew()
            counts.append(pool.outdated())

        event.listen(engine, "checkout", renew_meanwhile)
        with engine.connect():
            assert counts == [1]


class TestThePoolIsReplacedMeanwhile:
    def test_what_is_out_of_the_old_one_still_counts(self, engine: sa.Engine) -> None:
        with engine.connect():
            tracker_for(engine).renew(new_number())
            engine.dispose()
            tracker_for(engine).tend()
            assert tracker_for(engine).usage.outdated == 1
        tracker_for(engine).tend()
        assert tracker_for(engine).usage.outdated == 0

    def test_a_request_after_that_reaches_the_old_one(self, engine: sa.Engine) -> None:
        with engine.connect():
            engine.dispose()
            tracker_for(engine).renew(new_number())
            assert tracker_for(engine).usage.outdated == 1
            checked_out_id(engine)
            assert tracker_for(engine).usage.outdated == 1

    @pytest.mark.process
    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_a_child_inherits_nothing_of_it(self, engine: sa.Engine) -> None:
        def work() -> tuple[int, int, int]:
            with engine.connect():
                usage = tracker_for(engine).usage
                return usage.renewed, usage.outdated, guarded_pool(engine).outdated()

        with engine.connect():
            tracker_for(engine).renew(new_number())
            assert in_child(work) == (0, 0, 0)
            assert guarded_pool(engine).outdated() == 1

    @pytest.mark.process
    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_a_child_that_ran_no_hooks_leaves_the_parents_alone(
        self, engine: sa.Engine
    ) -> None:
        old = checked_out_id(engine)

        def work() -> int:
            guarded_pool(engine).renew()
            return checked_out_id(engine)

        child = in_child(work, fork=fork_without_hooks)
        assert child != old
        assert checked_out_id(engine) == old


class OwnQueue(QueuePool):
    """A class that the guard leaves in place."""


def renewed(shop: Shop) -> int:
    """Ask for new connections; return how many old ones are out."""
    shop.guard.recycle(shop.app)
    return tracker_for(shop.engines["default"]).usage.outdated


class TestOtherClasses:
    @pytest.mark.parametrize("pool_class", [OwnQueue, AssertionPool])
    def test_replace_each_before_its_next_use(
        self, make_shop: MakeShop, served_database: Database, pool_class: type[Pool]
    ) -> None:
        engine = sa.create_engine(served_database.url, poolclass=pool_class)
        shop = make_shop(default=engine)
        with shop.app.app_context(), engine.connect() as held:
            old = session_id(held)
            assert renewed(shop) == 1
            assert session_id(held) == old
        tracker_for(engine).tend()
        assert tracker_for(engine).usage.outdated == 0
        new = checked_out_id(engine)
        assert new != old
        assert checked_out_id(engine) == new

    def test_one_that_is_idle_is_replaced_as_well(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = sa.create_engine(served_database.url, poolclass=OwnQueue)
        shop = make_shop(default=engine)
        shop.use()
        old = checked_out_id(engine)
        assert renewed(shop) == 0
        assert checked_out_id(engine) != old

    def test_a_connect_that_began_before_counts_as_old(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = sa.create_engine(served_database.url, poolclass=OwnQueue)
        shop = make_shop(default=engine)
        with shop.app.app_context():
            pass

        def renew_meanwhile(*_: object) -> None:
            shop.guard.recycle(shop.app)

        event.listen(engine, "do_connect", renew_meanwhile)
        with engine.connect() as held:
            old = session_id(held)
            event.remove(engine, "do_connect", renew_meanwhile)
            tracker_for(engine).tend()
            assert tracker_for(engine).usage.outdated == 1
        assert checked_out_id(engine) != old

    def test_a_null_pool_has_nothing_to_replace_but_what_is_out(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        engine = sa.create_engine(served_database.url, poolclass=NullPool)
        shop = make_shop(default=engine)
        with shop.app.app_context(), engine.connect():
            assert renewed(shop) == 1
        tracker_for(engine).tend()
        assert tracker_for(engine).usage.outdated == 0

    @pytest.mark.parametrize("pool_class", [StaticPool, SingletonThreadPool, QueuePool])
    def test_data_that_lives_in_the_connection_is_kept(
        self, make_shop: MakeShop, pool_class: type[Pool]
    ) -> None:
        engine = sa.create_engine("sqlite://", poolclass=pool_class)
        shop = make_shop(default=engine)
        with shop.app.app_context():
            with engine.begin() as connection:
                connection.execute(sa.text("CREATE TABLE kept (id INTEGER)"))
            assert renewed(shop) == 0
            assert tracker_for(engine).usage.renewed > 0
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT * FROM kept"))

    # SQLAlchemy 2.1 warns whoever asks which class it would choose.
    @pytest.mark.filterwarnings("ignore:Selection of the SingletonThreadPool")
    @pytest.mark.parametrize("pool_class", [SingletonThreadPool, QueuePool])
    @pytest.mark.parametrize(
        "url",
        [
            "sqlite:///file:renewed?mode=memory&cache=shared&uri=true",
            "sqlite:///file::memory:?cache=shared&uri=true",
        ],
    )
    def test_data_in_memory_that_connections_share_is_kept(
        self, make_shop: MakeShop, pool_class: type[Pool], url: str
    ) -> None:
        engine = sa.create_engine(url, poolclass=pool_class)
        shop = make_shop(default=engine)
        with shop.app.app_context():
            with engine.begin() as connection:
                connection.execute(sa.text("CREATE TABLE kept (id INTEGER)"))
            assert renewed(shop) == 0
            assert tracker_for(engine).usage.renewed > 0
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT * FROM kept"))


class TestFromWithinTheApp:
    def test_all_binds_are_renewed(self, served_database: Database) -> None:
        app = make_app(
            served_database.url, SQLALCHEMY_BINDS={"reports": served_database.url}
        )
        engines = [engine_of(app), engine_of(app, "reports")]
        guard = PoolGuard()
        old = [checked_out_id(engine) for engine in engines]
        with app.app_context():
            guard.recycle()
        assert all(guarded_pool(engine).checkedin() == 0 for engine in engines)
        assert not {checked_out_id(engine) for engine in engines} & set(old)
        for engine in engines:
            engine.dispose()

    def test_without_an_app_it_says_so(self) -> None:
        with pytest.raises(SetupError, match="needs an app context"):
            PoolGuard().recycle()

    def test_an_app_without_a_guard_is_an_error(self) -> None:
        with pytest.raises(SetupError, match="has no PoolGuard"):
            PoolGuard().recycle(Flask("plain"))

    def test_one_pool_that_fails_keeps_no_other_from_it(
        self,
        served_database: Database,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        app = make_app(
            served_database.url, SQLALCHEMY_BINDS={"reports": served_database.url}
        )
        first, second = engine_of(app), engine_of(app, "reports")
        old = checked_out_id(second)
        checked_out_id(first)

        def fail() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(guarded_pool(first), "renew", fail)
        PoolGuard().recycle(app)
        (warning,) = warnings_of(caplog)
        assert "bind 'default' failed" in warning
        assert checked_out_id(second) != old
        for engine in (first, second):
            engine.dispose()


def test_under_load_every_checkout_works_and_none_is_old(
    served_database: Database,
) -> None:
    with guarded_engine(
        served_database.url, POOLGUARD_POOL_SIZE=2, POOLGUARD_MAX_OVERFLOW=1
    ) as engine:
        pool = guarded_pool(engine)
        is_over, errors = threading.Event(), []
        # Those that were there before the last renewal, and what was taken after it.
        before: set[int] = set()
        taken_late: set[int] = set()
        is_late = threading.Event()

        def work(note: Callable[[int], None]) -> None:
            try:
                while not is_over.is_set():
                    late = is_late.is_set()
                    number = checked_out_id(engine)
                    if late:
                        taken_late.add(number)
                    else:
                        note(number)
            except Exception as error:
                errors.append(error)

        with ThreadPoolExecutor(6) as threads:
            for _ in range(6):
                threads.submit(work, before.add)
            for _ in range(10):
                so_far = len(before)
                pool.renew()
                wait_until(lambda n=so_far: len(before) > n, seconds=20)  # type: ignore[misc] # a lambda's default has no type
            known = {*before}
            pool.renew()
            is_late.set()
            wait_until(lambda: taken_late, seconds=20)
            is_over.set()
        assert errors == []
        assert not taken_late & known
        assert pool.outdated() == 0
        assert pool.checkedout() == 0
