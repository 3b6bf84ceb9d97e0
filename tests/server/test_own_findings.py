"""What a worker finds wrong with its own pools, and logs by itself."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, StaticPool, create_engine

from flask_poolguard.pool import Chore, housekeeper
from flask_poolguard.state.reader import read_own
from tests.conftest import Database
from tests.support.database_server import APP_PASSWORD
from tests.support.desk import DeskServer, environment, status
from tests.support.evidence import evidence_of
from tests.support.forking import MAY_DEADLOCK, fork_without_hooks, in_child
from tests.support.guarded_app import warnings_of
from tests.support.reporting import MakeShop, Shop, found, shops
from tests.support.waiting import wait_until

# The server's list has the sessions of all its clients.
pytestmark = pytest.mark.usefixtures("own_server")


def chore_of(shop: Shop) -> Chore:
    """Return a worker's look at its own figures, which is due at any time."""
    chore: Chore = shop.app.extensions["poolguard"].own_findings
    chore.period = 0.0
    return chore


def look_of(shop: Shop) -> Chore:
    """Return the same, for the test alone: two looks at a time would both log."""
    chore = chore_of(shop)
    housekeeper._tended.pop(chore, None)
    return chore


def logged(caplog: pytest.LogCaptureFixture, code: str) -> list[str]:
    """Return what was logged under this code, and that it tells no secret."""
    assert APP_PASSWORD not in caplog.text
    return [line for line in warnings_of(caplog) if line.startswith(f"{code}: ")]


class TestAWarning:
    def test_is_logged_with_its_consequence_and_remedy(
        self,
        make_shop: MakeShop,
        served_database: Database,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        engine = create_engine(served_database.url, poolclass=StaticPool)
        shop = make_shop(default=engine)
        shop.use()
        look_of(shop).tend()
        (line,) = logged(caplog, "static-pool")
        (finding,) = found(shop.report(), "static-pool")
        assert line == (
            f"static-pool: {finding.message}. {finding.consequence} {finding.fix}"
        )
        (record,) = (each for each in caplog.records if each.getMessage() == line)
        assert (record.name, record.levelno) == ("flask_poolguard", logging.WARNING)

    def test_is_logged_once_for_each_bind(
        self,
        make_shop: MakeShop,
        mariadb_url: URL,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        engines = {
            name: create_engine(mariadb_url, poolclass=StaticPool)
            for name in ("default", "reports")
        }
        shop = make_shop(**engines)
        shop.use()
        for _ in range(5):
            look_of(shop).tend()
        lines = logged(caplog, "static-pool")
        assert ["'default'" in line for line in lines] == [True, False]
        assert ["'reports'" in line for line in lines] == [False, True]

    @pytest.mark.process
    @pytest.mark.parametrize("fork", [os.fork, fork_without_hooks])
    @pytest.mark.filterwarnings(MAY_DEADLOCK)
    def test_is_logged_by_each_process_for_itself(
        self,
        make_shop: MakeShop,
        mariadb_url: URL,
        caplog: pytest.LogCaptureFixture,
        fork: Callable[[], int],
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url, poolclass=StaticPool))
        shop.use()
        look_of(shop).tend()
        assert len(logged(caplog, "static-pool")) == 1

        def child() -> tuple[int, int]:
            look_of(shop).tend()
            before = len(logged(caplog, "static-pool"))
            shop.use()
            look_of(shop).tend()
            look_of(shop).tend()
            return before, len(logged(caplog, "static-pool"))

        # Before the child has used anything it has no figures of its own.
        assert in_child(child, fork=fork) == (1, 2)

    def test_is_logged_when_it_becomes_one(
        self,
        make_shop: MakeShop,
        mariadb_url: URL,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url, poolclass=NullPool))
        for _ in range(99):
            shop.use()
        look_of(shop).tend()
        assert logged(caplog, "null-pool") == []  # so far it is worth an info only
        shop.use()
        look_of(shop).tend()
        assert len(logged(caplog, "null-pool")) == 1


class TestNothing:
    def test_is_logged_of_an_app_as_it_should_be(
        self,
        make_shop: MakeShop,
        served_database: Database,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        shop.use()
        look_of(shop).tend()
        assert warnings_of(caplog) == []

    def test_is_logged_without_a_state_file(
        self,
        make_shop: MakeShop,
        mariadb_url: URL,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url, poolclass=StaticPool))
        shop.use()
        shop.app.extensions["poolguard"].app_tracker.remove_file()
        look_of(shop).tend()
        assert logged(caplog, "static-pool") == []

    def test_is_logged_again_that_was_logged_when_it_happened(
        self,
        make_shop: MakeShop,
        mariadb_url: URL,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        engine = create_engine(mariadb_url)
        shop = make_shop({"SQLALCHEMY_POOL_SIZE": 3}, default=engine)
        kept = []

        @shop.app.get("/leak")
        def leak() -> str:
            kept.append(engine.connect())
            return "leaked"

        shop.app.test_client().get("/leak")
        before = warnings_of(caplog)
        assert len(before) == 2  # a leak, and a key that Flask-SQLAlchemy ignores
        look_of(shop).tend()
        assert warnings_of(caplog) == before

    @pytest.mark.process
    def test_is_said_of_the_parents_figures(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        path = shop.app.extensions["poolguard"].app_tracker.path
        assert read_own(path) is not None

        def child() -> bool:
            return read_own(path) is None

        assert in_child(child, fork=fork_without_hooks)


class TestTheHousekeeper:
    def test_lets_an_app_look_at_itself(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        assert chore_of(shop) in housekeeper._tended

    def test_keeps_no_app_alive(self, sqlite_url: URL) -> None:
        with shops() as make:
            shop = make(default=create_engine(sqlite_url))
            shop.use()
            chore, app = chore_of(shop), weakref.ref(shop.app)
        del shop, make
        gc.collect()
        assert app() is None
        chore.tend()  # and does nothing

    def test_goes_on_when_a_rule_fails(
        self,
        make_shop: MakeShop,
        sqlite_url: URL,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def failing(evidence: object) -> list[object]:
            raise LookupError("this rule fails")

        monkeypatch.setattr(
            "flask_poolguard.report.self_check.OF_ONE_WORKER", (failing,)
        )
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        chore_of(shop)
        housekeeper.catch_up()
        wait_until(lambda: "this rule fails" in caplog.text, what="its traceback")
        shop.use()
        assert evidence_of(shop).workers[0].pools[0].checkouts == 2


@pytest.mark.process
class TestUnderGunicorn:
    def test_each_worker_says_once_what_it_inherited(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(
            served_database.url, QUERY_AT_START="1", OWN_FINDINGS_EVERY="0.2"
        )
        with DeskServer(tmp_path, env, workers=2, preload=True) as server:
            server.wake()
            wait_until(
                lambda: server.log_text().count("inherited: ") >= 2,
                seconds=30,
                what="both workers' warnings",
            )
            workers = server.worker_pids()
            status(env)  # takes longer than another round
            log = server.log_text()
        lines = [line for line in log.splitlines() if line.startswith("inherited: ")]
        assert len(lines) == 2
        assert all(any(f"(worker {pid})" in line for line in lines) for pid in workers)
        assert all("gunicorn --preload" in line for line in lines)
        assert APP_PASSWORD not in log
