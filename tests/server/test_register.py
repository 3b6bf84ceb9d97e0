"""Engines that come and go: their names, their memory, their part of the state file."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, Engine, StaticPool, create_engine, text
from sqlalchemy.exc import StatementError

from flask_poolguard import PoolGuard, SetupError
from flask_poolguard.engines import Guarded
from flask_poolguard.pool import GuardedPool
from flask_poolguard.state.file_format import REGIONS_OFFSET, region_size
from flask_poolguard.state.pool_region import PoolRegion
from flask_poolguard.state.process import this_process
from flask_poolguard.state.reader import read_own
from flask_poolguard.state.writer import StateFile
from flask_poolguard.tracking.pool_figures import PoolFigures
from flask_poolguard.tracking.pool_tracker import PoolTracker
from tests.conftest import Database
from tests.support.guarded_app import make_app, warnings_of
from tests.support.statuses import POOL


class Tenants:
    """A guarded app with an engine for each tenant."""

    def __init__(self, **config: Any) -> None:
        self.app = Flask("shop")
        self.app.config.update(config)
        self.guard = PoolGuard(self.app)
        with self.app.app_context():
            pass

    def register(self, url: Any, name: str, **options: Any) -> Engine:
        engine = create_engine(url, **options)
        self.guard.register(engine, name=name)
        return engine

    def use(self, engine: Engine) -> None:
        with self.app.app_context(), engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    @property
    def guarded(self) -> list[Guarded]:
        found: list[Guarded] = self.app.extensions["poolguard"].engines
        return found

    @property
    def path(self) -> str:
        path: str | None = self.app.extensions["poolguard"].app_tracker.path
        assert path is not None
        return path

    def shown(self) -> list[str]:
        """Return the binds that other processes see."""
        state = read_own(self.path)
        assert state is not None
        return sorted(pool.bind for pool in state.pools)


@pytest.fixture
def tenants() -> Tenants:
    return Tenants()


class TestNames:
    def test_an_engine_takes_the_place_of_one_that_was_disposed_of(
        self, tenants: Tenants, database: Database
    ) -> None:
        old = tenants.register(database.url, "a")
        tenants.use(old)
        old.dispose()
        new = tenants.register(database.url, "a")
        tenants.use(new)
        assert [each.engine for each in tenants.guarded] == [new]
        assert tenants.shown() == ["a"]
        report = tenants.guard.report(tenants.app)
        (worker,) = report.workers
        assert [pool.bind for pool in worker.pools] == ["a"]
        new.dispose()

    def test_tenants_that_are_evicted_come_back(self, database: Database) -> None:
        app, guard = Flask("shop"), PoolGuard()
        guard.init_app(app)
        engines: dict[str, Engine] = {}

        @app.get("/<tenant>")
        def view(tenant: str) -> str:
            if tenant not in engines:
                while len(engines) >= 2:
                    engines.pop(next(iter(engines))).dispose()
                engines[tenant] = create_engine(database.url)
                guard.register(engines[tenant], name=tenant, app=app)
            with engines[tenant].connect() as connection:
                return str(connection.scalar(text("SELECT 1")))

        client = app.test_client()
        assert [client.get(f"/{each}").status_code for each in "abcab"] == [200] * 5
        for engine in engines.values():
            engine.dispose()

    def test_an_engine_takes_the_place_of_one_that_is_gone(
        self, tenants: Tenants, sqlite_url: Any
    ) -> None:
        tenants.use(tenants.register(sqlite_url, "a"))
        gc.collect()
        new = tenants.register(sqlite_url, "a")
        assert [each.engine for each in tenants.guarded] == [new]
        new.dispose()

    def test_a_connect_after_the_disposal_keeps_the_name(
        self, tenants: Tenants, database: Database
    ) -> None:
        old = tenants.register(database.url, "a")
        old.dispose()
        tenants.use(old)
        with pytest.raises(SetupError, match=r"under the name 'a'\. Call unreg"):
            tenants.register(database.url, "a")
        old.dispose()

    def test_the_same_engine_again_is_nothing_new(
        self, tenants: Tenants, sqlite_url: Any
    ) -> None:
        engine = tenants.register(sqlite_url, "a")
        pool = engine.pool
        tenants.guard.register(engine, name="a")
        assert engine.pool is pool
        with pytest.raises(SetupError, match=r"as bind 'a'; .* unregister\('a'\)"):
            tenants.guard.register(engine, name="b")
        assert len(tenants.guarded) == 1

    def test_an_engine_of_the_extension_keeps_its_name(self, sqlite_url: Any) -> None:
        app = make_app(sqlite_url)
        guard = PoolGuard()
        guard._apps.add(app)
        with app.app_context():
            app.extensions["sqlalchemy"].engine.dispose()
            with pytest.raises(SetupError, match="another engine"):
                guard.register(create_engine(sqlite_url))

    def test_before_an_app_a_name_is_taken_once(self, sqlite_url: Any) -> None:
        guard, engine = PoolGuard(), create_engine(sqlite_url)
        guard.register(engine, name="a")
        guard.register(engine, name="a")
        other = create_engine(sqlite_url)
        with pytest.raises(SetupError, match="This PoolGuard has another engine"):
            guard.register(other, name="a")
        guard.unregister(engine)
        guard.register(other, name="a")
        app = Flask("shop")
        guard.init_app(app)
        with app.app_context():
            (found,) = app.extensions["poolguard"].engines
        assert found.engine is other
        with pytest.raises(SetupError, match="has no 'b' to unregister; it has 'a'"):
            guard.unregister("b")

    def test_an_engine_that_is_gone_before_the_look_is_not_missed(
        self, sqlite_url: Any
    ) -> None:
        app, guard = Flask("shop"), PoolGuard()
        guard.register(create_engine(sqlite_url), name="a")
        gc.collect()
        guard.init_app(app)
        with app.app_context():
            assert app.extensions["poolguard"].engines == []

    def test_each_of_two_apps_has_names_of_its_own(self, sqlite_url: Any) -> None:
        guard, apps = PoolGuard(), [Flask("shop"), Flask("admin")]
        engines = [create_engine(sqlite_url) for _ in apps]
        for app, engine in zip(apps, engines, strict=True):
            guard.init_app(app)
            guard.register(engine, name="a", app=app)
            with app.app_context():
                pass
        with pytest.raises(SetupError, match=r"to look in with unregister\(…, app=app"):
            guard.unregister("a")
        guard.unregister("a", app=apps[0])
        left = [app.extensions["poolguard"].engines for app in apps]
        assert [len(each) for each in left] == [0, 1]

    def test_threads_register_at_the_same_time(
        self, tenants: Tenants, database: Database
    ) -> None:
        engines: dict[str, Engine] = {}
        refused: list[str] = []
        barrier = threading.Barrier(8)

        def run(number: int) -> None:
            barrier.wait()
            for each in range(10):
                name = f"tenant {(number + each) % 10}"
                engine = create_engine(database.url)
                try:
                    tenants.guard.register(engine, name=name)
                except SetupError:
                    refused.append(name)
                else:
                    engines[name] = engine
                    tenants.use(engine)

        threads = [threading.Thread(target=run, args=(each,)) for each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 70
        assert {each.bind: each.engine for each in tenants.guarded} == engines
        assert tenants.shown() == sorted(engines)
        for engine in engines.values():
            engine.dispose()


class TestUnregister:
    def test_it_leaves_the_report_and_its_pool_goes_on(
        self, tenants: Tenants, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = tenants.register(database.url, "a")
        tenants.use(engine)
        tenants.guard.unregister(engine)
        assert tenants.guarded == []
        assert tenants.shown() == []
        assert tenants.guard.report(tenants.app).servers == ()
        kept: list[Connection] = []
        with tenants.app.app_context():
            kept.append(engine.connect())
        with pytest.raises(StatementError, match="was taken back by Flask-PoolGuard"):
            kept[0].execute(text("SELECT 1"))
        assert "did not give back a connection of bind 'a'" in caplog.text
        assert isinstance(engine.pool, GuardedPool)
        assert engine.pool.checkedout() == 0
        engine.dispose()

    @pytest.mark.parametrize("kind", [None, StaticPool])
    def test_it_may_come_back_under_another_name(
        self, tenants: Tenants, database: Database, kind: Any
    ) -> None:
        options = {} if kind is None else {"poolclass": kind}
        engine = tenants.register(database.url, "a", **options)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            tenants.guard.unregister("a")
            assert tenants.shown() == []
            tenants.guard.register(engine, name="b")
        tenants.use(engine)
        assert tenants.shown() == ["b"]
        tenants.guarded[0].tracker.tend()
        state = read_own(tenants.path)
        assert state is not None
        assert state.pools[0].unlisted_out == 0
        assert tenants.guarded[0].tracker.figures.counts["leaks"] == 0
        engine.dispose()

    def test_what_is_not_known_is_told_with_what_is(
        self, tenants: Tenants, sqlite_url: Any
    ) -> None:
        engine = tenants.register(sqlite_url, "a")
        with pytest.raises(SetupError, match=r"'shop' has no 'b' to .* it has 'a'"):
            tenants.guard.unregister("b")
        with pytest.raises(SetupError, match="has no engine Engine"):
            tenants.guard.unregister(create_engine(sqlite_url))
        engine.dispose()


@pytest.fixture
def little_to_collect() -> Iterator[None]:
    """Let collections look only at what a test makes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive(kind: type) -> int:
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


# Of a pool with SQLAlchemy's sizes.
SLOTS = 2 * (5 + 10)


@pytest.mark.usefixtures("little_to_collect")
class TestMemory:
    @pytest.mark.usefixtures("threadless")  # whose round holds a tenant for a moment
    def test_a_thousand_tenants_that_come_and_go_cost_none(
        self, tenants: Tenants, sqlite_url: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        kinds = (Engine, PoolTracker, GuardedPool, PoolRegion, PoolFigures)
        before = [alive(kind) for kind in kinds]
        sizes = set()
        for number in range(1000):
            engine = tenants.register(sqlite_url, f"a tenant with number {number}")
            tenants.use(engine)
            assert f"a tenant with number {number}" in tenants.shown()
            engine.dispose()
            del engine
            if number % 10 == 9:  # as the interpreter does it in its own time
                gc.collect()
            sizes.add(os.stat(tenants.path).st_size)
        # Between two collections ten at most are there, and the one in use.
        assert max(sizes) <= REGIONS_OFFSET + 11 * region_size(SLOTS)
        gc.collect()
        tenants.app.extensions["poolguard"].app_tracker.tend()  # as once a second
        assert tenants.shown() == []
        tenants.app.extensions["poolguard"].guarded.forget_gone()  # as once a minute
        assert [alive(kind) for kind in kinds] == before
        assert tenants.app.extensions["poolguard"].app_tracker.trackers == ()
        assert warnings_of(caplog) == []

    def test_tenants_under_a_name_that_comes_back_need_no_collection(
        self, tenants: Tenants, sqlite_url: Any
    ) -> None:
        gc.disable()
        try:
            for number in range(266):
                engine = tenants.register(sqlite_url, f"tenant {number % 5}")
                tenants.use(engine)
                engine.dispose()
            assert len(tenants.shown()) == 5
            assert len(tenants.guarded) == 5
        finally:
            gc.enable()
        state = tenants.app.extensions["poolguard"].app_tracker._file
        assert len(state._regions) <= 6

    @pytest.mark.parametrize("kind", [None, StaticPool])
    def test_nothing_keeps_an_engine_alive(
        self, tenants: Tenants, database: Database, kind: Any
    ) -> None:
        options = {} if kind is None else {"poolclass": kind}
        engine = tenants.register(database.url, "a", **options)
        tenants.use(engine)
        engine.dispose()
        reference = weakref.ref(engine)
        del engine
        for tracker in tenants.app.extensions["poolguard"].app_tracker.trackers:
            tracker.tend()
        gc.collect()
        assert reference() is None
        assert tenants.guarded == []


class TestRegions:
    """A region is hidden with its pool, and serves a later one that fits."""

    def region(self, file: StateFile, bind: str, size: int) -> PoolRegion:
        region = PoolRegion(file, 2 * size, lambda: None)
        assert region.show_status(replace(POOL, bind=bind))
        return region

    def binds(self, file: StateFile) -> list[str]:
        state = read_own(file.path)
        assert state is not None
        return [pool.bind for pool in state.pools]

    @pytest.fixture
    def file(self, state_dir: Path) -> Any:
        file = StateFile(str(state_dir), this_process("shop", "/shop"))
        yield file
        file.remove()

    @pytest.mark.parametrize("on_disk", [False, True])
    def test_a_smaller_pool_reuses_it(
        self, file: StateFile, on_disk: bool, request: pytest.FixtureRequest
    ) -> None:
        if on_disk:
            request.getfixturevalue("state_files_on_disk")
        large, other = self.region(file, "large", 9), self.region(file, "other", 2)
        assert self.binds(file) == []  # neither says that it is ready
        large.publish()
        other.publish()
        assert self.binds(file) == ["large", "other"]
        size = os.stat(file.path).st_size
        large.close()
        assert self.binds(file) == ["other"]
        del large
        small = self.region(file, "small", 4)
        assert self.binds(file) == ["other"]
        small.publish()
        assert self.binds(file) == ["other", "small"]
        assert os.stat(file.path).st_size == size
        larger = self.region(file, "larger", 5)
        larger.publish()
        assert self.binds(file) == ["larger", "other", "small"]

    def test_what_is_written_after_the_end_goes_nowhere(self, file: StateFile) -> None:
        old = self.region(file, "old", 2)
        old.publish()
        old.close()
        old.show_status(replace(POOL, bind="later"))
        # A thread in the middle of a write has the page, so its region is not free yet.
        new = self.region(file, "new", 2)
        assert new._offset != old._offset

    def test_a_reader_sees_whole_pools_or_none_at_each_byte(
        self, file: StateFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = self.region(file, "old", 3)
        old.publish()
        seen: set[tuple[str, ...]] = set()
        write = StateFile._write

        def byte_by_byte(self_: StateFile, offset: int, data: bytes) -> None:
            for at in range(len(data)):
                write(self_, offset + at, data[at : at + 1])
                if at % 97 == 0 or len(data) < 40:
                    seen.add(tuple(self.binds(file)))

        monkeypatch.setattr(StateFile, "_write", byte_by_byte)
        old.close()
        del old
        new = self.region(file, "new", 3)
        new.publish()
        assert seen == {(), ("new",)}

    def test_a_child_frees_nothing_of_its_parents(
        self, file: StateFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        section = self.region(file, "a", 2)
        section.publish()
        file._pid += 1  # as in a child that has not noticed yet
        section.close()
        del section
        assert self.binds(file) == ["a"]
