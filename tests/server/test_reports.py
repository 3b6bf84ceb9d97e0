"""Reports made within a process."""

from __future__ import annotations

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, StaticPool, create_engine

from flask_poolguard import PoolTimeout
from tests.conftest import Database
from tests.support.reporting import MakeShop, found, pool_in, server_in
from tests.support.waiting import free_port, wait_until


class TestOwnProcess:
    def test_is_a_worker_like_any_other(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        with shop.app.test_request_context("/nowhere"):
            connection = shop.engines["default"].connect()
            report = shop.report()
            connection.close()
        pool = pool_in(report)
        (holder,) = pool.holders
        assert (pool.checked_out, pool.idle, pool.checkouts) == (1, 0, 1)
        assert holder.endpoint == "(no route)"
        assert holder.server_id is not None
        assert server_in(report).ours == 1

    def test_says_what_a_pool_that_keeps_its_class_does_not_tell(
        self, make_shop: MakeShop
    ) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        shop = make_shop(default=engine)
        shop.use()
        pool = pool_in(shop.report())
        unknown = (
            pool.size,
            pool.checked_out,
            pool.idle,
            pool.overflow,
            pool.checkouts,
            pool.peak_checked_out,
            pool.closed.recycled,
        )
        assert unknown == (None,) * 7
        assert pool.connects == 1

    def test_counts_the_connections_of_a_null_pool(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(mariadb_url, poolclass=NullPool))
        shop.use()
        shop.use()
        pool = pool_in(shop.report())
        assert (pool.size, pool.overflow) == (None, None)
        assert (pool.connects, pool.checkouts, pool.checked_out) == (2, 2, 0)
        assert (pool.waiting, pool.timeouts) == (0, 0)

    def test_shows_a_pool_without_limits_as_such(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        engine = create_engine(mariadb_url, max_overflow=-1)
        shop = make_shop(default=engine)
        shop.use()
        report = shop.report()
        assert pool_in(report).is_unlimited
        (finding,) = found(report, "budget")
        assert "any number of connections" in finding.message


class TestTheReport:
    def test_is_frozen(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        report = make_shop(default=create_engine(sqlite_url)).report()
        with pytest.raises(dataclasses.FrozenInstanceError):
            report.app = "till"  # type: ignore[misc] # what is tested

    def test_has_what_sessions_do_if_asked(
        self,
        make_shop: MakeShop,
        postgresql_url: URL,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(
            "flask_poolguard.report.rules.orphaned_sessions._IDLE_SECONDS", 0.0
        )
        shop = make_shop(default=create_engine(postgresql_url))
        with shop.app.app_context(), shop.engines["default"].connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            without = shop.guard.report()
            report = shop.guard.report(sessions=True)
        assert server_in(without).sessions is None
        assert not found(without, "idle-in-transaction")
        assert server_in(report).sessions
        assert found(report, "idle-in-transaction")

    def test_has_what_rises_if_asked_to_look_twice(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        config: dict[str, float] = {
            "POOLGUARD_POOL_SIZE": 1,
            "POOLGUARD_MAX_OVERFLOW": 0,
            "POOLGUARD_POOL_TIMEOUT": 0.05,
        }
        shop = make_shop(config, default=create_engine(mariadb_url))
        engine, done = shop.engines["default"], threading.Event()

        def want() -> None:
            while not done.is_set():
                with suppress(PoolTimeout), engine.connect():
                    pass

        with (
            shop.app.app_context(),
            engine.connect(),
            ThreadPoolExecutor(1) as executor,
        ):
            wanting = executor.submit(want)
            try:
                wait_until(
                    lambda: found(shop.guard.report(), "timeouts"), what="a timeout"
                )
                (once,) = found(shop.guard.report(), "timeouts")
                (twice,) = found(shop.guard.report(seconds=1), "timeouts")
            finally:
                done.set()
                wanting.result(30)
        assert once.level in ("warning", "critical")
        assert twice.level == "critical"

    def test_puts_the_worst_finding_first(
        self, make_shop: MakeShop, mariadb_url: URL
    ) -> None:
        engine = create_engine(mariadb_url.set(port=free_port()))
        levels = [each.level for each in make_shop(default=engine).report().findings]
        assert levels == ["critical", "info"]

    def test_of_an_app_without_any_bind_says_so_by_being_empty(
        self, make_shop: MakeShop
    ) -> None:
        report = make_shop().report()
        assert (report.workers, report.servers, report.binds) == ((), (), ())

    def test_names_folders_that_cannot_be_used(
        self, make_shop: MakeShop, sqlite_url: URL, tmp_path: Path
    ) -> None:
        folder = tmp_path / "open-to-all"
        folder.mkdir()
        folder.chmod(0o777)
        shop = make_shop(
            {"POOLGUARD_STATE_DIR": str(folder)}, default=create_engine(sqlite_url)
        )
        (finding,) = found(shop.report(), "state-folder")
        assert str(folder) in finding.message
        assert "0700" in finding.fix

    @pytest.mark.usefixtures("state_files_on_disk")
    @pytest.mark.usefixtures("threadless")  # none writes to it meanwhile
    def test_names_a_live_workers_file_that_cannot_be_read(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        path = shop.app.extensions["poolguard"].app_tracker.path
        os.truncate(path, 4000)
        report = shop.report()
        (finding,) = found(report, "state-file")
        assert str(path) in finding.message
        assert str(os.getpid()) in finding.message
        # It is there, but nothing is claimed about its pools.
        (worker,) = report.workers
        assert worker.pools == ()

    def test_names_a_worker_of_another_version(
        self, make_shop: MakeShop, sqlite_url: URL
    ) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        shop.use()
        with open(shop.app.extensions["poolguard"].app_tracker.path, "r+b") as file:
            file.seek(7)
            file.write(b"\xfe")
        (finding,) = found(shop.report(), "layout")
        assert f"Worker {os.getpid()}" in finding.message
        assert "Restart" in finding.fix
