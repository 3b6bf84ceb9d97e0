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
from flask_poolguard.state.decode import decode
from flask_poolguard.state.file_format import (
    DOCUMENT_SIZE,
    HISTORY_SIZE,
    MAX_ENDPOINT,
    MAX_SITE,
    REGION,
    REGIONS_OFFSET,
    SERVED_OFFSET,
    SIZE_OFFSET,
    SLOT,
    SLOTS_OFFSET,
    OtherVersion,
    encode_endpoint,
    encode_site,
)
from flask_poolguard.state.plain import Damaged
from flask_poolguard.state.reader import read_workers
from flask_poolguard.state.search import Search, TakenFolder
from flask_poolguard.state.status import PoolStatus

DOCUMENT = REGIONS_OFFSET + REGION.size
FIRST_SLOT = REGIONS_OFFSET + SLOTS_OFFSET
# Where a file is not empty.
PLACES = [
    *range(400),
    *range(SERVED_OFFSET, DOCUMENT + 1200),
    *range(FIRST_SLOT, FIRST_SLOT + 7 * SLOT.size),
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

    def tend(self) -> None:
        """Do what the housekeeper does soon after each change."""
        for tracker in self.app.extensions["poolguard"].app_tracker.trackers:
            tracker.tend()

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


def only_pool(search: Search) -> PoolStatus:
    """Return the one pool of the one worker that was found."""
    assert search.problems == ()
    (state,) = search.workers
    (pool,) = state.pools
    return pool


class TestALiveWorker:
    def test_is_read_with_all_it_wrote(self, worker: Worker) -> None:
        worker.tend()
        with worker.app.test_request_context(), worker.engine.connect():
            search = worker.read()
        (state,) = search.workers
        pool = only_pool(search)
        assert state.pid == os.getpid()
        assert state.process.app == "shop"
        assert (pool.bind, pool.pool_class) == ("default", "GuardedPool")
        assert (pool.size, pool.max_overflow, pool.is_counted) == (5, 2, True)
        assert (pool.checked_out, pool.idle, pool.connects) == (1, 4, 5)
        assert len(pool.idle_connections) == 4
        assert pool.checkouts == 6
        (held,) = pool.holders
        assert held.thread == "MainThread"
        assert held.site is not None
        assert held.site.partition(":")[0].endswith("test_reader.py")
        assert 0 <= held.held_seconds < 60

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
        assert all(len(pool.connections) <= 7 for pool in pools)
        checkouts = [pool.checkouts or 0 for pool in pools]
        assert checkouts == sorted(checkouts)
        named = [each for pool in pools for each in pool.holders if each.thread]
        assert all(each.site and each.endpoint for each in named)


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
        was = getattr(state.process, name)
        worker.replace(f'"{name}":"{was}"', f'"{name}":"{"9" * len(was)}"')
        assert worker.read() == Search(worker.read().folders, (), ())

    def test_is_alive_in_another_container_by_its_lock_alone(
        self, worker: Worker
    ) -> None:
        (state,) = worker.read().workers
        namespace = state.process.pid_namespace
        worker.replace(f'"{namespace}"', '"' + "9" * len(namespace) + '"')
        worker.replace(
            f'"start_ticks":"{state.process.start_ticks}"', '"start_ticks":"1"'
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
            SIZE_OFFSET,
            REGIONS_OFFSET - 1,
            REGIONS_OFFSET,
            REGIONS_OFFSET + 3,
            DOCUMENT + 10,
            DOCUMENT + 300,
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
            (SIZE_OFFSET, b"\x01"),
            (REGIONS_OFFSET, b"\xff" * 4),
            (REGIONS_OFFSET, bytes(4)),
            (DOCUMENT, b"\xff" * 4),
            (DOCUMENT, bytes(16)),
            (DOCUMENT + 4, b"\x07" * 4),
            (DOCUMENT + 8, b"\x07" * 6),
            (DOCUMENT + 15, b"\x07"),
            (DOCUMENT + 16, b"[]"),
            (DOCUMENT + 400, b"\x00"),
            (FIRST_SLOT, b"\x07"),
            (FIRST_SLOT + 8, b"\x09"),
            (FIRST_SLOT + 24, b"\xff" * 8),
            (FIRST_SLOT + 40, b"\xff" * 4),
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
            start = data.draw(st.sampled_from(PLACES))
            rubbish = data.draw(st.binary(min_size=1, max_size=40))
            content[start : start + len(rubbish)] = rubbish
        with contextlib.suppress(Damaged, OtherVersion):
            decode(bytes(content), "")

    def test_is_not_believed_whichever_byte_of_its_figures_is_another(
        self, worker: Worker
    ) -> None:
        """A write that is caught half way mixes two documents."""
        content = worker.file.read_bytes()
        end = DOCUMENT + 16 + int.from_bytes(content[DOCUMENT : DOCUMENT + 4], "little")
        for place in range(DOCUMENT, end):
            other = bytearray(content)
            other[place] ^= 1
            found, reasons = decode(bytes(other), "")
            assert found.pools == ()
            assert len(reasons) == 1

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
        assert len(only_pool(worker.read()).connections) == 5
        assert len(pauses) == 1


class TestLongNames:
    def test_are_cut_where_they_tell_least(self) -> None:
        assert encode_endpoint("é" * 200) == ("é" * 64).encode()
        site = encode_site(f"{'ä' * 200}/views.py:12").decode()
        assert site.endswith("ä/views.py:12")
        assert site.startswith("…ä")
        assert MAX_SITE - 2 < len(site.encode()) <= MAX_SITE
        assert len(encode_endpoint("x" * 200)) == MAX_ENDPOINT
        assert encode_site("views.py:12") == b"views.py:12"

    def test_leave_out_leaking_lines_that_have_no_room(self, worker: Worker) -> None:
        state = worker.app.extensions["poolguard"]
        (tracker,) = state.app_tracker.trackers
        for number in range(16):
            tracker.figures.count_leak("x" * 700, f"{number}")
        tracker.tend()
        pool = only_pool(worker.read())
        assert pool.leaks == 16
        assert [each.site for each in pool.leaking_lines] == list("01234567")
        assert len(worker.file.read_bytes()) < 3 * DOCUMENT_SIZE + HISTORY_SIZE

    def test_that_have_no_room_at_all_are_told_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = Flask("shop", root_path=str(tmp_path))
        guard = PoolGuard(app)
        engine = create_engine("sqlite://")
        guard.register(engine, name="x" * DOCUMENT_SIZE)
        for _ in range(2):
            with app.app_context(), engine.connect():
                pass
            (tracker,) = app.extensions["poolguard"].app_tracker.trackers
            tracker.tend()
        (record,) = caplog.records
        assert "name and URL are too long" in record.getMessage()
        engine.dispose()


class TestAnotherVersionsFile:
    def test_is_named_so(self, worker: Worker) -> None:
        worker.overwrite(7, b"\x09")
        (problem,) = worker.read().problems
        assert problem.kind == "layout"
        assert problem.reason == "layout 9, not 6"

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
        assert search.taken == (TakenFolder(str(taken), 12345),)

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
