"""What another user of the machine can and cannot do (docs/security.md)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from flask_poolguard import PoolGuard
from flask_poolguard.budget.shared_file import BudgetError, BudgetFile, file_name
from flask_poolguard.metrics import render
from flask_poolguard.metrics.output_file import UnwritableFile, write
from flask_poolguard.pool.housekeeper import Housekeeper
from flask_poolguard.state import ended_workers, recycle_requests, totals_file
from flask_poolguard.state.directory import request_path, trust
from flask_poolguard.state.ended_workers import LOCK_NAME, standstill, sweep
from flask_poolguard.state.reader import read_workers
from flask_poolguard.state.recycle_requests import Inbox
from flask_poolguard.state.totals_file import Ended
from tests.support.forking import MAY_DEADLOCK
from tests.support.other_user import (
    as_other,
    error_of_other,
    locked_by_other,
    reachable_folder,
)
from tests.support.statuses import WORKER

BUDGET = file_name(["shop", "server", "user"])
# More than any file of the guard's may have; takes no room on the disk.
HUGE = 1 << 33

pytestmark = pytest.mark.filterwarnings(MAY_DEADLOCK)


class Deployment:
    """A worker of this process with all the files that there can be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = Flask("shop", root_path=str(folder))
        self.app.config["POOLGUARD_STATE_DIR"] = str(folder)
        self.engine = create_engine(f"sqlite:///{folder}/shop.sqlite")
        PoolGuard(self.app).register(self.engine)
        with self.app.app_context(), self.engine.connect():
            pass
        recycle_requests.ask(str(self.state), "default", recycle_requests.new_number())
        totals_file.write(str(folder), Ended("shop").plus(WORKER, "1-00000000.state"))
        BudgetFile.open(str(folder), BUDGET)
        with standstill(str(folder)):
            pass

    @property
    def state(self) -> Path:
        """The worker's state file."""
        return Path(self.app.extensions["poolguard"].app_tracker.path)

    @property
    def files(self) -> list[Path]:
        """All files of the guard's."""
        return [each for each in self.folder.iterdir() if "sqlite" not in each.name]

    def close(self) -> None:
        """End it."""
        self.engine.dispose()
        self.app.extensions["poolguard"].app_tracker.remove_file()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder made by hand, as with ``mkdir``: all may look into it."""
    with reachable_folder() as found:
        yield found


@pytest.fixture
def deployment(folder: Path, threadless: Housekeeper) -> Iterator[Deployment]:
    """Give a worker in that folder."""
    made = Deployment(folder)
    yield made
    made.close()


class TestFiles:
    def test_are_private(self, deployment: Deployment) -> None:
        modes = {
            each.suffix: stat.S_IMODE(each.stat().st_mode) for each in deployment.files
        }
        assert modes == {
            ".state": 0o400,
            ".recycle": 0o600,
            ".totals": 0o600,
            ".budget": 0o600,
            ".lock": 0o600,
        }

    def test_are_private_under_any_umask(self, folder: Path) -> None:
        before = os.umask(0)
        try:
            made = Deployment(folder / "within")
        finally:
            os.umask(before)
        made.close()
        assert stat.S_IMODE((folder / "within").stat().st_mode) == 0o700
        assert all(not each.stat().st_mode & 0o077 for each in made.files)

    def test_hold_no_statement(self, deployment: Deployment) -> None:
        with deployment.app.app_context(), deployment.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 'hush-hush'")
            with contextlib.suppress(DBAPIError):
                connection.exec_driver_sql("SELECT hush_hush FROM hush_hush")
            for tracker in deployment.app.extensions["poolguard"].app_tracker.trackers:
                tracker.tend()
            for each in deployment.files:
                assert b"SELECT" not in each.read_bytes()
                assert b"hush" not in each.read_bytes()

    def test_cannot_be_opened_by_others(self, deployment: Deployment) -> None:
        for each in deployment.files:
            for flags in (os.O_RDONLY, os.O_WRONLY):
                error = error_of_other(lambda: os.open(each, flags))  # noqa: B023 (called at once)
                assert error == "PermissionError", each

    def test_cannot_be_removed_or_added_by_others(self, deployment: Deployment) -> None:
        new = deployment.folder / "1-00000000.state"
        assert error_of_other(deployment.state.unlink) == "PermissionError"
        assert error_of_other(new.touch) == "PermissionError"

    def test_show_their_names_where_the_folder_can_be_read(
        self, deployment: Deployment
    ) -> None:
        names = as_other(lambda: os.listdir(deployment.folder))
        assert deployment.state.name in names

    def test_show_nothing_to_others_in_the_folder_that_is_made(
        self, folder: Path
    ) -> None:
        made = Deployment(folder / "within")
        try:
            assert error_of_other(lambda: os.listdir(made.folder)) == "PermissionError"
        finally:
            made.close()


class TestTheLock:
    def test_of_a_folder_that_others_can_read_is_not_theirs(
        self, deployment: Deployment
    ) -> None:
        folder = str(deployment.folder)
        with locked_by_other(folder), standstill(folder) as still:
            assert still.locked == (folder,)

    def test_of_such_a_folder_lets_a_worker_end(self, folder: Path) -> None:
        made = Deployment(folder)
        with locked_by_other(folder):
            made.close()
            assert not made.state.exists()

    def test_of_a_private_folder_leaves_no_file(self, folder: Path) -> None:
        folder.chmod(0o700)
        with standstill(str(folder)) as still:
            assert still.locked == (str(folder),)
        assert list(folder.iterdir()) == []

    def test_keeps_others_of_this_user_out(self, deployment: Deployment) -> None:
        with standstill(str(deployment.folder)):
            fd = os.open(deployment.state, os.O_RDONLY)
            assert not ended_workers.retire(fd, str(deployment.state), 0.0)
            os.close(fd)

    def test_that_cannot_be_had_at_all_is_done_without(self, folder: Path) -> None:
        (folder / LOCK_NAME).mkdir()
        with standstill(str(folder)) as still:
            assert (still.folders, still.locked) == ((str(folder),), ())


def put_fifo(path: Path) -> None:
    """Put something there that blocks who reads it."""
    os.mkfifo(path)


def put_folder(path: Path) -> None:
    """Put a folder there."""
    path.mkdir()


def put_socket(path: Path) -> None:
    """Put a socket there."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def put_link(path: Path) -> None:
    """Put a symbolic link to something precious there."""
    precious_beside(path).write_text("precious")
    path.symlink_to(precious_beside(path))


def put_huge(path: Path) -> None:
    """Put a file there that is far too long, and takes no room."""
    path.touch(0o600)
    os.truncate(path, HUGE)


def put_garbage(path: Path) -> None:
    """Put a file there that is torn."""
    path.touch(0o600)
    path.write_bytes(b'{"app":"shop","folded":["1-0')


def precious_beside(path: Path) -> Path:
    """Return what a link leads to."""
    return path.with_name("precious")


Put = Callable[[Path], None]
THINGS = [put_fifo, put_folder, put_socket, put_link, put_huge, put_garbage]
in_place_of = pytest.mark.parametrize("put", THINGS)


def is_open(path: Path) -> bool:
    """Tell whether this process has a file open."""
    opened = Path("/proc/self/fd").iterdir()
    return any(os.path.realpath(each) == str(path) for each in opened)


def replace(path: Path, put: Put) -> None:
    """Put something else in a file's place."""
    path.unlink(missing_ok=True)
    put(path)


class TestOtherThingsInPlaceOf:
    @in_place_of
    def test_a_state_file(self, deployment: Deployment, put: Put) -> None:
        replace(deployment.folder / "1-00000000.state", put)
        sweep(str(deployment.folder))
        found = read_workers(str(deployment.folder))
        assert [each.pid for each in found.workers] == [os.getpid()]
        assert render(deployment.app)

    @in_place_of
    def test_the_totals(
        self, deployment: Deployment, put: Put, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = Path(totals_file.path_of(str(deployment.folder), "shop"))
        replace(path, put)
        for _ in range(3):
            assert "poolguard_checkouts_total" in render(deployment.app)
        assert not is_open(path)
        told = [each for each in caplog.messages if "counters of metrics begin" in each]
        assert len(told) == 1
        if put is put_link:
            assert precious_beside(path).read_text() == "precious"

    @in_place_of
    def test_a_request(
        self, deployment: Deployment, put: Put, caplog: pytest.LogCaptureFixture
    ) -> None:
        replace(Path(request_path(str(deployment.state))), put)
        inbox = Inbox()
        for _ in range(3):
            assert inbox.look(str(deployment.state)) == {}
        assert "is ignored" in caplog.text

    @in_place_of
    def test_a_budget(self, folder: Path, put: Put) -> None:
        path = folder / BUDGET
        put(path)
        if put is put_garbage:  # one that was never filled
            BudgetFile.open(str(folder), BUDGET)
            return
        with pytest.raises(BudgetError, match=BUDGET):
            BudgetFile.open(str(folder), BUDGET)
        if put is put_link:
            assert precious_beside(path).read_text() == "precious"

    @pytest.mark.parametrize("put", [put_fifo, put_folder, put_socket, put_link])
    def test_an_output_file(self, folder: Path, put: Put) -> None:
        path = folder / "shop.prom"
        put(path)
        with pytest.raises(UnwritableFile, match=r"shop\.prom"):
            write(str(path), "a 1\n")
        assert path.is_symlink() or not path.is_file()
        if put is put_link:
            assert precious_beside(path).read_text() == "precious"

    def test_an_output_file_that_has_a_second_name(self, folder: Path) -> None:
        path, other = folder / "shop.prom", folder / "other"
        other.write_text("precious")
        path.hardlink_to(other)
        write(str(path), "a 1\n")
        assert (path.read_text(), other.read_text()) == ("a 1\n", "precious")

    def test_the_lock(self, folder: Path) -> None:
        put_link(folder / LOCK_NAME)
        with standstill(str(folder)) as still:
            assert still.locked == ()


class TestTornTotals:
    @given(data=st.data())
    @settings(
        deadline=None,
        max_examples=100,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_never_stop_a_scrape(
        self, deployment: Deployment, data: st.DataObject
    ) -> None:
        """Cut off, or with some bytes exchanged."""
        folder = str(deployment.folder)
        path = Path(totals_file.path_of(folder, "shop"))
        totals_file.write(folder, Ended("shop").plus(WORKER, "1-00000000.state"))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        assert "poolguard_checkouts_total" in render(deployment.app)


class TestFolders:
    def test_of_another_user_are_left_alone(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As a name in /dev/shm that another took first."""
        taken = folder / "taken"
        folder.chmod(0o1777)
        as_other(lambda: taken.mkdir(0o777))
        made = Flask("shop")
        made.config["POOLGUARD_STATE_DIR"] = str(taken)
        engine = create_engine("sqlite://")
        PoolGuard(made).register(engine)
        with made.app_context(), engine.connect():
            pass
        assert list(taken.iterdir()) == []
        assert f"{taken} belongs to user 12345, not to 0" in caplog.text
        assert "The app goes on" in caplog.text
        engine.dispose()

    def test_of_another_user_are_named(self, folder: Path) -> None:
        taken = folder / "taken"
        folder.chmod(0o1777)
        as_other(lambda: taken.mkdir(0o777))
        (problem,) = read_workers(str(taken)).problems
        assert problem.reason == f"{taken} belongs to user 12345, not to 0"

    def test_behind_a_link_of_another_user_are_left_alone(self, folder: Path) -> None:
        own, taken = folder / "own", folder / "taken"
        own.mkdir(0o700)
        folder.chmod(0o1777)
        as_other(lambda: taken.symlink_to(own))
        with pytest.raises(BudgetError, match="symbolic link"):
            BudgetFile.open(str(taken), BUDGET)
        assert list(own.iterdir()) == []

    def test_that_all_may_read_still_work(self, deployment: Deployment) -> None:
        trust(str(deployment.folder))
        found = read_workers(str(deployment.folder))
        assert (len(found.workers), found.problems) == (1, ())


@pytest.fixture(autouse=True)
def log_all(caplog: pytest.LogCaptureFixture) -> None:
    """Show what the guard logs."""
    caplog.set_level(logging.WARNING, "flask_poolguard")
