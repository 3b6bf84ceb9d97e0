"""The pool itself: what it hands out, what it tells, and what it never loses."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from flask_poolguard import PoolTimeout
from flask_poolguard.config import AUTO
from flask_poolguard.databases import ConnectFailure
from flask_poolguard.pool import (
    Claim,
    CloseReason,
    GuardedPool,
    GuardedRecord,
    Policy,
    PoolCallbacks,
    Recycle,
)
from tests.conftest import Database
from tests.support.guarded_app import checked_out_id, guarded_pool, session_id
from tests.support.people import SECONDS, people
from tests.support.servers import DatabaseServer
from tests.support.strikes import Moment, struck_at
from tests.support.tracked import Tracked
from tests.support.waiting import wait_until

MakePool = Callable[..., GuardedPool]
MakeTracked = Callable[..., Tracked]
Work = Callable[[], None]


class Notebook(PoolCallbacks):
    """Writes down what the pool tells."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.waiting = 0
        self.claims: list[Claim] = []

    def connected(self, record: ConnectionPoolEntry) -> None:
        assert record.dbapi_connection is not None
        self.told.append("connected")

    def took(
        self,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        is_counted: bool = False,
    ) -> None:
        assert fairy.dbapi_connection is record.dbapi_connection
        self.told.append("took")

    def gave(self, record: ConnectionPoolEntry) -> None:
        self.told.append("gave" if record.dbapi_connection else "gave nothing")

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason) -> None:
        assert record.dbapi_connection is None
        self.told.append(f"closed {reason}")

    def began_waiting(self, out: int) -> Claim:
        self.waiting += 1
        self.told.append("began waiting")
        claim = super().began_waiting(out)
        self.claims.append(claim)
        return claim

    def waits_again(self, claim: Claim) -> None:
        self.waiting += 1
        self.told.append("waits again")
        self.claims.append(claim)

    def stopped_waiting(self, claim: Claim) -> None:
        self.claims.remove(claim)
        self.waiting -= 1
        self.told.append("stopped waiting")

    def timed_out(self, error: PoolTimeout) -> None:
        self.told.append("timed out")

    def learned(
        self, recycle: Recycle, server_limit: float | None, learned_limit: float | None
    ) -> None:
        self.told.append("learned")

    def new(self) -> list[str]:
        """Return what was told since this was last asked."""
        told, self.told = self.told, []
        return told


@pytest.fixture
def notebook() -> Notebook:
    """Return callbacks that note each call."""
    return Notebook()


@pytest.fixture
def make_engine(notebook: Notebook) -> Iterator[Callable[..., sa.Engine]]:
    """Return a function that makes engines with a guarded pool."""
    made: list[sa.Engine] = []

    def make_engine(
        url: sa.URL, *, policy: Policy | None = None, **options: Any
    ) -> sa.Engine:
        engine = sa.create_engine(url, **options)
        old = engine.pool
        assert isinstance(old, QueuePool)
        engine.pool = GuardedPool(
            old._creator,
            pool_size=old.size(),
            max_overflow=old._max_overflow,
            timeout=old.timeout(),
            use_lifo=old._pool.use_lifo,
            pre_ping=old._pre_ping,
            reset_on_return=old._reset_on_return,
            dialect=engine.dialect,
            _dispatch=old.dispatch,
            policy=policy or Policy(recycle=AUTO),
            callbacks=notebook,
        )
        made.append(engine)
        return engine

    yield make_engine
    for engine in made:
        engine.dispose()


MakeEngine = Callable[..., sa.Engine]


class TestAsPoolClass:
    def test_it_can_be_used_as_any_pool_class(self, database: Database) -> None:
        engine = sa.create_engine(
            database.url,
            poolclass=GuardedPool,
            pool_size=2,
            max_overflow=1,
            pool_timeout=4,
            pool_recycle=3600,
            pool_use_lifo=True,
            pool_pre_ping=True,
        )
        pool = guarded_pool(engine)
        assert isinstance(pool, QueuePool)
        assert (pool.size(), pool._max_overflow, pool.timeout()) == (2, 1, 4)
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1
        assert pool.limits.recycle == Recycle(3600, "recycle = 3600")
        assert pool._recycle == 3600
        assert pool.status().startswith("Pool size: 2  Connections in pool: 1 ")
        engine.dispose()

    def test_without_a_recycle_time_it_has_none(self, sqlite_url: sa.URL) -> None:
        engine = sa.create_engine(sqlite_url, poolclass=GuardedPool)
        assert guarded_pool(engine).limits.recycle.seconds is None
        assert guarded_pool(engine)._recycle == -1

    def test_its_creator_may_take_the_record_or_nothing(
        self, sqlite_url: sa.URL
    ) -> None:
        connect = sa.create_engine(sqlite_url).raw_connection
        for creator in (lambda: connect(), lambda connection_record: connect()):
            pool = GuardedPool(creator)
            pool.connect().close()
            pool.dispose()

    def test_it_works_without_a_dialect(self) -> None:
        pool = GuardedPool(lambda: sa.create_engine("sqlite://").raw_connection())
        pool.connect().close()
        assert pool.limits.recycle == Recycle(None, "recycle = -1")
        pool.dispose()


class TestHandingOut:
    def test_a_connection_is_used_again(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url)
        for _ in range(2):
            engine.connect().close()
        assert notebook.new() == [
            "connected",
            "learned",
            "took",
            "gave",
            "took",
            "gave",
        ]

    @pytest.mark.parametrize(("use_lifo", "again"), [(False, 0), (True, 1)])
    def test_the_order_is_sqlalchemys(
        self, use_lifo: bool, again: int, make_engine: MakeEngine, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_use_lifo=use_lifo)
        both = [engine.raw_connection(), engine.raw_connection()]
        drivers = [each.dbapi_connection for each in both]
        for each in both:
            each.close()
        next_one = engine.raw_connection()
        assert next_one.dbapi_connection is drivers[again]
        next_one.close()

    def test_what_exceeds_the_size_is_closed_when_it_comes_back(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_size=1, max_overflow=1)
        first, second = engine.connect(), engine.connect()
        notebook.new()
        first.close()
        second.close()
        assert notebook.new() == ["gave", "gave", "closed overflow"]
        assert guarded_pool(engine).checkedin() == 1
        assert guarded_pool(engine).overflow() == 0

    def test_beyond_size_and_overflow_one_waits_and_gives_up(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=0.01)
        with engine.connect():
            notebook.new()
            with pytest.raises(exc.TimeoutError, match="size 1 overflow 0"):
                engine.connect()
            assert notebook.new() == ["began waiting", "timed out", "stopped waiting"]
        engine.connect().close()

    def test_who_waits_gets_what_comes_back(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=60)
        with ThreadPoolExecutor(1) as executor:
            held = engine.raw_connection()
            driver = held.dbapi_connection
            waiting = executor.submit(engine.raw_connection)
            wait_until(lambda: notebook.waiting == 1, what="a waiter")
            held.close()
            got = waiting.result(10)
            assert got.dbapi_connection is driver
            assert notebook.waiting == 0
            got.close()

    def test_a_size_of_zero_is_no_limit(
        self, make_engine: MakeEngine, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_size=0)
        held = [engine.connect() for _ in range(20)]
        for each in held:
            each.close()
        assert guarded_pool(engine).checkedin() == 20

    def test_many_threads_never_exceed_the_limit_and_lose_no_slot(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_size=3, max_overflow=2, pool_timeout=60)
        pool = guarded_pool(engine)
        lock = threading.Lock()
        out, peak = 0, 0

        def work(number: int) -> None:
            nonlocal out, peak
            for turn in range(40):
                with engine.connect() as connection:
                    with lock:
                        out += 1
                        peak = max(peak, out)
                    if (number + turn) % 7 == 0:
                        connection.invalidate()
                    else:
                        connection.execute(sa.text("SELECT 1"))
                    with lock:
                        out -= 1

        with ThreadPoolExecutor(16) as executor:
            for done in [executor.submit(work, number) for number in range(16)]:
                done.result(60)
        assert peak <= 5
        assert pool.checkedout() == 0
        assert notebook.told.count("took") == 16 * 40
        gave = notebook.told.count("gave") + notebook.told.count("gave nothing")
        assert gave == 16 * 40
        held = [engine.connect() for _ in range(5)]
        for each in held:
            each.close()


class TestReplacing:
    def test_one_that_was_invalidated_is_closed_and_its_slot_is_used_again(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=0)
        with engine.connect() as connection:
            connection.invalidate()
        engine.connect().close()
        assert notebook.new() == [
            *("connected", "learned", "took", "closed invalidated", "gave nothing"),
            *("connected", "took", "gave"),
        ]

    def test_one_that_was_softly_invalidated_is_replaced_and_counted_alike(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url)
        fairy = engine.raw_connection()
        fairy.invalidate(soft=True)
        fairy.close()
        notebook.new()
        engine.connect().close()
        assert notebook.new() == ["closed invalidated", "connected", "took", "gave"]

    def test_after_a_lost_connection_all_older_ones_are_replaced(
        self, make_engine: MakeEngine, served_database: Database
    ) -> None:
        engine = make_engine(served_database.url)
        server = served_database.running_server
        with engine.connect(), engine.connect():
            old = server.session_ids(database=served_database.url.database)
        connection = engine.connect()
        server.kill_session(session_id(connection))
        with pytest.raises(exc.OperationalError):
            session_id(connection)
        connection.close()
        with engine.connect(), engine.connect():
            new = server.session_ids(database=served_database.url.database)
        assert not old & new

    def test_pre_ping_still_finds_a_dead_one_first(
        self, make_engine: MakeEngine, notebook: Notebook, served_database: Database
    ) -> None:
        engine = make_engine(served_database.url, pool_pre_ping=True)
        first = checked_out_id(engine)
        notebook.new()  # before a round of the housekeeper may find it, too
        served_database.running_server.kill_session(first)
        assert checked_out_id(engine) != first
        assert notebook.new() == ["closed dead", "connected", "took", "gave"]

    def test_a_checkout_listener_may_ask_for_another(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url)
        refused = [True]

        @event.listens_for(engine, "checkout")
        def checkout(connection: Any, record: Any, fairy: Any) -> None:
            if refused:
                refused.pop()
                raise exc.DisconnectionError

        engine.connect().close()
        assert notebook.new() == [
            *("connected", "learned", "closed dead", "connected", "took", "gave")
        ]

    def test_the_info_of_a_connection_ends_with_it(
        self, make_engine: MakeEngine, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url, pool_size=1, max_overflow=0)
        with engine.connect() as connection:
            connection.info["mine"] = True
        with engine.connect() as connection:
            assert connection.info == {"mine": True}
            connection.invalidate()
        with engine.connect() as connection:
            assert connection.info == {}


class TestSlots:
    """Whatever happens at a checkout, the slot comes back."""

    def one_slot(self, make_engine: MakeEngine, url: sa.URL) -> sa.Engine:
        return make_engine(url, pool_size=1, max_overflow=0, pool_timeout=0)

    @pytest.mark.parametrize("error", [OSError("no route"), KeyboardInterrupt()])
    def test_a_connect_that_fails_costs_none(
        self,
        error: BaseException,
        make_engine: MakeEngine,
        notebook: Notebook,
        sqlite_url: sa.URL,
    ) -> None:
        engine = self.one_slot(make_engine, sqlite_url)
        errors = [error, error]

        @event.listens_for(engine, "do_connect")
        def do_connect(*arguments: Any) -> None:
            if errors:
                raise errors.pop()

        for _ in range(2):
            with pytest.raises(type(error)):
                engine.connect()
        engine.connect().close()
        assert notebook.new() == ["connected", "learned", "took", "gave"]

    @pytest.mark.parametrize("name", ["connect", "checkout"])
    @pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
    def test_a_listener_that_raises_costs_none(
        self,
        error: BaseException,
        name: str,
        make_engine: MakeEngine,
        sqlite_url: sa.URL,
    ) -> None:
        engine = self.one_slot(make_engine, sqlite_url)
        errors = [error, error]

        @event.listens_for(engine, name)
        def listen(*arguments: Any) -> None:
            if errors:
                raise errors.pop()

        for _ in range(2):
            with pytest.raises(type(error)):
                engine.connect()
        engine.connect().close()
        assert guarded_pool(engine).checkedout() == 0

    def test_a_replacement_that_fails_costs_none(
        self, make_engine: MakeEngine, sqlite_url: sa.URL
    ) -> None:
        engine = self.one_slot(make_engine, sqlite_url)
        fairy = engine.raw_connection()
        fairy.invalidate(soft=True)
        fairy.close()
        errors = [OSError("no route"), KeyboardInterrupt()]

        @event.listens_for(engine, "do_connect")
        def do_connect(*arguments: Any) -> None:
            if errors:
                raise errors.pop()

        for error in (KeyboardInterrupt, OSError):
            with pytest.raises(error):
                engine.connect()
        engine.connect().close()

    def test_a_detached_connection_makes_room(
        self, make_engine: MakeEngine, sqlite_url: sa.URL
    ) -> None:
        engine = self.one_slot(make_engine, sqlite_url)
        with engine.connect() as detached:
            detached.detach()
            with engine.connect() as another:
                assert another.scalar(sa.text("SELECT 1")) == 1

    def test_a_connection_that_is_forgotten_comes_back(
        self, make_engine: MakeEngine, sqlite_url: sa.URL
    ) -> None:
        engine = self.one_slot(make_engine, sqlite_url)
        fairy: PoolProxiedConnection | None = engine.raw_connection()
        assert fairy is not None
        driver, fairy = fairy.dbapi_connection, None
        gc.collect()
        again = engine.raw_connection()
        assert again.dbapi_connection is driver
        again.close()

    def test_a_rollback_that_fails_on_return_costs_none(
        self, make_engine: MakeEngine, served_database: Database
    ) -> None:
        engine = self.one_slot(make_engine, served_database.url)
        for _ in range(2):
            fairy = engine.raw_connection()
            # A transaction, or PostgreSQL's drivers would not roll back at all.
            fairy.cursor().execute("SELECT 1")
            server = served_database.running_server
            for number in server.session_ids(database=served_database.url.database):
                server.kill_session(number)
            fairy.close()
        assert checked_out_id(engine)


class TestDispose:
    def test_idle_connections_are_closed_and_told_of(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url)
        with engine.connect(), engine.connect():
            pass
        notebook.new()
        engine.dispose()
        assert notebook.new() == ["closed closed", "closed closed"]

    def test_one_that_is_out_is_told_of_when_it_comes_back(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        engine = make_engine(sqlite_url)
        connection = engine.connect()
        engine.dispose()
        notebook.new()
        connection.close()
        assert notebook.new() == ["gave", "closed closed"]

    @pytest.mark.parametrize("close", [True, False])
    def test_one_that_comes_back_at_that_very_moment_is_closed_as_well(
        self,
        close: bool,
        make_engine: MakeEngine,
        notebook: Notebook,
        sqlite_url: sa.URL,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        engine = make_engine(sqlite_url)
        old, connection = guarded_pool(engine), engine.connect()
        put = old._pool.put

        def put_late(record: GuardedRecord, began_at: float) -> GuardedRecord | None:
            engine.dispose(close=close)  # in another thread, just before
            return put(record)

        monkeypatch.setattr(old._pool, "put", put_late)
        notebook.new()
        connection.close()
        # Without closing, what is idle stays open, as in a QueuePool.
        assert notebook.new() == ["gave", "closed closed"][: 1 + close]
        assert old.checkedin() == 1 - close
        monkeypatch.undo()
        old.dispose()

    def test_who_waits_there_is_served_by_what_comes_back_there(
        self, make_engine: MakeEngine, database: Database
    ) -> None:
        """As in a QueuePool, whose waiters do not move to the new pool either."""
        engine = make_engine(database.url, pool_size=1, max_overflow=0)
        with people(engine, 2) as (holder, waiter):
            old = guarded_pool(engine)
            holder.take()
            asked = waiter.ask()
            engine.dispose()
            assert not asked.done()
            assert old.waiting == 1
            engine.connect().close()  # the new pool has room
            holder.give_back()
            asked.result(SECONDS)
            (served,) = waiter.connections
            assert waiter.do(lambda: served.scalar(sa.text("SELECT 1"))) == 1
            assert old.checkedout() == 1
        assert (old.checkedout(), old.checkedin()) == (0, 0)

    def test_the_new_pool_is_like_the_old(
        self, make_engine: MakeEngine, notebook: Notebook, sqlite_url: sa.URL
    ) -> None:
        policy = Policy(name="reports", recycle=60, recycle_origin="X", idle_limit=5)
        engine = make_engine(
            sqlite_url,
            policy=policy,
            pool_size=2,
            max_overflow=1,
            pool_timeout=4,
            pool_use_lifo=True,
            pool_pre_ping=True,
            pool_reset_on_return="commit",
        )
        old = guarded_pool(engine)
        engine.dispose()
        new = guarded_pool(engine)
        assert new is not old
        for name in (
            *("policy", "callbacks", "name", "limits", "database"),
            *("_timeout", "_max_overflow", "_pre_ping", "_reset_on_return", "_dialect"),
        ):
            assert getattr(new, name) == getattr(old, name), name
        assert new._pool.use_lifo
        assert new.size() == 2


class TestServers:
    def test_every_session_is_closed_in_the_end(
        self, make_engine: MakeEngine, served_database: Database
    ) -> None:
        url = served_database.url
        server: DatabaseServer = served_database.running_server
        engine = make_engine(url, pool_size=2, max_overflow=2)
        held = [engine.connect() for _ in range(4)]
        assert len(server.session_ids(database=url.database)) == 4
        for each in held:
            each.close()

        def sessions() -> int:
            return len(server.session_ids(database=url.database))

        wait_until(lambda: sessions() == 2, what="the overflow's end")
        engine.dispose()
        wait_until(lambda: sessions() == 0, what="the pool's end")


class FullError(Exception):
    """The server says that it is full."""


# Whose result is still without a name when a signal is looked for, and what SQLAlchemy
# has not called yet; told in docs/pool.md.
SPARED: tuple[str, ...] = (
    "c_return in guarded_pool.py, _do_get, popleft",
    "call in guarded_pool.py, _do_return_conn",
)
if sa.__version__.startswith("2.0."):
    # There SQLAlchemy itself gives nothing back if this strikes within its reset.
    SPARED += ("call in guarded_pool.py, _reset_on_return",)


class TestStruck:
    """Wherever an exception strikes a thread, as a signal's handler raises it."""

    @pytest.fixture
    def tracked(
        self, sqlite_url: sa.URL, monkeypatch: pytest.MonkeyPatch
    ) -> MakeTracked:
        """Return what makes pools with an idle connection, and no housekeeper."""
        monkeypatch.setattr(GuardedPool, "tend", lambda _: None)

        def make_tracked(slots: int = 1, timeout: float = 600) -> Tracked:
            tracked = Tracked(
                sqlite_url, pool_size=slots, max_overflow=0, pool_timeout=timeout
            )
            tracked.engine.connect().close()
            return tracked

        return make_tracked

    @contextmanager
    def at_once(self, tracked: MakeTracked) -> Iterator[tuple[Tracked, Work]]:
        """Let it be served without waiting."""
        made = tracked()
        yield made, lambda: made.engine.connect().close()

    @contextmanager
    def connecting(self, tracked: MakeTracked) -> Iterator[tuple[Tracked, Work]]:
        """Let it need a new connection."""
        made = tracked()
        guarded_pool(made.engine).dispose()
        yield made, lambda: made.engine.connect().close()

    @contextmanager
    def replacing(self, tracked: MakeTracked) -> Iterator[tuple[Tracked, Work]]:
        """Let it find a connection that is not fit."""
        made = tracked()
        fairy = made.engine.raw_connection()
        fairy.invalidate(soft=True)
        fairy.close()
        del fairy
        yield made, lambda: made.engine.connect().close()

    @contextmanager
    def timing_out(self, tracked: MakeTracked) -> Iterator[tuple[Tracked, Work]]:
        """Let it wait in vain."""
        made = tracked(timeout=0.01)
        with people(made.engine, 1) as (holder,):
            holder.take()

            def work() -> None:
                with suppress(exc.TimeoutError):
                    made.engine.connect().close()

            yield made, work

    @contextmanager
    def waiting(
        self, tracked: MakeTracked, slots: int = 1
    ) -> Iterator[tuple[Tracked, Work]]:
        """Let it wait, and be served."""
        made = tracked(slots)
        pool, is_over = guarded_pool(made.engine), threading.Event()
        with people(made.engine, 1) as (holder,):
            connection = holder.take().connections.pop()

            def give_back() -> None:
                wait_until(lambda: pool.waiting or is_over.is_set(), what="a waiter")
                connection.close()

            given = holder.start(give_back)
            yield made, lambda: made.engine.connect().close()
            is_over.set()
            given.result(SECONDS)

    @contextmanager
    def refused(self, tracked: MakeTracked) -> Iterator[tuple[Tracked, Work]]:
        """Let it try a server that is full, and wait then."""
        with self.waiting(tracked, slots=2) as (made, work):
            kinds = {FullError: ConnectFailure.FULL}
            breaker: Any = guarded_pool(made.engine)._breaker
            breaker._classify = lambda error: kinds.get(type(error))

            @event.listens_for(made.engine, "do_connect")
            def refuse(*_: object) -> None:
                raise FullError

            yield made, work

    @contextmanager
    def handing_on(self, tracked: MakeTracked) -> Iterator[tuple[Tracked, Work]]:
        """Let it give back what somebody waits for."""
        made = tracked()
        with people(made.engine, 1) as (waiter,):
            held = [made.engine.connect()]
            asked = waiter.ask()
            yield made, lambda: held.pop().close()
            asked.result(SECONDS)

    @pytest.mark.parametrize("moment", get_args(Moment))
    @pytest.mark.parametrize(
        "way",
        [at_once, connecting, replacing, timing_out, waiting, refused, handing_on],
    )
    def test_no_slot_is_lost_and_no_checkout_is_left_over(
        self,
        way: Any,
        moment: Moment,
        tracked: MakeTracked,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("CRITICAL")  # SQLAlchemy logs each rollback that fails
        for number in itertools.count(1):
            with way(self, tracked) as (made, work):
                where = struck_at(number, work, moment, SPARED)
                del work
            pool, tracker = guarded_pool(made.engine), made.tracker
            if pool.checkedout():  # the frames of an error that is garbage have it
                gc.collect()
            slots = pool._pool.opened, pool._breaker.pending, pool.waiting
            assert slots == (pool.checkedin(), 0, 0), where
            assert (tracker.out, tracker.figures.waiting) == ({}, 0), where
            made.engine.dispose()
            if where is None:
                break
        assert number > 10
