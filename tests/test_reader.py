"""Reading workers' state files, whatever is in them or in their folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.pool.housekeeper import Housekeeper
from flask_poolguard.state import reader
from flask_poolguard.state.decoding import PoolState, decode
from flask_poolguard.state.header import Damaged, OtherLayout
from flask_poolguard.state.layout import (
    BLOCK,
    DIRECTORY_OFFSET,
    NAMES,
    QUEUE,
    REGIONS_OFFSET,
    SLOT,
    STRINGS_OFFSET,
    USAGE,
    USE,
)
from flask_poolguard.state.reader import Search, Taken, read_workers

QUEUE_OFFSET = REGIONS_OFFSET + BLOCK.size
USAGE_OFFSET = QUEUE_OFFSET + QUEUE.size
NAMES_OFFSET = USAGE_OFFSET + USAGE.size
FIRST_SLOT = NAMES_OFFSET + NAMES.size
# Where a file is not empty.
PLACES = [
    *range(400),
    *range(DIRECTORY_OFFSET, DIRECTORY_OFFSET + 32),
    *range(STRINGS_OFFSET, STRINGS_OFFSET + 300),
    *range(REGIONS_OFFSET, FIRST_SLOT + 7 * SLOT.size),
]


class Worker:
    """An app in this process that has a pool and a state file."""

    def __init__(self, folder: Path, name: str = "shop", size: int = 5) -> None:
        folder.mkdir(exist_ok=True)
        self.app = Flask(name, root_path=str(folder))
        url = f"sqlite:///{folder / 'shop.sqlite'}"
        self.engine: Engine = create_engine(url, pool_size=size, max_overflow=2)
        PoolGuard(self.app).register(self.engine)

    @property
    def file(self) -> Path:
        """The worker's state file."""
        return Path(str(self.app.extensions["poolguard"].app_tracker.path))

    def use(self, connections: int = 1) -> None:
        """Open so many connections at a time, and give them back."""
        with self.app.app_context():
            opened = [self.engine.connect() for _ in range(connections)]
            for connection in opened:
                connection.close()

    def read(self) -> Search:
        """Read what there is of this app."""
        return read_workers(None, self.app.name, self.app.root_path)

    def overwrite(self, offset: int, data: bytes) -> None:
        """Damage the file, without replacing it: it stays locked."""
        self.file.chmod(0o600)  # else nobody but its worker may write to it
        with self.file.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def replace(self, old: str, new: str) -> None:
        """Replace a string in the header by another one of the same length."""
        header = self.file.read_bytes()[:4096]
        assert header.count(old.encode()) == 1, header
        self.overwrite(header.index(old.encode()), new.encode().ljust(len(old)))

    def close(self) -> None:
        """End it."""
        self.engine.dispose()
        self.app.extensions["poolguard"].app_tracker.remove_file()


@pytest.fixture
def worker(tmp_path: Path, threadless: Housekeeper) -> Iterator[Worker]:
    """Give an app that has used five connections and holds none, and whose file
    nobody mends behind the test's back.
    """
    made = Worker(tmp_path / "shop")
    made.use(5)
    yield made
    made.close()


def only_pool(search: Search) -> PoolState:
    """Return the one pool of the one worker that was found."""
    assert search.problems == ()
    (state,) = search.workers
    (pool,) = state.pools
    return pool


class TestALiveWorker:
    def test_is_read_with_all_it_wrote(self, worker: Worker) -> None:
        with worker.app.test_request_context(), worker.engine.connect():
            search = worker.read()
        (state,) = search.workers
        pool = only_pool(search)
        assert state.header.pid == os.getpid()
        assert state.header.app == "shop"
        assert (pool.bind, pool.pool_class) == ("default", "GuardedPool")
        assert (pool.size, pool.max_overflow, pool.counted) == (5, 2, True)
        assert [slot.out for slot in pool.slots].count(True) == 1
        assert len(pool.slots) == 5
        assert pool.slot_checkouts == 6
        (held,) = [slot for slot in pool.slots if slot.out]
        assert held.thread == "MainThread"
        assert held.site is not None
        assert held.site.partition(":")[0].endswith("test_reader.py")
        assert 0 <= state.now - held.since < 60

    def test_is_found_in_the_configured_folder_only(
        self, worker: Worker, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        search = read_workers(str(elsewhere), "shop", worker.app.root_path)
        assert search == Search((str(elsewhere),), (), ())

    def test_is_found_through_a_symbolic_link_to_its_release(
        self, worker: Worker, tmp_path: Path
    ) -> None:
        current = tmp_path / "current"
        current.symlink_to(worker.app.root_path)
        assert len(read_workers(None, "shop", str(current)).workers) == 1

    def test_of_another_app_is_left_out(self, worker: Worker) -> None:
        root_path = worker.app.root_path
        assert read_workers(None, "till", root_path).workers == ()
        assert read_workers(None, "shop", f"{root_path}2").workers == ()

    def test_is_never_misread_while_it_works(self, worker: Worker) -> None:
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                worker.use(2)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            pools = [only_pool(worker.read()) for _ in range(300)]
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert all(len(pool.slots) <= 7 for pool in pools)
        checkouts = [pool.slot_checkouts for pool in pools]
        assert checkouts == sorted(checkouts)
        named = [slot for pool in pools for slot in pool.slots if slot.thread]
        assert all(slot.out and slot.site and slot.endpoint for slot in named)


class TestOneThatIsNotAlive:
    def test_is_ignored_when_nobody_holds_the_lock(self, worker: Worker) -> None:
        worker.file.with_name("1-dead.state").write_bytes(worker.file.read_bytes())
        worker.file.with_name("2-rubbish.state").write_bytes(b"rubbish")
        worker.file.with_name("3-empty.state").touch()
        assert len(worker.read().workers) == 1
        assert worker.read().problems == ()

    @pytest.mark.parametrize("name", ["start_ticks", "boot_id"])
    def test_is_ignored_when_its_pid_means_another_process(
        self, worker: Worker, name: str
    ) -> None:
        (state,) = worker.read().workers
        was = getattr(state.header, name)
        worker.replace(f'"{name}": "{was}"', f'"{name}": "{"9" * len(was)}"')
        assert worker.read() == Search(worker.read().folders, (), ())

    def test_is_alive_in_another_container_by_its_lock_alone(
        self, worker: Worker
    ) -> None:
        (state,) = worker.read().workers
        namespace = state.header.pid_namespace
        worker.replace(f'"{namespace}"', '"' + "9" * len(namespace) + '"')
        worker.replace(
            f'"start_ticks": "{state.header.start_ticks}"', '"start_ticks": "1"'
        )
        assert len(worker.read().workers) == 1


@pytest.mark.usefixtures("state_files_on_disk")
class TestADamagedFile:
    @pytest.mark.parametrize(
        "size",
        [
            0,
            5,
            100,
            DIRECTORY_OFFSET,
            DIRECTORY_OFFSET + 8,
            STRINGS_OFFSET + 3,
            REGIONS_OFFSET - 1,
            REGIONS_OFFSET + 10,
            FIRST_SLOT,
            FIRST_SLOT + 2 * SLOT.size,
        ],
    )
    def test_that_was_cut_off_shows_no_figures(self, worker: Worker, size: int) -> None:
        os.truncate(worker.file, size)
        for _ in range(2):
            search = worker.read()
            assert [pool for state in search.workers for pool in state.pools] == []
            (problem,) = search.problems
            assert (problem.kind, problem.pid) == ("file", os.getpid())
            assert problem.path == str(worker.file)
            # The worker goes on and makes the file grow again, with holes.
            worker.use(5)

    @pytest.mark.parametrize(
        ("offset", "data"),
        [
            (0, b"rubbish"),
            (8, b"\xff" * 8),
            (16, b'{"pid": "one"'),
            (16, b"\xff\xfe"),
            (DIRECTORY_OFFSET, b"\xff" * 16),
            (DIRECTORY_OFFSET + 16, b"\x01" * 16),
            (STRINGS_OFFSET, b"\xff" * 100),
            (REGIONS_OFFSET, b"\xff" * 8),
            (REGIONS_OFFSET, bytes(BLOCK.size)),
            (REGIONS_OFFSET + 8, b"\xff" * 16),
            (QUEUE_OFFSET, b"\x07"),
            (QUEUE_OFFSET, bytes(QUEUE.size)),
            (QUEUE_OFFSET + 8, b"\xff" * 8),
            (QUEUE_OFFSET + 16, b"\xff" * 7 + b"\x7e"),
            (USAGE_OFFSET, b"\x07"),
            (USAGE_OFFSET, bytes(USAGE.size)),
            (USAGE_OFFSET + 8, b"\xff" * 8),
            (USAGE_OFFSET + 8 + 8 * len(USE), b"\xff" * 8),
            (USAGE_OFFSET + USAGE.size - 16, b"\xff" * 8),
            (NAMES_OFFSET, b"\x07\x07"),
            (NAMES_OFFSET, bytes(NAMES.size)),
            (NAMES_OFFSET + 8, b"\xff" * 2),
            (NAMES_OFFSET + 10, b"\xff" * 4),
            (NAMES_OFFSET + 8, b"\x00" * 2),
            (FIRST_SLOT, b"\x07"),
            (FIRST_SLOT + 8, b"\x09"),
            (FIRST_SLOT + 24, b"\xff" * 8),
            (FIRST_SLOT + 48, b"\xff" * 4),
        ],
    )
    def test_is_named_as_a_problem(
        self, worker: Worker, offset: int, data: bytes
    ) -> None:
        worker.overwrite(offset, data)
        assert [each.kind for each in worker.read().problems] == ["file"]

    def test_that_is_absurdly_long_is_not_read(self, worker: Worker) -> None:
        os.truncate(worker.file, 1 << 40)
        (problem,) = worker.read().problems
        assert "more than any state file" in problem.reason

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    @given(data=st.data())
    def test_raises_nothing_but_damaged_whatever_its_bytes(
        self, worker: Worker, data: st.DataObject
    ) -> None:
        content = bytearray(worker.file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(
                st.integers(0, len(content)).filter(
                    lambda at: (
                        at < 500 or not STRINGS_OFFSET + 500 < at < REGIONS_OFFSET
                    )
                )
            )
            rubbish = data.draw(st.binary(min_size=1, max_size=40))
            content[start : start + len(rubbish)] = rubbish
        with contextlib.suppress(Damaged, OtherLayout):
            decode(bytes(content))

    def test_that_is_caught_half_way_is_read_again(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = worker.file.read_bytes()[FIRST_SLOT : FIRST_SLOT + SLOT.size]
        worker.overwrite(FIRST_SLOT, b"\x07")
        pauses = []

        def finish_writing(seconds: float) -> None:
            pauses.append(seconds)
            worker.overwrite(FIRST_SLOT, whole)

        # Not in the module `time` itself, where other threads sleep.
        clock = SimpleNamespace(sleep=finish_writing, monotonic=time.monotonic)
        monkeypatch.setattr(reader, "time", clock)
        assert len(only_pool(worker.read()).slots) == 5
        assert len(pauses) == 1


class TestAnotherVersionsFile:
    def test_is_named_so(self, worker: Worker) -> None:
        worker.overwrite(7, b"\x09")
        (problem,) = worker.read().problems
        assert problem.kind == "layout"
        assert problem.reason == "layout 9, not 4"

    def test_is_named_so_even_if_its_header_cannot_be_read(
        self, worker: Worker
    ) -> None:
        worker.overwrite(7, b"\x09" + b"\xff" * 200)
        assert [each.kind for each in worker.read().problems] == ["layout"]

    def test_is_ignored_if_it_is_of_another_app(self, worker: Worker) -> None:
        worker.overwrite(7, b"\x09")
        assert read_workers(None, "till", worker.app.root_path).problems == ()


def make_fifo(path: Path, worker: Worker) -> None:
    """Make something that blocks whoever opens it without care."""
    os.mkfifo(path)


def make_link(path: Path, worker: Worker) -> None:
    """Make a link to a live worker's file."""
    path.symlink_to(worker.file)


def make_folder(path: Path, worker: Worker) -> None:
    """Make a folder with a file's name."""
    path.mkdir()


def make_unfinished(path: Path, worker: Worker) -> None:
    """Make a file as a worker has it before it gets its name."""
    path.with_name(f".{path.name}").write_bytes(b"half")


def take_by_folder(path: Path) -> None:
    """Take a folder's name as anybody can in a sticky one."""
    path.mkdir()


def take_by_link(path: Path) -> None:
    """Take it by a symbolic link, whose own owner counts."""
    path.symlink_to("/")


def take_by_file(path: Path) -> None:
    """Take it by something that is no folder at all."""
    path.touch()


class TestTheFolder:
    @pytest.mark.parametrize(
        "make", [make_fifo, make_link, make_folder, make_unfinished]
    )
    def test_may_hold_other_things(
        self, worker: Worker, make: Callable[[Path, Worker], None]
    ) -> None:
        make(worker.file.with_name("77-thing.state"), worker)
        assert only_pool(worker.read()).bind == "default"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_may_hold_another_users_file_which_is_not_believed(
        self, worker: Worker
    ) -> None:
        copy = worker.file.with_name("77-theirs.state")
        copy.write_bytes(worker.file.read_bytes())
        with copy.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.chown(copy, 12345, 12345)
            search = worker.read()
        assert len(search.workers) == 1
        (problem,) = search.problems
        assert (problem.kind, problem.pid) == ("file", 77)
        assert "12345" in problem.reason

    def test_is_not_believed_if_others_can_write_to_it(self, worker: Worker) -> None:
        folder = worker.file.parent
        folder.chmod(0o777)
        search = worker.read()
        assert search.workers == ()
        (problem,) = search.problems
        assert (problem.kind, problem.path) == ("folder", str(folder))
        assert "chmod 0700" in problem.reason

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
    def test_is_not_believed_if_it_is_another_users(self, worker: Worker) -> None:
        folder = worker.file.parent
        os.chown(folder, 12345, 12345)
        try:
            search = read_workers(str(folder), "shop", worker.app.root_path)
        finally:
            os.chown(folder, 0, 0)
        assert search.workers == ()
        assert search.taken == ()
        (problem,) = search.problems
        assert "12345" in problem.reason

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("make", [take_by_folder, take_by_link, take_by_file])
    def test_of_the_defaults_hides_nobody_if_another_user_took_its_name(
        self,
        worker: Worker,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        make: Callable[[Path], None],
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        taken = tmp_path / "flask-poolguard-0"
        make(taken)
        os.chown(taken, 12345, 12345, follow_symlinks=False)
        search = worker.read()
        assert len(search.workers) == 1
        assert search.problems == ()
        assert search.taken == (Taken(str(taken), 12345),)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
    def test_is_a_problem_if_other_users_took_all_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "flask-poolguard").mkdir()
        os.chown(tmp_path / "flask-poolguard", 12345, 12345)
        only = [str(tmp_path / "flask-poolguard")]
        monkeypatch.setattr(reader, "candidates", lambda configured: only)
        search = read_workers(None)
        (problem,) = search.problems
        assert (problem.kind, search.taken) == ("folder", ())

    def test_may_be_a_link_of_this_user_which_is_a_problem(
        self, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        link = tmp_path / f"flask-poolguard-{os.geteuid()}"
        link.symlink_to(worker.file.parent)
        search = worker.read()
        (problem,) = search.problems
        assert (problem.kind, problem.path) == ("folder", str(link))
        assert search.taken == ()

    def test_may_be_a_file(self, worker: Worker, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        search = read_workers(str(path), "shop", worker.app.root_path)
        assert [each.kind for each in search.problems] == ["folder"]

    def test_may_be_unreadable(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with as_somebody(folder):
                folder.chmod(0o300)
                search = read_workers(name, "shop", "/shop")
        (problem,) = search.problems
        assert problem.kind == "folder"
        assert "Permission denied" in problem.reason

    def test_may_be_out_of_reach(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with as_somebody(folder):
                (folder / "within").mkdir(mode=0o700)
                folder.chmod(0)
                search = read_workers(str(folder / "within"), "shop", "/shop")
                folder.chmod(0o700)
        (problem,) = search.problems
        assert problem.kind == "folder"
        assert "Permission denied" in problem.reason


@contextlib.contextmanager
def as_somebody(folder: Path) -> Iterator[None]:
    """Be an ordinary user for a moment, who owns a folder: root may do everything."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.chown(folder, 0, 0)
