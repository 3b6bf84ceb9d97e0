"""What `flask pool` commands say of a budget, on real servers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard.cli.advise_view import render, verdict_on
from flask_poolguard.cli.top_view import Top
from flask_poolguard.cli.top_view import render as render_top
from flask_poolguard.report import Plan
from flask_poolguard.report.advice import make_advice
from flask_poolguard.report.advice_model import Advice, AdviceOptions, BindAdvice
from flask_poolguard.report.text import Page
from tests.conftest import Database, fresh_database, started
from tests.support.budget_process import BudgetProcess
from tests.support.monitoring import check_without_app, run_module
from tests.support.reporting import MakeShop, Shop, found, sessions, the_one
from tests.support.servers import DatabaseServer, MariaDBServer
from tests.support.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    """Return a state folder as a setting: pools of earlier tests may live."""
    return {"POOLGUARD_STATE_DIR": str(tmp_path / "state")}


@pytest.fixture(scope="module")
def small_mariadb() -> Iterator[DatabaseServer]:
    """Run a MariaDB server that takes few connections."""
    yield from started(lambda: MariaDBServer(max_connections=20))


@pytest.fixture
def my(small_mariadb: DatabaseServer) -> Iterator[URL]:
    """Return the URL of a fresh database on the small MariaDB server."""
    yield from fresh_database(small_mariadb)


def words(text: str) -> str:
    """Return a text without its line ends."""
    return " ".join(text.split())


def take(shop: Shop, connections: int, bind: str = "default") -> None:
    """Have so many connections out at a time, ten times."""
    for _ in range(10):
        with shop.app.app_context(), ExitStack() as stack:
            for _ in range(connections):
                stack.enter_context(shop.engines[bind].connect())


def advise(shop: Shop, wish: AdviceOptions, **server: Any) -> Advice:
    """Return the advice to an app in this process.

    :param server: what its servers say instead.
    """
    for tracker in shop.app.extensions["poolguard"].app_tracker.trackers:
        tracker.tend()
    report = shop.report()
    servers = tuple(dataclasses.replace(each, **server) for each in report.servers)
    report = dataclasses.replace(report, servers=servers)
    engines = shop.app.extensions["poolguard"].engines
    return make_advice(report, engines, shop.app.config, wish)


def bind_in(advice: Advice, bind: str = "default") -> BindAdvice:
    """Return the advice on one bind."""
    (each,) = [each for each in advice.binds if each.bind == bind]
    return each


def used_shop(
    make_shop: MakeShop, database: Database, folder: dict[str, str], budget: int
) -> Shop:
    """Return an app with a budget, whose pool had four connections out at a time."""
    config = {**folder, "POOLGUARD_BUDGET": budget}
    shop = make_shop(config, default=create_engine(database.url))
    take(shop, 4)
    return shop


class TestTop:
    def test_shows_it_once_for_binds_that_share_it(
        self, make_shop: MakeShop, served_database: Database, folder: dict[str, str]
    ) -> None:
        url = served_database.url
        shop = make_shop(
            {**folder, "POOLGUARD_BUDGET": 9},
            default=create_engine(url),
            reports=create_engine(url),
        )
        shop.use()
        shop.use("reports")
        refresh = Top().refresh(shop.report(), 0.0)
        (budget,) = json.loads(json.dumps(refresh.to_dict()))["budgets"]
        assert budget["binds"] == ["default", "reports"]
        assert (budget["limit"], budget["taken"]) == (9, 2)
        assert [each["places"] for each in budget["holders"]] == [2]
        text = render_top(refresh, Page(80, False))
        assert "Budget of default and reports: 2 of 9 taken (2 by worker " in text

    def test_says_nothing_without_one(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        shop.use()
        refresh = Top().refresh(shop.report(), 0.0)
        assert refresh.to_dict()["budgets"] == []
        assert "Budget" not in render_top(refresh, Page(80, False))


class TestAdvise:
    WISH = AdviceOptions(at_least=10, workers=5)
    # 20 - 2 head room: 3 for each of 5 workers.
    SMALL: ClassVar[dict[str, int]] = {
        "max_connections": 20,
        "reserved": 0,
        "connections": 4,
        "ours": 4,
    }

    def advise(self, shop: Shop, **server: Any) -> Advice:
        return advise(shop, self.WISH, **{**self.SMALL, **server})

    def test_stays_within_it_instead_of_dividing_the_server(
        self, make_shop: MakeShop, served_database: Database, folder: dict[str, str]
    ) -> None:
        shop = used_shop(make_shop, served_database, folder, budget=18)
        advice = self.advise(shop)
        bind = bind_in(advice)
        assert (bind.pool_size, bind.is_short, bind.room) == (4, False, 18)
        assert bind.pool_size is not None
        assert bind.max_overflow is not None
        assert bind.pool_size + bind.max_overflow <= 18
        text = words(render(advice, Page(80, False)))
        assert "within a budget of 18 for this host, which its workers share" in text
        assert "POOLGUARD_BUDGET =" not in text

    def test_says_when_the_workers_keep_more_than_it_allows(
        self, make_shop: MakeShop, served_database: Database, folder: dict[str, str]
    ) -> None:
        shop = used_shop(make_shop, served_database, folder, budget=18)
        advice = self.advise(shop)
        assert (bind_in(advice).budget, bind_in(advice).budget_kept) == (18, 20)
        verdict = verdict_on(advice)
        assert verdict.level == "warning"
        assert "its workers keep 20 connections, above the budget of 18" in verdict.text
        text = words(render(advice, Page(80, False)))
        assert "Raise POOLGUARD_BUDGET to 20 if the server bears it" in text

    def test_says_nothing_of_what_they_keep_where_it_fits(
        self, make_shop: MakeShop, served_database: Database, folder: dict[str, str]
    ) -> None:
        shop = used_shop(make_shop, served_database, folder, budget=20)
        advice = self.advise(shop, max_connections=40)
        assert "keep" not in render(advice, Page(80, False))

    def test_gives_less_where_it_is_too_small_for_one_worker(
        self, make_shop: MakeShop, served_database: Database, folder: dict[str, str]
    ) -> None:
        shop = used_shop(make_shop, served_database, folder, budget=4)
        advice = advise(shop, AdviceOptions(at_least=10), budget=3)
        bind = bind_in(advice)
        assert (bind.pool_size, bind.max_overflow, bind.is_short) == (3, 0, True)
        assert verdict_on(advice).text == (
            "the budget of 3 for this host has too little room for default, which needs"
            " 4 per worker and gets 3"
        )
        text = words(render(advice, Page(80, False)))
        assert "raise POOLGUARD_BUDGET, or start fewer threads" in text

    def test_goes_by_it_behind_what_does_not_say_how_much_is_left(
        self, make_shop: MakeShop, served_database: Database, folder: dict[str, str]
    ) -> None:
        shop = used_shop(make_shop, served_database, folder, budget=18)
        bind = bind_in(self.advise(shop, max_connections=None))
        assert (bind.room, bind.room_unknown) == (18, None)
        assert bind.max_overflow is not None

    def test_of_one_that_follows_the_server_raises_the_server(
        self, make_shop: MakeShop, served_database: Database, folder: dict[str, str]
    ) -> None:
        shop = make_shop(
            {**folder, "POOLGUARD_BUDGET": "auto"},
            default=create_engine(served_database.url),
        )
        take(shop, 4)
        text = words(render(self.advise(shop, budget=18), Page(80, False)))
        assert "Raise the server's limit, from which that follows" in text
        assert "POOLGUARD_BUDGET" not in text

    def test_leaves_it_to_binds_without_one(
        self, make_shop: MakeShop, mariadb_url: URL, folder: dict[str, str]
    ) -> None:
        shop = make_shop(
            {**folder, "POOLGUARD_BINDS": {"reports": {"budget": 8}}},
            default=create_engine(mariadb_url),
            reports=create_engine(mariadb_url),
        )
        take(shop, 1)
        take(shop, 1, "reports")
        advice = advise(
            shop,
            AdviceOptions(at_least=10),
            max_connections=40,
            connections=2,
            ours=2,
        )
        # 40 - 4 head room - 8 of the budget.
        assert bind_in(advice).room == 28
        assert bind_in(advice, "reports").room == 8

    def test_names_one_as_a_comment_where_the_sizes_do_not_fit(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        take(shop, 4)
        advice = self.advise(shop)
        assert advice.budget_lines == ("POOLGUARD_BUDGET = 18",)
        text = render(advice, Page(80, False))
        lines = [each.strip() for each in text.splitlines()]
        assert "# POOLGUARD_BUDGET = 18" in lines
        assert "POOLGUARD_BUDGET = 18" not in lines
        assert "POOLGUARD_POOL_SIZE = 3" in lines

    def test_names_none_where_they_fit(
        self, make_shop: MakeShop, served_database: Database
    ) -> None:
        shop = make_shop(default=create_engine(served_database.url))
        take(shop, 1)
        advice = self.advise(shop, connections=1, ours=1)
        assert advice.budget_lines == ()
        assert "BUDGET" not in render(advice, Page(80, False))


class TestDoctor:
    def test_names_the_number_that_fits(self, make_shop: MakeShop, my: URL) -> None:
        shop = make_shop({"POOLGUARD_POOL_SIZE": 30}, default=create_engine(my))
        shop.use()
        with sessions(my, 4):
            # 20 - 4 of others - 2 head room.
            fix = the_one(shop.report(), "budget").fix
            assert fix.startswith("Set POOLGUARD_BUDGET = 14 for all workers of a host")

    def test_divides_it_by_the_hosts(self, make_shop: MakeShop, my: URL) -> None:
        shop = make_shop({"POOLGUARD_POOL_SIZE": 30}, default=create_engine(my))
        shop.use()
        fix = the_one(shop.diagnose(Plan(workers=2, hosts=3)), "budget").fix
        assert "POOLGUARD_BUDGET = 6 for" in fix

    def test_names_none_with_fewer_places_than_workers(
        self, make_shop: MakeShop, my: URL
    ) -> None:
        shop = make_shop({"POOLGUARD_POOL_SIZE": 30}, default=create_engine(my))
        shop.use()
        fix = the_one(shop.diagnose(Plan(workers=7, hosts=3)), "budget").fix
        assert "POOLGUARD_BUDGET" not in fix

    def test_divides_one_that_is_too_large_by_the_hosts(
        self, make_shop: MakeShop, my: URL, folder: dict[str, str]
    ) -> None:
        shop = make_shop(
            {**folder, "POOLGUARD_POOL_SIZE": 30, "POOLGUARD_BUDGET": 18},
            default=create_engine(my),
        )
        shop.use()
        assert not found(shop.report(), "budget")
        finding = the_one(shop.diagnose(Plan(hosts=2)), "budget")
        assert "have 36 connections together on 2 hosts" in finding.message
        assert finding.fix.startswith("Lower POOLGUARD_BUDGET to 9,")

    def test_lowers_one_that_is_larger_than_the_sizes(
        self, make_shop: MakeShop, my: URL, folder: dict[str, str]
    ) -> None:
        shop = make_shop(
            {**folder, "POOLGUARD_POOL_SIZE": 30, "POOLGUARD_BUDGET": 99},
            default=create_engine(my),
        )
        shop.use()
        finding = the_one(shop.report(), "budget")
        assert finding.fix.startswith("Lower POOLGUARD_BUDGET to 18,")

    def test_counts_two_budgets_of_two_users(
        self,
        make_shop: MakeShop,
        my: URL,
        small_mariadb: DatabaseServer,
        folder: dict[str, str],
    ) -> None:
        small_mariadb.execute("CREATE USER clerk IDENTIFIED BY 'x'")
        other = small_mariadb.url(user="clerk", password="x")
        shop = make_shop(
            {**folder, "POOLGUARD_POOL_SIZE": 30, "POOLGUARD_BUDGET": 12},
            default=create_engine(my),
            reports=create_engine(other),
        )
        shop.use()
        finding = the_one(shop.report(), "budget")
        assert "have 24 connections together" in finding.message
        assert finding.fix.startswith("Lower POOLGUARD_BUDGET to 9,")
        shop.engines["reports"].dispose()
        small_mariadb.execute("DROP USER clerk")

    def test_finds_no_full_server_where_the_budget_leaves_no_more_to_open(
        self, make_shop: MakeShop, my: URL, folder: dict[str, str]
    ) -> None:
        """The sizes alone would want more than is free."""
        config = {**folder, "POOLGUARD_POOL_SIZE": 30}
        shop = make_shop({**config, "POOLGUARD_BUDGET": 19}, default=create_engine(my))
        with shop.app.app_context(), ExitStack() as stack:
            for _ in range(19):
                stack.enter_context(shop.engines["default"].connect())
            assert not found(shop.report(), "full")


@pytest.mark.process
class TestCheck:
    @pytest.fixture
    def process(
        self, served_database: Database, folder: dict[str, str]
    ) -> Iterator[BudgetProcess]:
        """Return a worker that has all of a budget of 2."""
        config = {**folder, "POOLGUARD_BUDGET": 2, "POOLGUARD_POOL_TIMEOUT": 30}
        with BudgetProcess(served_database.url, **config) as process:
            process.do("serve")
            process.take(2)
            yield process
            process.kill()

    def test_is_well_while_no_thread_waits(
        self, process: BudgetProcess, folder: dict[str, str]
    ) -> None:
        found = check_without_app("--state-dir", folder["POOLGUARD_STATE_DIR"])
        assert found.state == "OK"
        assert "2 of 2 places of the budget taken" in found.text
        assert found.data["shop.budget"] == 2
        assert "'shop.budget'=2;;;0;2" in found.line

    def test_names_it_as_the_cause_when_a_thread_waits(
        self, process: BudgetProcess, folder: dict[str, str]
    ) -> None:
        process.tell("take")
        arguments = ("--state-dir", folder["POOLGUARD_STATE_DIR"])
        wait_until(
            lambda: check_without_app(*arguments).state == "WARNING",
            seconds=30,
            what="a thread that waits",
        )
        found = check_without_app(*arguments, "--critical-wait-seconds", "1")
        assert found.state == "CRITICAL"
        cause = f"POOLGUARD_BUDGET of 2 is used up (2 by worker {process.pid})"
        assert f"shop: {cause}, 1 request waits for pool default" in found.text

    def test_judges_its_usage_like_a_pools(
        self, process: BudgetProcess, folder: dict[str, str]
    ) -> None:
        arguments = ("--state-dir", folder["POOLGUARD_STATE_DIR"])
        found = check_without_app(*arguments, "--warning-usage", "90")
        assert found.data["shop.usage"] == 100
        done = run_module("check", "--json", *arguments)
        (app,) = json.loads(done.stdout)["apps"]
        assert (app["budget"], app["budget_taken"]) == (2, 2)
