"""One budget for all processes of a host, on real servers."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from flask_poolguard import PoolTimeout
from flask_poolguard.engines import standing_of
from flask_poolguard.report.verdict import verdict_of
from tests.conftest import Database
from tests.support.app_server import REPOSITORY
from tests.support.budget_process import BudgetProcess, open_connections
from tests.support.guarded_app import (
    engine_of,
    guarded_engine,
    guarded_pool,
    make_app,
    warnings_of,
)
from tests.support.reporting import MakeShop, found
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

Start = Callable[..., BudgetProcess]


@pytest.fixture
def database(served_database: Database) -> Database:
    """Return a fresh database on a server."""
    return served_database


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Iterator[Start]:
    """Return what starts processes that share a budget; they end with the test."""
    with ExitStack() as stack:

        def start(budget: int = 6, **config: Any) -> BudgetProcess:
            config = {
                "POOLGUARD_BUDGET": budget,
                "POOLGUARD_POOL_TIMEOUT": 10,
                "POOLGUARD_STATE_DIR": str(tmp_path / "state"),
                **config,
            }
            return stack.enter_context(BudgetProcess(database.url, **config))

        yield start


def sessions(database: Database) -> int:
    """Return how many sessions the server has for this test."""
    name = database.url.database
    return len(database.running_server.session_ids(database=name))


def watch(
    processes: Sequence[BudgetProcess], database: Database, seconds: float
) -> int:
    """Return the most connections that processes had open at a time."""
    most, until = 0, time.monotonic() + seconds
    pids = [each.pid for each in processes]
    while time.monotonic() < until:
        most = max(most, open_connections(pids, database.url.port or 0))
    return most


class TestTogether:
    def test_processes_never_have_more(self, start: Start, database: Database) -> None:
        processes = [start() for _ in range(4)]
        for each in processes:
            each.do("use 6")
        assert 3 < watch(processes, database, 3.0) <= 6
        answers = [each.do("rest") for each in processes]
        assert [each["failed"] for each in answers] == [0] * 4
        assert all(each["served"] > 0 for each in answers)

    def test_another_name_is_another_budget(
        self, start: Start, database: Database
    ) -> None:
        start(2, POOLGUARD_BUDGET_NAME="one").take(2)
        start(2, POOLGUARD_BUDGET_NAME="two").take(2)
        assert sessions(database) == 4

    def test_apps_of_different_names_share_it_if_they_say_so(
        self, start: Start, database: Database
    ) -> None:
        start(2, POOLGUARD_BUDGET_NAME="all", NAME="desk").take(1)
        start(2, POOLGUARD_BUDGET_NAME="all", NAME="shop").take(1)
        late = start(2, POOLGUARD_BUDGET_NAME="all", POOLGUARD_POOL_TIMEOUT=0.5)
        assert "2 of 2 places" in late.do("take")["error"]


class TestWaiting:
    def test_ends_with_an_error_that_names_who_has_the_places(
        self, start: Start
    ) -> None:
        first, second = start(3, POOLGUARD_POOL_TIMEOUT=1), start(3)
        second.take(2)
        first.take(1)
        error = first.do("take")["error"]
        assert "3 of 3 places of this host are taken: " in error
        assert f"2 by worker {second.pid} (shop)" in error
        assert f"1 by worker {first.pid} (shop)" in error
        assert "POOLGUARD_BUDGET allows no more connections on this host" in error

    def test_ends_when_a_connection_is_closed_elsewhere(self, start: Start) -> None:
        first, second = start(2), start(2)
        first.take(2)
        second.tell("take")
        first.do("give")
        assert "error" not in second.hear()

    def test_ends_when_a_process_is_killed(self, start: Start) -> None:
        first, second = start(2), start(2)
        first.take(2)
        second.tell("take")
        first.kill()
        assert "error" not in second.hear()

    def test_ends_although_a_child_of_the_killed_process_lives(
        self, start: Start
    ) -> None:
        first, second = start(2), start(2)
        first.take(2)
        child = first.do("fork")["pid"]
        second.tell("take")
        first.kill()
        assert "error" not in second.hear()
        os.kill(child, signal.SIGKILL)

    def test_takes_what_others_have_idle(
        self, start: Start, database: Database
    ) -> None:
        first, second = start(4), start(4)
        first.take(4)
        for _ in range(4):
            first.do("give")
        assert sessions(database) == 4
        second.take(3)
        assert open_connections([first.pid, second.pid], database.url.port or 0) <= 4
        first.take(1)

    def test_is_not_for_a_process_that_is_stopped(self, start: Start) -> None:
        """It cannot give what it has; another does."""
        first, second, third = start(5), start(5), start(5)
        first.take(3)
        for _ in range(3):
            first.do("give")
        os.kill(first.pid, signal.SIGSTOP)
        second.take(2)
        second.do("give")
        third.take(1)
        os.kill(first.pid, signal.SIGCONT)

    def test_ends_although_there_are_fewer_places_than_processes(
        self, start: Start
    ) -> None:
        """Each of the others has its only connection idle."""
        for _ in range(2):
            other = start(2)
            other.take(1)
            other.do("give")
        start(2).take(1)

    def test_is_in_the_order_of_all_processes(
        self, start: Start, database: Database, tmp_path: Path
    ) -> None:
        """Both threads that waited here come before the process that waited later."""
        holder, late = start(5), start(5)
        holder.take(3)
        late.take(1)
        order: list[str] = []
        config = {
            "POOLGUARD_BUDGET": 5,
            "POOLGUARD_POOL_TIMEOUT": 20,
            "POOLGUARD_STATE_DIR": str(tmp_path / "state"),
        }
        with guarded_engine(database.url, **config) as engine, engine.connect():
            done = threading.Event()

            def wait() -> None:
                with engine.connect():
                    order.append("here")
                    done.wait(20)

            threads = [threading.Thread(target=wait) for _ in range(2)]
            for each in threads:
                each.start()
            time.sleep(0.5)
            late.tell("take")
            time.sleep(0.5)
            for _ in range(2):
                before = len(order)
                holder.do("give")
                wait_until(lambda: len(order) > before, what="one")  # noqa: B023 (run at once)
            holder.do("give")
            late.hear()
            assert order == ["here", "here"]
            done.set()
            for each in threads:
                each.join()

    def test_of_a_process_with_a_smaller_budget_holds_up_no_other(
        self, start: Start
    ) -> None:
        name = {"POOLGUARD_BUDGET_NAME": "all"}
        small = start(2, POOLGUARD_POOL_TIMEOUT=3, **name)
        large = start(10, POOLGUARD_POOL_TIMEOUT=1, **name)
        small.take(2)
        small.tell("take")
        time.sleep(0.3)
        large.take(2)
        assert "error" in small.hear()

    def test_is_short_for_a_worker_without_any(
        self, start: Start, database: Database
    ) -> None:
        """However busy the others are."""
        others = [start(8) for _ in range(3)]
        for each in others:
            each.do("use 12")
        wait_until(lambda: sessions(database) == 8, what="a full budget")
        late = start(8)
        late.take(1)
        assert watch([late, *others], database, 0.5) <= 8
        assert [each.do("rest")["failed"] for each in others] == [0] * 3


class TestAnEngine:
    """Of several that share a budget within one process."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        """Return settings with a small budget."""
        return {
            "POOLGUARD_BUDGET": 2,
            "POOLGUARD_POOL_TIMEOUT": 5,
            "POOLGUARD_STATE_DIR": str(tmp_path / "state"),
        }

    def test_gets_what_another_has_idle(
        self, database: Database, config: dict[str, Any]
    ) -> None:
        with (
            guarded_engine(database.url, **config) as first,
            guarded_engine(database.url, **config) as second,
        ):
            with first.connect(), first.connect():
                pass
            with second.connect():
                assert guarded_pool(first).checkedin() == 1

    def test_that_is_collected_leaves_its_places_to_others(
        self, database: Database, config: dict[str, Any], start: Start
    ) -> None:
        app = make_app(database.url, **config)
        engine = engine_of(app)
        with engine.connect(), engine.connect():
            pass
        gone = weakref.ref(engine)
        del app, engine
        wait_until(lambda: gc.collect() >= 0 and gone() is None, what="its end")
        start(2).take(2)
        with (
            guarded_engine(database.url, **{**config, "POOLGUARD_POOL_TIMEOUT": 1}) as (
                late
            ),
            pytest.raises(PoolTimeout, match="2 of 2 places"),
        ):
            late.connect()

    def test_a_connection_that_is_detached_keeps_its_place(
        self, database: Database, config: dict[str, Any]
    ) -> None:
        config["POOLGUARD_POOL_TIMEOUT"] = 0.5
        with guarded_engine(database.url, **config) as engine:
            detached = engine.connect()
            detached.detach()
            with engine.connect():
                with pytest.raises(PoolTimeout, match="2 of 2 places"):
                    engine.connect()
                detached.close()
                del detached
                with engine.connect():
                    pass


class TestAWorker:
    def test_keeps_a_place_from_its_start(
        self, start: Start, database: Database
    ) -> None:
        worker, other = start(3), start(3, POOLGUARD_POOL_TIMEOUT=0.5)
        worker.do("serve")
        time.sleep(1.5)  # until the housekeeper's next round
        other.take(2)
        assert "3 of 3 places" in other.do("take")["error"]
        assert sessions(database) == 2
        worker.take(1)

    def test_without_its_place_is_given_the_next(self, start: Start) -> None:
        busy, worker = start(2), start(2)
        busy.take(2)
        worker.do("serve")
        time.sleep(1.5)
        busy.do("give")
        worker.take(1)


WITHOUT = """
import sys, threading
from tests.support.guarded_app import make_app, engine_of
app = make_app(sys.argv[1], POOLGUARD_STATE_DIR=sys.argv[2])
with app.app_context(), engine_of(app).connect():
    print(*[name for name in sys.modules if "poolguard.budget" in name])
    print(*sorted(each.name for each in threading.enumerate()))
"""


def test_an_app_without_one_has_no_file_no_thread_and_no_module(
    database: Database, tmp_path: Path
) -> None:
    url = database.url.render_as_string(hide_password=False)
    folder = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, url, str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "",
        "MainThread poolguard-closer poolguard-housekeeper",
    ]
    assert list(folder.glob("*.budget")) == []


class TestAFile:
    def test_that_is_gone_lets_the_app_go_on(
        self,
        database: Database,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        config = {
            "POOLGUARD_BUDGET": 2,
            "POOLGUARD_POOL_TIMEOUT": 20,
            "POOLGUARD_STATE_DIR": str(tmp_path / "state"),
        }
        with guarded_engine(database.url, **config) as engine:
            with engine.connect(), engine.connect():
                (file,) = (tmp_path / "state").glob("*.budget")
                file.unlink()
                with engine.connect():
                    assert sessions(database) == 3
            (line,) = [
                each for each in warnings_of(caplog) if "POOLGUARD_BUDGET" in each
            ]
        assert f"{file} was removed or replaced" in line

    def test_that_cannot_be_made_lets_the_app_go_on(
        self,
        database: Database,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        folder = tmp_path / "state"
        folder.write_text("")
        config = {"POOLGUARD_BUDGET": 1, "POOLGUARD_STATE_DIR": str(folder)}
        with (
            guarded_engine(database.url, **config) as engine,
            engine.connect(),
            engine.connect(),
        ):
            wait_until(
                lambda: any("POOLGUARD_BUDGET" in each for each in warnings_of(caplog)),
                what="the warning",
            )


class TestOneProcess:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> dict[str, str]:
        """Return a state folder as a setting: pools of earlier tests may live."""
        return {"POOLGUARD_STATE_DIR": str(tmp_path / "state")}

    def test_waits_in_the_order_of_its_pool(
        self, database: Database, tmp_path: Path
    ) -> None:
        """And has no places left when its engine is gone."""
        config = {
            "POOLGUARD_BUDGET": 1,
            "POOLGUARD_POOL_TIMEOUT": 0.5,
            "POOLGUARD_STATE_DIR": str(tmp_path / "state"),
        }
        with guarded_engine(database.url, **config) as engine:
            with engine.connect(), pytest.raises(PoolTimeout, match="1 of 1 places"):
                engine.connect()
            with engine.connect():
                pass
            engine.dispose()
            with engine.connect():
                pass
        wait_until(lambda: sessions(database) == 0, what="the sessions' end")

    def test_is_shown_with_its_server(
        self, make_shop: MakeShop, database: Database, folder: dict[str, str]
    ) -> None:
        shop = make_shop(
            {**folder, "POOLGUARD_BUDGET": 9}, default=create_engine(database.url)
        )
        shop.use()
        (server,) = shop.report().servers
        assert (server.budget, server.budget_taken) == (9, 1)
        (holder,) = server.budget_holders
        assert (holder.pid, holder.places) == (os.getpid(), 1)
        (guarded,) = shop.app.extensions["poolguard"].engines
        standing = standing_of(guarded.engine, guarded.settings, guarded.tracker)
        assert str(standing).startswith("1 of 9 places of this host")

    def test_that_waits_for_a_place_is_told_so_first(
        self, make_shop: MakeShop, database: Database, folder: dict[str, str]
    ) -> None:
        shop = make_shop(
            {**folder, "POOLGUARD_BUDGET": 1, "POOLGUARD_POOL_TIMEOUT": 0.1},
            default=create_engine(database.url),
        )
        shop.use()
        with shop.engines["default"].connect(), pytest.raises(PoolTimeout):
            shop.engines["default"].connect()
        report = shop.report()
        (finding,) = found(report, "timeouts")
        assert "raise POOLGUARD_BUDGET (now 1) if the server bears it" in finding.fix
        assert "POOLGUARD_POOL_SIZE" not in finding.fix
        assert "as POOLGUARD_BUDGET of 1 is used up" in verdict_of(report).text

    def test_whose_sizes_are_used_up_too_is_told_of_both(
        self, make_shop: MakeShop, database: Database, folder: dict[str, str]
    ) -> None:
        config = {
            "POOLGUARD_BUDGET": 1,
            "POOLGUARD_POOL_SIZE": 1,
            "POOLGUARD_MAX_OVERFLOW": 0,
            "POOLGUARD_POOL_TIMEOUT": 0.1,
        }
        shop = make_shop({**folder, **config}, default=create_engine(database.url))
        shop.use()
        with shop.engines["default"].connect(), pytest.raises(PoolTimeout):
            shop.engines["default"].connect()
        (finding,) = found(shop.report(), "timeouts")
        assert "raise POOLGUARD_POOL_SIZE (now 1)" in finding.fix
        assert "and POOLGUARD_BUDGET (now 1) too" in finding.fix

    def test_makes_the_finding_of_the_pools_sizes_needless(
        self, make_shop: MakeShop, database: Database, folder: dict[str, str]
    ) -> None:
        sizes = {**folder, "POOLGUARD_POOL_SIZE": 100_000}
        shop = make_shop(sizes, default=create_engine(database.url))
        shop.use()
        assert found(shop.report(), "budget")
        shop = make_shop(
            {**sizes, "POOLGUARD_BUDGET": 9}, default=create_engine(database.url)
        )
        shop.use()
        assert not found(shop.report(), "budget")

    def test_is_told_of_a_budget_that_is_larger_than_the_server(
        self, make_shop: MakeShop, database: Database, folder: dict[str, str]
    ) -> None:
        shop = make_shop(
            {**folder, "POOLGUARD_POOL_SIZE": 100_000, "POOLGUARD_BUDGET": 99_999},
            default=create_engine(database.url),
        )
        shop.use()
        (finding,) = found(shop.report(), "budget")
        assert "POOLGUARD_BUDGET lets the workers have 99999" in finding.message
        assert "Lower POOLGUARD_BUDGET to " in finding.fix


class TestMinIdle:
    """Connections that are opened ahead, POOLGUARD_MIN_IDLE."""

    def test_leaves_a_place_and_does_not_take_back_what_was_given(
        self, start: Start, database: Database
    ) -> None:
        first = start(4, POOLGUARD_MIN_IDLE=5, POOLGUARD_POOL_SIZE=5)
        second = start(4, POOLGUARD_POOL_SIZE=1)
        first.do("serve")
        wait_until(lambda: sessions(database) == 3, what="idle connections")
        second.take(3)  # one was free, two were given
        assert sessions(database) == 4
        for _ in range(3):
            second.do("give")
        # Places are free again, but they may be wished for again soon.
        wait_until(lambda: sessions(database) == 2, what="the end of two")
        time.sleep(2.5)  # two looks of the thread that fills
        assert sessions(database) == 2
