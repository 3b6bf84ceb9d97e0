"""The tracker agrees with the pool, and the state file with the tracker."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import stat
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy.exc
from sqlalchemy import URL, Engine, event, pool, text

from flask_poolguard.pool import CloseReason
from flask_poolguard.pool.outage import FIRST_PAUSE
from flask_poolguard.state.file_format import MAX_THREAD
from flask_poolguard.state.memory_map import Map, View
from flask_poolguard.state.status import Holder, PoolStatus
from flask_poolguard.state.writer import StateFile
from flask_poolguard.tracking.claims import ScopeClaim
from tests.conftest import Database
from tests.support.shop import Shop, Witness
from tests.support.tracked import Tracked, outs, shown

COUNT = text("SELECT COUNT(*) FROM item")


@pytest.fixture
def tracked(database: Database) -> Iterator[Tracked]:
    """Guard a pool of two and one more."""
    tracked = Tracked(database.url, pool_size=2, max_overflow=1, pool_timeout=0.01)
    yield tracked
    tracked.engine.dispose()


class TestFileAndPoolAgree:
    def test_before_anything_was_taken(self, tracked: Tracked) -> None:
        assert tracked.tracker.region is not None  # made with the first event
        tracked.agree(out=0, idle=0)
        with tracked.engine.connect():
            pass
        tracked.agree(out=0, idle=1)

    def test_after_checkout_and_checkin(
        self, tracked: Tracked, database: Database
    ) -> None:
        first = tracked.engine.connect()
        tracked.agree(out=1, idle=0)
        second = tracked.engine.connect()
        tracked.agree(out=2, idle=0)
        first.close()
        state = tracked.agree(out=1, idle=1)
        tracked.agrees_with_server(database)
        second.close()
        state = tracked.agree(out=0, idle=2)
        assert state.connects == 2
        assert state.peak_checked_out == 2
        assert state.checkouts == 2

    def test_after_overflow(self, tracked: Tracked, database: Database) -> None:
        connections = [tracked.engine.connect() for _ in range(3)]
        tracked.agree(out=3, idle=0)
        for connection in connections:
            connection.close()
        state = tracked.agree(out=0, idle=2)
        assert state.closed.overflow == 1
        assert state.connects == 3
        tracked.agrees_with_server(database)

    def test_after_a_timeout(self, tracked: Tracked) -> None:
        connections = [tracked.engine.connect() for _ in range(3)]
        with pytest.raises(sqlalchemy.exc.TimeoutError):
            tracked.engine.connect()
        state = tracked.agree(out=3, idle=0)
        assert state.timeouts == 1
        assert state.waiting == 0
        assert state.oldest_wait_seconds is None
        for connection in connections:
            connection.close()
        tracked.agree(out=0, idle=2)

    def test_while_somebody_waits(self, database: Database) -> None:
        tracked = Tracked(database.url, pool_size=1, max_overflow=0, pool_timeout=20)
        waiting = threading.Event()
        began = tracked.tracker.began_waiting

        def began_waiting(out: int) -> ScopeClaim:
            claim = began(out)
            waiting.set()
            return claim

        tracked.tracker.began_waiting = began_waiting  # type: ignore[method-assign] # tells us the moment
        with ThreadPoolExecutor(1) as executor:
            with tracked.engine.connect():
                result = executor.submit(tracked.engine.connect)
                assert waiting.wait(10)
                state = tracked.agree(out=1, idle=0)
                assert state.waiting == 1
                assert state.oldest_wait_seconds is not None
            result.result(10).close()
        state = tracked.agree(out=0, idle=1)
        assert state.waiting == 0
        tracked.engine.dispose()

    def test_after_invalidation(self, tracked: Tracked, database: Database) -> None:
        with tracked.engine.connect() as connection:
            connection.invalidate()
            state = tracked.agree(out=0, idle=0)
            assert state.closed.invalidated == 1
            connection.rollback()
            connection.execute(text("SELECT 1"))
            tracked.agree(out=1, idle=0)
            tracked.agrees_with_server(database)
        tracked.agree(out=0, idle=1)

    def test_after_soft_invalidation(
        self, tracked: Tracked, database: Database
    ) -> None:
        raw = tracked.engine.raw_connection()
        raw.invalidate(soft=True)
        tracked.agree(out=1, idle=0)
        raw.close()
        tracked.agree(out=0, idle=1)
        with tracked.engine.connect():
            tracked.agree(out=1, idle=0)
            tracked.agrees_with_server(database)

    def test_after_detaching(self, tracked: Tracked, database: Database) -> None:
        with tracked.engine.connect() as connection:
            connection.detach()
            tracked.agree(out=0, idle=0)
            tracked.agrees_with_server(database, but=1)
            assert connection.scalar(text("SELECT 1")) == 1
            with tracked.engine.connect():
                tracked.agree(out=1, idle=0)
        tracked.agree(out=0, idle=1)
        tracked.agrees_with_server(database)

    def test_after_a_disposal_of_idle_connections(
        self, tracked: Tracked, database: Database
    ) -> None:
        for connection in [tracked.engine.connect() for _ in range(2)]:
            connection.close()
        tracked.agree(out=0, idle=2)
        tracked.engine.dispose()
        tracked.agree(out=0, idle=0)
        tracked.agrees_with_server(database)

    def test_after_a_disposal_with_one_out(
        self, tracked: Tracked, database: Database
    ) -> None:
        connection = tracked.engine.connect()
        tracked.engine.dispose()
        state = shown(tracked.app)
        assert outs(state) == [True]
        with tracked.engine.connect():
            assert outs(shown(tracked.app)) == [True, True]
        connection.close()
        tracked.agree(out=0, idle=1)
        tracked.agrees_with_server(database)

    def test_after_a_connect_that_failed(self, tracked: Tracked) -> None:
        def fail(*_: object) -> None:
            raise ConnectionError("no route")

        event.listen(tracked.engine, "do_connect", fail, once=True)
        with pytest.raises(ConnectionError):
            tracked.engine.connect()
        time.sleep(FIRST_PAUSE)  # nobody may try again sooner
        with tracked.engine.connect():
            tracked.agree(out=1, idle=0)
        tracked.agree(out=0, idle=1)

    def test_after_a_connect_listener_that_failed(
        self, tracked: Tracked, database: Database
    ) -> None:
        def fail(*_: object) -> None:
            raise ValueError("refused")

        event.listen(tracked.engine, "connect", fail, once=True)
        with pytest.raises(ValueError, match="refused"):
            tracked.engine.connect()
        with tracked.engine.connect():
            state = tracked.agree(out=1, idle=0)
        closed = sum(getattr(state.closed, reason) for reason in get_args(CloseReason))
        assert (state.connects, closed) == (1, 0)
        tracked.agrees_with_server(database)

    def test_after_a_lost_connection(self, served_database: Database) -> None:
        tracked = Tracked(served_database.url, pool_size=2)
        with tracked.engine.connect() as connection:
            (slot,) = shown(tracked.app).connections
            assert slot.server_id is not None
            served_database.running_server.kill_session(slot.server_id)
            with pytest.raises(sqlalchemy.exc.DBAPIError):
                connection.execute(text("SELECT 1"))
        state = tracked.agree(out=0, idle=0)
        assert state.closed.dead == 1
        with tracked.engine.connect():
            tracked.agree(out=1, idle=0)
            tracked.agrees_with_server(served_database)
        tracked.engine.dispose()

    def test_after_a_collection_gave_it_back(self, tracked: Tracked) -> None:
        kept = [tracked.engine.connect()]
        kept.append(kept)  # type: ignore[arg-type] # a cycle, on purpose
        tracked.agree(out=1, idle=0)
        del kept
        gc.collect()
        tracked.agree(out=0, idle=1)


class TestHolders:
    def test_a_slot_tells_who_has_it(self, sqlite_url: URL) -> None:
        with Shop(sqlite_url) as shop:
            seen: list[PoolStatus] = []

            @shop.route
            def view() -> str:
                with shop.engine.connect():
                    seen.append(shown(shop.app))
                return "seen"

            shop.client.get("/view")
            (slot,) = seen[0].holders
            assert slot.endpoint == "view"
            assert slot.site is not None
            assert f"server/{Path(__file__).name}:" in slot.site
            assert slot.thread == threading.current_thread().name

    def test_a_thread_with_a_long_name_has_the_beginning_of_it(
        self, sqlite_url: URL
    ) -> None:
        tracked = Tracked(sqlite_url)

        def look() -> str | None:
            with tracked.engine.connect():
                (slot,) = shown(tracked.app).connections
                assert isinstance(slot, Holder)
                return slot.thread

        name = "a thread with a name that is longer than the slot"
        with ThreadPoolExecutor(1, name) as executor:
            assert executor.submit(look).result(10) == name[:MAX_THREAD]
        tracked.engine.dispose()


class TestPoolsThatKeepTheirClass:
    @pytest.mark.parametrize(
        ("pool_class", "idle"), [(pool.NullPool, 0), (pool.SingletonThreadPool, 1)]
    )
    def test_their_connections_are_listed(
        self, sqlite_url: URL, pool_class: type[pool.Pool], idle: int
    ) -> None:
        tracked = Tracked(sqlite_url, poolclass=pool_class)
        with tracked.engine.connect():
            assert outs(shown(tracked.app)) == [True]
        assert outs(shown(tracked.app)) == [False] * idle
        assert tracked.tracker.out == {}
        tracked.engine.dispose()
        assert shown(tracked.app).connections == ()

    @pytest.mark.parametrize("pool_class", [pool.NullPool, pool.SingletonThreadPool])
    def test_a_detached_connection_is_not_listed(
        self, sqlite_url: URL, pool_class: type[pool.Pool]
    ) -> None:
        tracked = Tracked(sqlite_url, poolclass=pool_class)
        with tracked.engine.connect() as connection:
            connection.detach()
            assert tracked.tracker.out == {}
            assert shown(tracked.app).connections == ()
            assert connection.scalar(text("SELECT 1")) == 1
        assert shown(tracked.app).connections == ()

    @pytest.mark.parametrize("pool_class", [pool.NullPool, pool.SingletonThreadPool])
    def test_an_invalidated_connection_is_not_listed(
        self, sqlite_url: URL, pool_class: type[pool.Pool]
    ) -> None:
        tracked = Tracked(sqlite_url, poolclass=pool_class)
        with tracked.engine.connect() as connection:
            connection.invalidate()
            state = shown(tracked.app)
            assert state.connections == ()
            assert state.closed.dead == 1
        tracked.engine.dispose()

    @pytest.mark.parametrize(
        "pool_class", [pool.NullPool, pool.SingletonThreadPool, pool.StaticPool]
    )
    def test_their_leaks_come_back(
        self, sqlite_url: URL, pool_class: type[pool.Pool]
    ) -> None:
        options = {"poolclass": pool_class}
        with Shop(sqlite_url, SQLALCHEMY_ENGINE_OPTIONS=options) as shop:

            @shop.route
            def misuse() -> str:
                connection = shop.keep(shop.engine.connect())
                connection.execute(text("INSERT INTO item (name) VALUES ('stray')"))
                return "taken"

            shop.client.get("/misuse")
            assert shop.tracker.figures.counts["leaks"] == 1
            with pytest.raises(sqlalchemy.exc.SQLAlchemyError):
                shop.kept[0].execute(COUNT)  # type: ignore[attr-defined] # a connection
            Witness(shop).assert_nothing_left()

    def test_an_inner_context_leaves_the_connection_that_its_thread_shares(
        self, sqlite_url: URL
    ) -> None:
        """A SingletonThreadPool hands out one and the same again."""
        options = {"poolclass": pool.SingletonThreadPool}
        with Shop(sqlite_url, SQLALCHEMY_ENGINE_OPTIONS=options) as shop:

            @shop.route
            def view() -> str:
                with shop.engine.connect() as connection:
                    with shop.app.app_context():
                        shop.keep(shop.engine.connect())
                    return str(connection.scalar(COUNT))

            assert shop.client.get("/view").text == "1"

    def test_a_static_pool_remembers_only_its_last_checkout(
        self, sqlite_url: URL
    ) -> None:
        tracked = Tracked(sqlite_url, poolclass=pool.StaticPool)
        with tracked.app.app_context():
            from flask_poolguard.tracking.current_scope import current_scope

            for _ in range(50):
                with tracked.engine.connect():
                    pass
            scope = current_scope()
            assert scope is not None
            assert len(scope.checkouts) <= 1
        tracked.engine.dispose()

    def test_an_in_memory_database_lives_on_after_a_leak(self) -> None:
        with Shop(URL.create("sqlite")) as shop:

            @shop.route
            def misuse() -> str:
                shop.keep(shop.engine.connect())
                return "taken"

            shop.client.get("/misuse")
            with shop.app.app_context():
                assert shop.db.session.scalar(COUNT) == 1


@pytest.mark.stress
class TestManyThreads:
    THREADS = 32
    REQUESTS = 25

    def test_the_counters_add_up_in_the_end(self, database: Database) -> None:
        size: dict[str, Any] = {
            "POOLGUARD_POOL_SIZE": 4,
            "POOLGUARD_MAX_OVERFLOW": 4,
            "POOLGUARD_POOL_TIMEOUT": 60,
        }
        with Shop(database.url, **size) as shop:
            shop.app.logger.disabled = True
            logging.getLogger("flask_poolguard").disabled = True
            before = shown(shop.app)
            self.add_views(shop)
            paths = ("tidy", "leak", "fail", "invalidate", "twice")
            checkouts = {"tidy": 1, "leak": 1, "fail": 1, "invalidate": 1, "twice": 2}
            plan = [
                random.Random(number).choices(paths, k=self.REQUESTS)
                for number in range(self.THREADS)
            ]

            def visit(steps: list[str]) -> None:
                client = shop.app.test_client()
                for path in steps:
                    client.get(f"/{path}").close()

            try:
                with ThreadPoolExecutor(self.THREADS) as executor:
                    for each in [executor.submit(visit, steps) for steps in plan]:
                        each.result(100)
            finally:
                shop.app.logger.disabled = False
                logging.getLogger("flask_poolguard").disabled = False
            assert shop.out() == 0
            assert shop.tracker.out == {}
            assert not shop.tracker.left_behind
            state = shown(shop.app)
            took = sum(checkouts[path] for steps in plan for path in steps)
            assert state.checkouts == (before.checkouts or 0) + took
            asked = [path for steps in plan for path in steps]
            assert state.leaks == asked.count("leak")
            assert state.closed.invalidated == asked.count("invalidate")
            assert state.timeouts == 0
            assert state.waiting == state.unlisted_out == 0
            closed = sum(
                getattr(state.closed, reason) for reason in get_args(CloseReason)
            )
            assert state.holders == ()
            assert state.connects == closed + len(state.connections)
            assert 4 <= (state.peak_checked_out or 0) <= 8
            shop.kept.clear()

    def add_views(self, shop: Shop) -> None:
        """Serve tidy and untidy views, each with a known number of checkouts."""

        @shop.route
        def tidy() -> str:
            return str(shop.db.session.scalar(COUNT))

        @shop.route
        def leak() -> str:
            shop.keep(shop.engine.connect()).scalar(COUNT)
            return "taken"

        @shop.route
        def fail() -> str:
            shop.db.session.scalar(COUNT)
            raise ZeroDivisionError

        @shop.route
        def invalidate() -> str:
            with shop.engine.connect() as connection:
                connection.invalidate()
            return "invalid"

        @shop.route
        def twice() -> str:
            for _ in range(2):
                shop.db.session.scalar(COUNT)
                shop.db.session.commit()
            return "twice"


class TestCollections:
    """A garbage collection may give a connection back anywhere, even in the books."""

    @pytest.fixture
    def collecting(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
        """Collect garbage whenever the state file is written, under all locks."""
        add_region = StateFile.add_region
        collected: list[int] = []

        class CollectingView:
            def __init__(self, view: View) -> None:
                self.view = view

            def __setitem__(self, place: slice, data: bytes) -> None:
                collected.append(gc.collect())
                self.view[place] = data

        def collecting_region(self: StateFile, slots: int) -> tuple[int, View]:
            offset, view = add_region(self, slots)
            return offset, CollectingView(view)

        monkeypatch.setattr(StateFile, "add_region", collecting_region)
        gc.collect()
        gc.freeze()  # what is there already need not be looked at each time
        yield collected
        gc.unfreeze()

    def test_it_neither_deadlocks_nor_spoils_the_figures(
        self, collecting: list[int], sqlite_url: URL
    ) -> None:
        tracked = Tracked(sqlite_url, pool_size=1, max_overflow=9)
        gc.disable()
        try:
            for _ in range(20):
                leave_garbage(tracked.engine)
                with tracked.engine.connect():
                    leave_garbage(tracked.engine)
                tracked.tracker.figures.count("timeouts")
        finally:
            gc.enable()
        gc.collect()
        assert any(collecting)
        idle = tracked.engine.pool.checkedin()  # type: ignore[attr-defined] # a QueuePool's
        state = tracked.agree(out=0, idle=idle)
        assert state.timeouts == 20
        assert state.checkouts == 60
        assert state.connects == (state.closed.overflow or 0) + idle
        tracked.engine.dispose()

    def test_threads_and_collections_at_once_end_with_nothing_out(
        self, collecting: list[int], sqlite_url: URL
    ) -> None:
        tracked = Tracked(sqlite_url, pool_size=1, max_overflow=-1)

        def work(_: int) -> None:
            for _ in range(5):
                leave_garbage(tracked.engine)
                with tracked.engine.connect():
                    pass

        with ThreadPoolExecutor(8) as executor:
            list(executor.map(work, range(8)))
        gc.collect()
        idle = tracked.engine.pool.checkedin()  # type: ignore[attr-defined] # a QueuePool's
        state = tracked.agree(out=0, idle=idle)
        assert state.checkouts == 80
        tracked.engine.dispose()


def leave_garbage(engine: Engine) -> None:
    """Leave a connection in a cycle, for the collector to find."""
    cycle: list[Any] = [engine.connect()]
    cycle.append(cycle)


class TestAbandonedConnections:
    """`Engine.dispose(close=False)` forgets a pool that may have idle connections."""

    # Within a ring of garbage a socket may be finalised before what would close it.
    @pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
    def test_they_end_with_their_pool_and_are_counted(self, database: Database) -> None:
        tracked = Tracked(database.url)
        for _ in range(3):
            with tracked.engine.connect(), tracked.engine.connect():
                pass
            tracked.engine.dispose(close=False)
            gc.collect()  # the pool and its records form rings
        with tracked.engine.connect():
            pass
        state = tracked.agree(out=0, idle=1)
        tracked.agrees_with_server(database)
        assert (state.connects, state.closed.closed) == (7, 6)
        tracked.engine.dispose()


class TestMapping:
    @pytest.fixture
    def mapped(self, tracked: Tracked) -> Tracked:
        """Return books whose file lies in memory."""
        if not isinstance(tracked.tracker.region._view, Map):
            pytest.skip("this machine keeps no state files in memory")
        return tracked

    @pytest.mark.usefixtures("state_files_on_disk")
    def test_a_file_on_a_disk_is_not_mapped(self, tracked: Tracked) -> None:
        assert not isinstance(tracked.tracker.region._view, Map)
        with tracked.engine.connect():
            tracked.agree(out=1, idle=0)

    def test_a_file_in_memory_is_written_without_a_system_call(
        self, mapped: Tracked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for is_known in (False, True):  # the line, of which the file has the name
            if is_known:
                monkeypatch.delattr(os, "pwrite")
            with mapped.engine.connect():
                mapped.agree(out=1, idle=0)
            mapped.agree(out=0, idle=1)

    def test_it_is_read_only_to_everybody_else(self, tracked: Tracked) -> None:
        assert tracked.tracker.region is not None  # made with the first event
        path = tracked.app.extensions["poolguard"].app_tracker.path
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o400

    @pytest.mark.process
    def test_a_child_does_not_keep_the_lock(self, mapped: Tracked) -> None:
        path = mapped.app.extensions["poolguard"].app_tracker.path
        inode = os.stat(path).st_ino
        child = os.fork()
        if child == 0:
            code = 99
            with contextlib.suppress(BaseException):
                links = [
                    f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")
                ]
                there = [os.stat(each) for each in links if os.path.exists(each)]
                code = sum(each.st_ino == inode for each in there)
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


class TestMemory:
    def test_the_books_keep_neither_app_nor_engine_alive(self, sqlite_url: URL) -> None:
        tracked = Tracked(sqlite_url)
        with tracked.app.app_context(), tracked.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        tracked.engine.dispose()
        app, engine = weakref.ref(tracked.app), weakref.ref(tracked.engine)
        del tracked, connection
        gc.collect()
        assert app() is None
        assert engine() is None

    def test_requests_leave_nothing_of_the_guard_behind(self, sqlite_url: URL) -> None:
        from flask_poolguard.tracking.checkout import Checkout
        from flask_poolguard.tracking.scope import Scope

        def alive() -> int:
            gc.collect()
            found = (Checkout, Scope)
            return sum(isinstance(each, found) for each in gc.get_objects())

        with Shop(sqlite_url) as shop:

            @shop.route
            def view() -> str:
                with shop.app.app_context():
                    shop.keep(shop.engine.connect())
                return str(shop.db.session.scalar(COUNT))

            @shop.route
            def stream() -> Iterator[str]:
                connection = shop.engine.connect()
                yield str(connection.scalar(COUNT))

            shop.client.get("/view")
            before = alive()
            for _ in range(20):
                assert shop.client.get("/view").text == "1"
                assert shop.client.get("/stream").text == "1"
            shop.kept.clear()
            shop.client.get("/view")  # ends the last stream, which nobody closed
            shop.kept.clear()
            assert alive() <= before

    def test_a_long_lived_context_remembers_nothing_of_what_came_back(
        self, sqlite_url: URL
    ) -> None:
        from flask_poolguard.tracking.current_scope import current_scope

        tracked = Tracked(sqlite_url)
        with tracked.app.app_context():
            for _ in range(100):
                with tracked.engine.connect():
                    pass
            scope = current_scope()
            assert scope is not None
            assert scope.checkouts == set()
            assert tracked.tracker.out == {}
        tracked.engine.dispose()


@pytest.mark.usefixtures("state_files_on_disk")
class TestTroubleWithTheFile:
    """Nothing of it may reach the app: at most one warning."""

    def serve(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> list[str]:
        """Serve some requests; return what was warned of."""
        for _ in range(5):
            assert shop.client.get("/count").text == "1"
        return [r.getMessage() for r in caplog.records if r.name == "flask_poolguard"]

    @pytest.fixture
    def shop(self, sqlite_url: URL) -> Iterator[Shop]:
        """Run an app with a state file."""
        with Shop(sqlite_url) as shop:

            @shop.route
            def count() -> str:
                return str(shop.db.session.scalar(COUNT))

            assert shop.client.get("/count").text == "1"
            assert self.file(shop).exists()
            yield shop

    def file(self, shop: Shop) -> Path:
        """Return the worker's state file."""
        return Path(shop.app.extensions["poolguard"].app_tracker.path)

    @pytest.mark.parametrize("size", [0, 100, 5000])
    def test_it_is_truncated(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, size: int
    ) -> None:
        os.truncate(self.file(shop), size)
        assert len(self.serve(shop, caplog)) <= 1

    def test_it_is_removed(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        self.file(shop).unlink()
        assert len(self.serve(shop, caplog)) <= 1

    def test_its_folder_is_removed(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.file(shop).unlink()
        self.file(shop).parent.rmdir()
        assert len(self.serve(shop, caplog)) <= 1

    def test_its_folder_is_gone_when_a_worker_starts(
        self, sqlite_url: URL, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("not a folder")
        folder = str(tmp_path / "file" / "state")
        with Shop(sqlite_url, POOLGUARD_STATE_DIR=folder) as shop:

            @shop.route
            def count() -> str:
                return str(shop.db.session.scalar(COUNT))

            (warning,) = self.serve(shop, caplog)
            assert "POOLGUARD_STATE_DIR" in warning
            assert folder in warning

    FULL = """
        import logging, resource, sys
        import flask, sqlalchemy, flask_poolguard
        from flask_poolguard.state import memory_map

        memory_map._is_in_memory = lambda fd: False
        logging.basicConfig(format="LOGGED %(message)s")
        app = flask.Flask("full")
        engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.QueuePool)
        flask_poolguard.PoolGuard(app).register(engine)

        @app.get("/")
        def view():
            with engine.connect() as connection:
                return str(connection.scalar(sqlalchemy.text("SELECT 42")))

        def no_more_room():
            # Every write then fails, as on a full disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

        if sys.argv[1] == "before":
            no_more_room()
        client = app.test_client()
        print(client.get("/").text)
        if sys.argv[1] == "later":
            no_more_room()
        for _ in range(5):
            sys.stderr.write(client.get("/").text + "\\n")
    """

    @pytest.mark.process
    @pytest.mark.parametrize("moment", ["before", "later"])
    def test_its_disk_is_full(self, moment: str) -> None:
        """Pipes have no size, so the program can still tell how it went."""
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(self.FULL), moment],
            # Coverage would have its own trouble with the full disk.
            env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        lines = result.stderr.splitlines()
        assert lines.count("42") == 5
        assert len([line for line in lines if line.startswith("LOGGED")]) == 1
        assert "Traceback" not in result.stderr

    def test_many_different_endpoints_do_not_fill_it(self, sqlite_url: URL) -> None:
        tracked = Tracked(sqlite_url)

        def take(number: int) -> None:
            @tracked.app.get(f"/{number}", endpoint=f"{'e' * 300}{number}")
            def view() -> str:
                with tracked.engine.connect():
                    return "taken"

        for number in range(400):
            take(number)
        client = tracked.app.test_client()
        for number in range(400):
            assert client.get(f"/{number}").text == "taken"
        with tracked.engine.connect():
            state = shown(tracked.app)
            assert state.bind == "default"
            assert outs(state) == [True]
        tracked.engine.dispose()


@pytest.mark.process
class TestEndOfTheProcess:
    def test_the_file_goes_with_its_worker(
        self, sqlite_url: URL, state_dir: Path
    ) -> None:
        program = textwrap.dedent(
            f"""
            import flask, sqlalchemy, flask_poolguard, os
            app = flask.Flask("ends")
            engine = sqlalchemy.create_engine({str(sqlite_url)!r})
            flask_poolguard.PoolGuard(app).register(engine)
            with app.app_context(), engine.connect():
                print(len(os.listdir({str(state_dir / "flask-poolguard")!r})))
            """
        )
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert result.stdout == "1\n"
        (left,) = os.listdir(state_dir / "flask-poolguard")
        assert left.endswith(".totals")  # what it had counted
