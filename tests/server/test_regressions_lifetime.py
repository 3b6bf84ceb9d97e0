"""How long engines, descriptors, state files and retired pools live."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, Engine, text

from flask_poolguard import PoolGuard
from flask_poolguard.state.file_format import (
    MAX_FILE_SIZE,
    MAX_SLOTS,
    REGIONS_OFFSET,
    region_size,
)
from tests.conftest import Database
from tests.support.reporting import pool_in
from tests.support.shop import Shop
from tests.support.waiting import wait_until

LOGGER = "flask_poolguard"
REPOSITORY = Path(__file__).parents[2]
DESCRIPTORS = Path("/proc/self/fd")


def make_app(url: URL, folder: Path, **config: Any) -> tuple[Flask, SQLAlchemy]:
    """Make an app as a factory does, with its state file in a folder of its own."""
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["POOLGUARD_STATE_DIR"] = str(folder)
    app.config.update(config)
    db = SQLAlchemy(app)
    PoolGuard(app)

    @app.get("/")
    def index() -> str:
        return str(db.session.scalar(text("SELECT 1")))

    return app, db


def descriptors() -> int:
    """Return how many files this process has open, 0 where nobody can tell."""
    return len(os.listdir(DESCRIPTORS)) if DESCRIPTORS.exists() else 0


# Python 3.13 warns of what the test is about: nobody disposes of the engine.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
class TestDroppedApps:
    ROUNDS = 5

    @pytest.fixture
    def dropped(self, sqlite_url: URL, tmp_path: Path) -> list[weakref.ref[Any]]:
        """Give references to apps that were used and dropped, and to their engines."""
        self.folder = tmp_path / "workers"
        gc.collect()
        self.before = descriptors()
        dropped: list[weakref.ref[Any]] = []
        for _ in range(self.ROUNDS):
            dropped += self.use_and_drop(sqlite_url)
        gc.collect()
        return dropped

    def use_and_drop(self, url: URL) -> list[weakref.ref[Any]]:
        """Make an app, send it a request, and return weak references only."""
        app, db = make_app(url, self.folder)
        assert app.test_client().get("/").text == "1"
        assert len(os.listdir(self.folder)) >= 1
        with app.app_context():
            return [weakref.ref(app), weakref.ref(db.engine), weakref.ref(db)]

    def test_they_take_their_engines_with_them(
        self, dropped: list[weakref.ref[Any]]
    ) -> None:
        assert [each() for each in dropped] == [None] * 3 * self.ROUNDS

    def test_they_take_their_state_files_with_them(
        self, dropped: list[weakref.ref[Any]]
    ) -> None:
        assert os.listdir(self.folder) == []

    @pytest.mark.skipif(not DESCRIPTORS.exists(), reason="/proc tells what is open")
    def test_they_leave_no_descriptor_open(
        self, dropped: list[weakref.ref[Any]]
    ) -> None:
        assert descriptors() == self.before


@pytest.mark.process
class TestProcessExit:
    PROGRAM = """
    import os
    import flask, sqlalchemy, flask_poolguard

    app = flask.Flask("shop")
    app.config["POOLGUARD_STATE_DIR"] = os.environ["WORKERS"]
    engine = sqlalchemy.create_engine(os.environ["SHOP_DATABASE"])
    flask_poolguard.PoolGuard(app).register(engine)
    with app.app_context(), engine.connect():
        print(len(os.listdir(os.environ["WORKERS"])))
    """

    @pytest.mark.parametrize(
        ("ending", "status"), [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)]
    )
    def test_an_app_that_is_still_alive_leaves_no_state_file(
        self, sqlite_url: URL, tmp_path: Path, ending: str, status: int
    ) -> None:
        folder = tmp_path / "workers"
        done = subprocess.run(
            [sys.executable, "-c", f"{dedent(self.PROGRAM)}{ending}"],
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "WORKERS": str(folder),
                "SHOP_DATABASE": str(sqlite_url),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (status, "1\n"), done.stderr
        (left,) = os.listdir(folder)
        assert left.endswith(".totals")  # what it had counted


class TestManyPools:
    """A state file has room for so many pools of the largest kind and no more."""

    ROOM = (MAX_FILE_SIZE - REGIONS_OFFSET) // region_size(MAX_SLOTS)
    BINDS = ROOM + 2

    @pytest.fixture
    def engines(self, sqlite_url: URL, tmp_path: Path) -> Iterator[list[Engine]]:
        """Run an app with more pools than that, and send it a request."""
        binds = {
            f"bind{number}": {
                "url": sqlite_url.set(database=str(tmp_path / f"{number}.sqlite")),
                "pool_size": MAX_SLOTS,
            }
            for number in range(self.BINDS)
        }
        self.app, db = make_app(
            sqlite_url,
            tmp_path / "workers",
            SQLALCHEMY_BINDS=binds,
            SQLALCHEMY_ENGINE_OPTIONS={"pool_size": MAX_SLOTS},
        )
        assert self.app.test_client().get("/").text == "1"
        with self.app.app_context():
            engines = list(db.engines.values())
        yield engines
        for engine in engines:
            engine.dispose()
        self.app.extensions["poolguard"].app_tracker.remove_file()

    def test_those_beyond_work_and_are_left_out_of_the_report(
        self, engines: list[Engine]
    ) -> None:
        assert len(engines) == self.BINDS + 1
        for engine in engines:
            with self.app.app_context(), engine.connect() as connection:
                assert connection.scalar(text("SELECT 1")) == 1
        (worker,) = PoolGuard().report(self.app).workers
        assert [pool.checked_out for pool in worker.pools] == [0] * self.ROOM

    def test_those_beyond_are_warned_of_once(
        self, caplog: pytest.LogCaptureFixture, engines: list[Engine]
    ) -> None:
        for engine in engines:
            engine.connect().close()
        logged = caplog.get_records("setup") + caplog.get_records("call")
        (record,) = [each for each in logged if each.name == LOGGER]
        assert f"first {self.ROOM} pools" in record.getMessage()


class TestDispose:
    @pytest.fixture
    def shop(self, database: Database) -> Iterator[Shop]:
        """Run an app with one connection, for which threads wait a minute."""
        options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 60}
        with Shop(database.url, SQLALCHEMY_ENGINE_OPTIONS=options) as shop:
            yield shop

    def test_a_thread_that_waits_gets_the_connection_that_comes_back(
        self, shop: Shop
    ) -> None:
        answers: list[int] = []
        self.dispose_while_waiting(
            shop, lambda: answers.append(self.ask(shop)), waiters=1
        )
        assert answers == [1]

    def test_all_threads_that_wait_get_it_in_turn(self, shop: Shop) -> None:
        answers: list[int] = []
        self.dispose_while_waiting(
            shop, lambda: answers.append(self.ask(shop)), waiters=3
        )
        assert answers == [1, 1, 1]

    def test_requests_that_wait_are_answered(self, shop: Shop) -> None:
        answers: list[str] = []

        @shop.route
        def index() -> str:
            return str(self.ask(shop))

        self.dispose_while_waiting(
            shop, lambda: answers.append(shop.client.get("/index").text), waiters=2
        )
        assert answers == ["1", "1"]

    def ask(self, shop: Shop) -> int:
        """Take a connection, use it and give it back."""
        with shop.engine.connect() as connection:
            answer: int = connection.scalar(text("SELECT COUNT(*) FROM item"))
            return answer

    def dispose_while_waiting(
        self, shop: Shop, work: Callable[[], None], *, waiters: int
    ) -> None:
        """Dispose of the engine while threads wait for its only connection."""
        held = shop.engine.connect()
        threads = [threading.Thread(target=work, daemon=True) for _ in range(waiters)]
        for thread in threads:
            thread.start()
        wait_until(
            lambda: shop.tracker.figures.waiting == waiters, what="threads that wait"
        )
        shop.engine.dispose()
        held.close()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert shop.tracker.figures.waiting == 0
        assert not shop.tracker.out
        assert shop.out() == 0
        status = pool_in(shop.guard.report(shop.app))
        assert (status.checked_out, status.timeouts) == (0, 0)

    def test_what_comes_back_before_the_new_pool_is_there_is_closed(
        self, served_database: Database
    ) -> None:
        server = served_database.running_server
        with Shop(served_database.url) as shop:
            shop.engine.dispose()
            shop.engines["other"].dispose()
            connection = shop.engine.connect()
            pool = shop.engine.pool
            pool.dispose()
            connection.close()
            # Kept: its connections must not be closed for being collected.
            fresh = shop.keep(pool.recreate())
            wait_until(
                lambda: not server.session_ids(database=shop.url.database),
                what="the connection's end",
            )
            assert fresh is not pool
            assert pool_in(shop.guard.report(shop.app)).checked_out == 0
