"""What ended workers had counted: kept once, whichever process finds their files."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.metrics.host import look, state_of
from flask_poolguard.pool.housekeeper import Housekeeper
from flask_poolguard.report.deployment import belongs, names_of
from flask_poolguard.state import ended_workers, totals_file
from flask_poolguard.state.ended_workers import standstill, sweep
from flask_poolguard.state.histogram import BUCKETS, Durations, Histogram
from flask_poolguard.state.totals import PoolTotals, totals_of
from flask_poolguard.state.totals_file import MOST_POOLS, Ended
from flask_poolguard.tracking.pool_stat import stat_of
from tests.support.statuses import POOL, WORKER

NAME = "shop"


class Folder:
    """A folder of state files, and an app of which workers lived in it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "state"
        self.root = path
        self._number = 0

    def make_app(self) -> Flask:
        """Return the app as another process has it, which has used a connection."""
        app = Flask(NAME, root_path=str(self.root))
        app.config["POOLGUARD_STATE_DIR"] = str(self.path)
        engine = create_engine(f"sqlite:///{self.root}/shop.sqlite")
        PoolGuard(app).register(engine)
        app.extensions["test_engine"] = engine
        self.use(app)
        return app

    def use(self, app: Flask) -> None:
        """Take a connection."""
        with app.app_context(), app.extensions["test_engine"].connect():
            pass
        for tracker in app.extensions["poolguard"].app_tracker.trackers:
            tracker.tend()

    def file_of(self, app: Flask) -> Path:
        """Return the state file of the app in this process."""
        return Path(app.extensions["poolguard"].app_tracker.path)

    def leave_dead(self, app: Flask, count: int = 1) -> list[Path]:
        """Leave files as of workers that were killed, each as far as the app is."""
        left = []
        for _ in range(count):
            self._number += 1
            left.append(self.path / f"1-{self._number:08x}.state")
            left[-1].write_bytes(self.file_of(app).read_bytes())
        return left

    def kept(self) -> dict[str, PoolTotals]:
        """Return what is kept of ended workers."""
        found = totals_file.read(str(self.path), NAME).deployments
        return {pool.bind: pool for each in found for pool in each.pools}

    def checkouts(self) -> int:
        """Return how many checkouts are kept."""
        return sum(each.checkouts or 0 for each in self.kept().values())


@pytest.fixture
def folder(tmp_path: Path, threadless: Housekeeper) -> Folder:
    """Give a folder that has no file yet, and no thread that works in it."""
    return Folder(tmp_path)


@pytest.fixture
def app(folder: Folder) -> Iterator[Flask]:
    """Give an app that has made a checkout, and lives."""
    made = folder.make_app()
    yield made
    made.extensions["test_engine"].dispose()
    made.extensions["poolguard"].app_tracker.remove_file()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the seconds before each look of a scrape, which are not waited for."""
    found: list[float] = []
    own, sleep = threading.get_ident(), time.sleep

    def pause(seconds: float) -> None:
        if threading.get_ident() == own:
            found.append(seconds)
        else:  # a thread in the background
            sleep(seconds)

    monkeypatch.setattr("time.sleep", pause)
    return found


def total(app: Flask) -> int | None:
    """Return the checkouts that a scrape shows."""
    return look(app, state_of(app)).totals["default"].checkouts


class TestDeadFiles:
    """Files of workers that were killed."""

    def test_count_once_and_go(self, folder: Folder, app: Flask) -> None:
        left = folder.leave_dead(app, 3)
        for _ in range(2):
            sweep(str(folder.path))
            assert folder.checkouts() == 3
        assert not any(each.exists() for each in left)
        assert folder.file_of(app).exists()

    def test_count_once_if_several_find_them_at_once(
        self, folder: Folder, app: Flask
    ) -> None:
        """Each has a lock of its own, as processes have."""
        folder.leave_dead(app, 20)
        start = threading.Barrier(6)

        def find() -> None:
            start.wait()
            sweep(str(folder.path))

        threads = [threading.Thread(target=find) for _ in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert folder.checkouts() == 20

    def test_count_once_if_their_remover_was_killed_in_between(
        self, folder: Folder, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has written the totals, and not removed the file."""
        (left,) = folder.leave_dead(app)
        with monkeypatch.context() as patch:
            patch.setattr(ended_workers, "unlink", lambda path: None)
            sweep(str(folder.path))
        assert left.exists()
        sweep(str(folder.path))
        assert not left.exists()
        assert folder.checkouts() == 1

    def test_of_workers_that_did_nothing_leave_nothing(
        self, folder: Folder, app: Flask
    ) -> None:
        app.extensions["test_engine"].dispose()
        other = Flask("idle", root_path=str(folder.root))
        other.config["POOLGUARD_STATE_DIR"] = str(folder.path)
        engine = create_engine(f"sqlite:///{folder.root}/shop.sqlite")
        PoolGuard(other).register(engine)
        with other.app_context():
            pass
        tracker = other.extensions["poolguard"].app_tracker
        tracker.show_pools()
        tracker.remove_file()
        assert list(folder.path.glob("*.totals")) == []

    def test_that_are_garbage_just_go(self, folder: Folder, app: Flask) -> None:
        (left,) = folder.leave_dead(app)
        left.write_bytes(b"PGUARD")
        sweep(str(folder.path))
        assert not left.exists()
        assert folder.checkouts() == 0

    def test_of_other_names_stay(self, folder: Folder, app: Flask) -> None:
        other = folder.path / "notes.state"
        other.write_bytes(folder.file_of(app).read_bytes())
        sweep(str(folder.path))
        assert other.exists()


class TestOwnFile:
    """The file of a worker that ends by itself."""

    def test_counts_and_goes(self, folder: Folder) -> None:
        app = folder.make_app()
        file = folder.file_of(app)
        app.extensions["poolguard"].app_tracker.remove_file()
        assert not file.exists()
        assert folder.checkouts() == 1
        durations = folder.kept()["default"].durations
        assert durations.use is not None
        assert durations.use.count == 1

    def test_is_left_to_others_while_one_of_them_does_not_let_go(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one that was stopped in the middle; the worker's end does not hang."""
        monkeypatch.setattr("flask_poolguard.tracking.app_tracker.PATIENCE", 0.01)
        app = folder.make_app()
        file = folder.file_of(app)
        fd = os.open(folder.path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            app.extensions["poolguard"].app_tracker.remove_file()
            assert file.exists()
        finally:
            os.close(fd)
        app.extensions["test_engine"].dispose()


class TestScrape:
    """A scrape while workers end."""

    def test_adds_up_those_that_live_and_those_that_ended(
        self, folder: Folder, app: Flask
    ) -> None:
        assert total(app) == 1
        folder.leave_dead(app, 2)
        assert total(app) == 3
        folder.use(app)
        assert total(app) == 4

    def test_keeps_others_from_folding_in(self, folder: Folder, app: Flask) -> None:
        left = folder.leave_dead(app)
        with standstill(str(folder.path)) as still:
            assert still.locked == (str(folder.path),)
            for each in left:
                fd = os.open(each, os.O_RDONLY)
                assert not ended_workers.retire(fd, str(each), 0.0)
                os.close(fd)
            assert folder.checkouts() == 0

    def test_does_not_fail_while_the_lock_is_not_to_be_had(
        self, folder: Folder, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ended_workers, "PATIENCE", 0.01)
        fd = os.open(folder.path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            assert total(app) == 1
        finally:
            os.close(fd)

    def test_does_not_look_again_for_what_is_no_file(
        self, folder: Folder, app: Flask, pauses: list[float]
    ) -> None:
        """A folder may have the name of a state file."""
        (folder.path / "1-00000000.state").mkdir()
        assert total(app) == 1
        assert pauses == [0]

    def test_ends_once_what_is_dead_cannot_be_removed(
        self,
        folder: Folder,
        app: Flask,
        pauses: list[float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As on a file system that was mounted read-only; it counts once."""
        folder.leave_dead(app)
        monkeypatch.setattr(ended_workers, "unlink", lambda path: None)
        assert total(app) == 2
        assert len(pauses) == 2

    def test_tells_of_a_file_that_cannot_be_read(
        self, folder: Folder, app: Flask
    ) -> None:
        """It belongs to a worker that lives, so it is not removed."""
        (left,) = folder.leave_dead(app)
        with left.open("r+b") as file:
            file.seek(16)
            file.write(b"garbage")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            found = look(app, state_of(app))
        assert found.problems == 1
        assert found.totals["default"].checkouts == 1
        assert left.exists()

    def test_counts_no_other_deployments(self, folder: Folder, app: Flask) -> None:
        """Staging has the same name, and another database."""
        worker = replace(WORKER, pools=(replace(POOL, checkouts=1000),))
        ended = Ended(NAME).plus(worker, "1-00000000.state")
        totals_file.write(str(folder.path), ended)
        assert total(app) == 1

    @pytest.mark.parametrize("default", ["sqlite://", "sqlite:////srv/other.sqlite"])
    def test_counts_all_that_counted_while_they_lived(
        self, folder: Folder, app: Flask, default: str
    ) -> None:
        """A release in another folder may share any pool, not only the first."""
        url = f"sqlite:///{folder.root}/shop.sqlite"
        first = replace(POOL, bind="first", url=default, checkouts=5)
        shared = replace(POOL, url=url, checkouts=1000)
        worker = replace(WORKER, root_path="/srv/old", pools=(first, shared))
        assert belongs(worker, names_of(state_of(app).engines), app.root_path)
        ended = Ended(NAME).plus(worker, "1-00000000.state")
        totals_file.write(str(folder.path), ended)
        assert total(app) == 1001

    def test_tells_workers_apart_that_share_only_their_first_pool(
        self, folder: Folder, app: Flask
    ) -> None:
        """One of them uses a database of this deployment, the other one does not."""
        first = replace(POOL, bind="first", url="postgresql://db/one")
        urls = [f"sqlite:///{folder.root}/shop.sqlite", "postgresql://db/two"]
        ended = Ended(NAME)
        for url in urls * 2:
            pools = (first, replace(POOL, url=url, checkouts=10))
            ended = ended.plus(replace(WORKER, pools=pools), "1-00000000.state")
        assert len(ended.deployments) == 2
        totals_file.write(str(folder.path), ended)
        assert total(app) == 21

    def test_counts_what_was_before_settings_changed(
        self, folder: Folder, app: Flask
    ) -> None:
        """The pool has another part of the state file then, with other slots."""
        for _ in range(3):
            folder.use(app)
        app.config["POOLGUARD_POOL_TIMEOUT"] = 7
        app.test_client().get("/")
        assert app.extensions["test_engine"].pool.timeout() == 7
        assert total(app) == 4
        folder.use(app)
        assert total(app) == 5
        (tracker,) = app.extensions["poolguard"].app_tracker.trackers
        assert stat_of(tracker)["checkouts"] == 5
        folder.leave_dead(app)
        assert total(app) == 10


class TestTotalsFile:
    """The file itself."""

    @given(data=st.binary(max_size=300))
    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    def test_that_is_garbage_counts_for_nothing(
        self, folder: Folder, app: Flask, data: bytes
    ) -> None:
        path = Path(totals_file.path_of(str(folder.path), NAME))
        path.write_bytes(data)
        assert total(app) == 1
        path.unlink()

    def test_that_is_garbage_is_named_in_one_line_and_replaced(
        self, folder: Folder, app: Flask, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = Path(totals_file.path_of(str(folder.path), NAME))
        path.write_bytes(b"{}")
        for _ in range(3):
            assert total(app) == 1
        (record,) = caplog.records
        assert str(path) in record.getMessage()
        folder.leave_dead(app)
        assert total(app) == 2
        assert folder.checkouts() == 1

    def test_that_is_a_link_is_not_followed(self, folder: Folder, app: Flask) -> None:
        precious = folder.root / "precious"
        precious.write_text("{}")
        path = Path(totals_file.path_of(str(folder.path), NAME))
        path.symlink_to(precious)
        folder.leave_dead(app)
        assert total(app) == 2
        assert precious.read_text() == "{}"
        assert not path.is_symlink()

    def test_is_private(self, folder: Folder, app: Flask) -> None:
        folder.leave_dead(app)
        sweep(str(folder.path))
        (path,) = folder.path.glob("*.totals")
        assert path.stat().st_mode & 0o777 == 0o600

    def test_has_no_end_of_binds(self, folder: Folder, app: Flask) -> None:
        """Those that have grown last stay."""
        ended = Ended(NAME)
        for number in range(MOST_POOLS + 50):
            worker = replace(WORKER, pools=(replace(POOL, bind=f"tenant{number}"),))
            ended = ended.plus(worker, f"1-{number:08x}.state")
        pools = [pool.bind for each in ended.deployments for pool in each.pools]
        assert len(pools) == MOST_POOLS
        assert pools[-1] == f"tenant{MOST_POOLS + 49}"
        totals_file.write(str(folder.path), ended)
        assert totals_file.read(str(folder.path), NAME).folded == ()

    def test_adds_up_workers_of_other_tenants(self) -> None:
        """What all of them have is not crowded out by tenants that come and go."""
        ended = Ended(NAME)
        for number in range(MOST_POOLS + 50):
            tenant = replace(POOL, bind=f"t{number}", url=f"postgresql://db/{number}")
            worker = replace(WORKER, pools=(POOL, tenant))
            ended = ended.plus(worker, f"1-{number:08x}.state")
        (found,) = ended.deployments
        assert len(found.pools) == MOST_POOLS
        assert len(found.names) <= MOST_POOLS
        (default,) = (each for each in found.pools if each.bind == POOL.bind)
        assert default.checkouts == (POOL.checkouts or 0) * (MOST_POOLS + 50)

    def test_of_an_older_release_is_named_in_one_line_and_replaced(
        self, folder: Folder, app: Flask, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It named the first pool only."""
        path = Path(totals_file.path_of(str(folder.path), NAME))
        old = {"root_path": "", "bind": "default", "url": "x", "pools": []}
        path.write_text(json.dumps({"app": NAME, "deployments": [old]}))
        for _ in range(2):
            assert total(app) == 1
        (record,) = caplog.records
        assert str(path) in record.getMessage()
        folder.leave_dead(app)
        assert total(app) == 2

    def test_drafts_of_killed_processes_go(self, folder: Folder, app: Flask) -> None:
        draft = folder.path / f".{'0' * 16}.{'0' * 8}.totals"
        draft.write_text("{")
        folder.leave_dead(app)
        sweep(str(folder.path))
        assert not draft.exists()


class TestSums:
    """The arithmetic of what only grows."""

    def test_know_what_one_of_two_knows(self) -> None:
        known = totals_of(POOL)
        unknown = PoolTotals(bind="default")
        assert known.plus(unknown) == unknown.plus(known) == known
        assert (known.plus(known).checkouts, known.plus(known).leaks) == (2468, 10)

    def test_add_buckets(self) -> None:
        one = Durations(use=Histogram((1,) * BUCKETS, 0.5))
        found = one.plus(one).plus(Durations(use=Histogram()))
        assert found == Durations(use=Histogram((2,) * BUCKETS, 1.0))

    @pytest.mark.parametrize("count", [1, BUCKETS - 1, BUCKETS + 1])
    def test_refuse_other_bounds(self, count: int) -> None:
        """As a release with other buckets may have left them."""
        with pytest.raises(ValueError, match="1"):
            Histogram((1,) * count)
