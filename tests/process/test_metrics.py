"""Metrics of real workers, while they work, end and are killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import URL

from flask_poolguard.metrics import render
from flask_poolguard.state import totals_file
from flask_poolguard.state.ended_workers import sweep
from tests.apps import desk
from tests.conftest import Database
from tests.support.app_server import REPOSITORY
from tests.support.desk import DeskServer, ask, environment, run_pool
from tests.support.scrapes import Scrape, parse
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

MakeDesk = Callable[[URL], Flask]
CHECKOUTS = "poolguard_checkouts_total"


@pytest.fixture
def make_desk(monkeypatch: pytest.MonkeyPatch) -> MakeDesk:
    """Return a function that makes the app here, as a process that only looks."""

    def make(url: URL) -> Flask:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        app = desk.create_app()
        with app.app_context():
            pass
        return app

    return make


@contextmanager
def scraping(app: Flask) -> Iterator[list[Scrape]]:
    """Scrape all the time; yield what was found so far."""
    found: list[Scrape] = []
    errors: list[BaseException] = []
    is_over = threading.Event()

    def scrape() -> None:
        while not is_over.is_set():
            try:
                found.append(parse(render(app)))
            except BaseException as error:
                errors.append(error)
                raise

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join(30)
    assert errors == []


def kill_one(server: DeskServer) -> None:
    """Kill a worker (SIGKILL), and wait for the one that gunicorn starts instead."""
    victim = min(server.worker_pids())
    os.kill(victim, signal.SIGKILL)

    def is_replaced() -> bool:
        return len(server.worker_pids() - {victim}) == server.workers

    wait_until(is_replaced, seconds=30, what="a worker in place of the killed one")


class TestScrapesOfWorkers:
    """gunicorn's workers, seen from any of them and from outside."""

    def test_any_worker_tells_of_all(self, tmp_path: Path, database: Database) -> None:
        with DeskServer(tmp_path, environment(database.url), workers=3) as server:
            server.wake()
            sent = 20
            for _ in range(sent):
                server.get("/query")
            seen: dict[int, set[float]] = {}
            for _ in range(12):
                found = parse(server.get("/metrics")[1])
                assert found.value("poolguard_workers") == 3
                seen.setdefault(3, set()).add(found.value(CHECKOUTS))
            (checkouts,) = seen[3]
            assert checkouts >= sent + 3
            idle = found.value("db_client_connection_count", state="idle")
            assert 1 <= idle <= 3
            assert found.value("db_client_connection_max") == 3 * 15

    def test_counters_never_fall_when_workers_end_or_are_killed(
        self, tmp_path: Path, database: Database, make_desk: MakeDesk
    ) -> None:
        """And none is lost: each of the requests made one checkout."""
        app, sent = make_desk(database.url), 0
        with (
            DeskServer(tmp_path, environment(database.url), workers=3) as server,
            scraping(app) as scrapes,
        ):
            for _ in range(6):
                for _ in range(10):
                    assert server.get("/query")[0] == 200
                    sent += 1
                kill_one(server)
                for _ in range(10):
                    assert server.get("/query")[0] == 200
                    sent += 1
                server.reload()
        last = parse(render(app))
        assert last.value(CHECKOUTS) == sent
        assert last.value("poolguard_workers") == 0
        assert len(scrapes) > 20
        for earlier, later in zip(scrapes, [*scrapes[1:], last], strict=True):
            assert later.falls_behind(earlier) == {}

    def test_those_that_wait_are_seen(
        self, tmp_path: Path, mariadb_url: URL, make_desk: MakeDesk
    ) -> None:
        app = make_desk(mariadb_url)
        env = environment(
            mariadb_url,
            FLASK_POOLGUARD_POOL_SIZE="1",
            FLASK_POOLGUARD_MAX_OVERFLOW="0",
        )
        with DeskServer(tmp_path, env, threads=4) as server:
            server.hold(1)
            name = "db_client_connection_pending_requests"
            with server.in_background("/query"):
                wait_until(
                    lambda: parse(render(app)).value(name) == 1,
                    seconds=30,
                    what="a request that waits",
                )
                used = parse(render(app)).value(
                    "db_client_connection_count", state="used"
                )
                assert used == 1
            found = parse(render(app))
            assert found.value("poolguard_waits_total") == 1
            assert found.value("db_client_connection_wait_time_seconds_sum") > 0


class TestCommand:
    """``flask pool metrics``."""

    @pytest.mark.quick
    def test_prints_and_writes_the_same(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(served_database.url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            path = tmp_path / "shop.prom"
            printed = parse(run_pool(env, "metrics"))
            assert run_pool(env, "metrics", "--output", str(path)) == ""
            written = parse(path.read_text())
            assert written.growing == printed.growing
            assert printed.value("poolguard_workers") == 1
            # It takes no connection of its own, and is no worker.
            assert printed.value("poolguard_connections_opened_total") == 1
            assert not any(name == "poolguard_server_up" for name, _ in printed.samples)
            asked = parse(run_pool(env, "metrics", "--servers"))
            assert asked.value("poolguard_server_up") == 1
            assert asked.value("poolguard_server_connections_max") > 1

    def test_works_without_workers(self, mariadb_url: URL) -> None:
        found = parse(run_pool(environment(mariadb_url), "metrics"))
        assert found.value("poolguard_workers") == 0

    def test_says_why_a_file_cannot_be_written(
        self, tmp_path: Path, sqlite_url: URL
    ) -> None:
        (tmp_path / "shop.prom").symlink_to(tmp_path / "elsewhere")
        for path, reason in (
            ("shop.prom", "is a symbolic link"),
            ("none/shop.prom", "No such file or directory"),
        ):
            env = environment(sqlite_url)
            done = ask(env, "metrics", "--output", str(tmp_path / path))
            assert (done.returncode, done.stdout) == (2, "")
            assert reason in done.stderr
        assert not (tmp_path / "elsewhere").exists()


class TestCollector:
    """The collector beside that of several processes."""

    PROGRAM = """
import sys
from flask import Flask
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import create_engine
from flask_poolguard import PoolGuard
from flask_poolguard.metrics import Collector

app = Flask("shop", root_path=sys.argv[1])
engine = create_engine(f"sqlite:///{sys.argv[1]}/shop.sqlite")
PoolGuard(app).register(engine)
Counter("orders", "Orders").inc()
with app.app_context(), engine.connect():
    pass
registry = CollectorRegistry()
MultiProcessCollector(registry)
Collector(app, registry)
print(generate_latest(registry).decode())
"""

    def test_stands_beside_multiprocess_collector(self, tmp_path: Path) -> None:
        folder = tmp_path / "multiproc"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", self.PROGRAM, str(tmp_path)],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        found = parse(done.stdout)
        assert found.value("orders_total") == 1
        assert found.value(CHECKOUTS) == 1


class TestFoldingIn:
    """Processes that find the files of killed workers."""

    # Uses a connection, and leaves its file behind as a killed worker does.
    LEAVES = """
import os, shutil, sys
from flask import Flask
from sqlalchemy import create_engine
from flask_poolguard import PoolGuard

folder, count = sys.argv[1], int(sys.argv[2])
app = Flask("shop", root_path=folder)
app.config["POOLGUARD_STATE_DIR"] = f"{folder}/state"
engine = create_engine(f"sqlite:///{folder}/shop.sqlite")
PoolGuard(app).register(engine)
with app.app_context(), engine.connect():
    pass
path = app.extensions["poolguard"].app_tracker.path
for number in range(count - 1):
    shutil.copy(path, f"{folder}/state/1-{number:08x}.state")
os.kill(os.getpid(), 9)
"""
    SWEEPS = """
import sys
from flask_poolguard.state.ended_workers import sweep
print("ready", flush=True)
sys.stdin.readline()
sweep(sys.argv[1] + "/state")
"""

    @pytest.fixture
    def left(self, tmp_path: Path) -> int:
        """Leave files of killed workers; return how many."""
        count = 200
        subprocess.run(
            [sys.executable, "-c", self.LEAVES, str(tmp_path), str(count)],
            cwd=REPOSITORY,
            check=False,
        )
        assert len(list((tmp_path / "state").iterdir())) == count
        return count

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """Start a process that folds them in once it is told to."""
        process = subprocess.Popen(
            [sys.executable, "-c", self.SWEEPS, str(folder)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def checkouts(self, folder: Path) -> int:
        """Return how many checkouts are kept."""
        found = totals_file.read(str(folder / "state"), "shop").deployments
        return sum(pool.checkouts or 0 for each in found for pool in each.pools)

    def test_at_once_count_each_once(self, tmp_path: Path, left: int) -> None:
        processes = [self.start(tmp_path) for _ in range(4)]
        for each in processes:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        for each in processes:
            with each:
                assert each.wait(60) == 0
        (path,) = (tmp_path / "state").iterdir()
        assert path.suffix == ".totals"
        assert self.checkouts(tmp_path) == left

    def test_that_are_killed_in_the_middle_count_each_once(
        self, tmp_path: Path, left: int
    ) -> None:
        state = tmp_path / "state"
        for part in range(1, 8):
            process = self.start(tmp_path)
            assert process.stdin is not None
            with process:
                process.stdin.write("\n")
                process.stdin.flush()
                most = left - part * left // 10
                self.wait_for_fewer(state, most)
                process.kill()
        sweep(str(state))
        assert self.checkouts(tmp_path) == left
        (path,) = state.iterdir()
        assert path.suffix == ".totals"

    def wait_for_fewer(self, state: Path, most: int) -> None:
        """Wait until no more files than so many are left."""
        wait_until(lambda: len(list(state.iterdir())) <= most)

    ORPHANS = """
import ctypes, time
with app.app_context(), engine.connect():
    pass
if not ctypes.CDLL(None).fork():
    print(os.getpid(), flush=True)
    time.sleep(60)
os.kill(os.getpid(), 9)
"""

    def test_count_a_killed_worker_whose_child_keeps_its_lock(
        self, tmp_path: Path
    ) -> None:
        """A child that no hook of Python's has seen."""
        program = self.LEAVES.rpartition("os.kill")[0] + self.ORPHANS
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), "1"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            try:
                process.wait(30)
                sweep(str(tmp_path / "state"))
            finally:
                os.kill(child, signal.SIGKILL)
        assert self.checkouts(tmp_path) == 2


def leaves_nothing(app: Flask, scrapes: int) -> None:
    """Scrape so often, and check that descriptors and objects are as few as before."""
    fds = Path("/proc/self/fd")
    for _ in range(20):  # what is loaded and cached at first
        render(app)
    gc.collect()
    before = len(list(fds.iterdir())), len(gc.get_objects())
    for _ in range(scrapes):
        render(app)
    gc.collect()
    after = len(list(fds.iterdir())), len(gc.get_objects())
    assert after[0] == before[0]
    assert after[1] - before[1] < 200


class TestManyScrapes:
    """What scrapes leave behind in the process that makes them."""

    def test_leave_nothing(self, sqlite_url: URL, make_desk: MakeDesk) -> None:
        leaves_nothing(make_desk(sqlite_url), 300)

    @pytest.mark.soak
    def test_of_ten_thousand_leave_nothing(
        self, tmp_path: Path, mariadb_url: URL, make_desk: MakeDesk
    ) -> None:
        app = make_desk(mariadb_url)
        with DeskServer(tmp_path, environment(mariadb_url), workers=4) as server:
            server.wake()
            leaves_nothing(app, 10_000)
