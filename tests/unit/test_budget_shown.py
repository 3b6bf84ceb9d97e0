"""What is said of a budget, on reports that were built."""

from __future__ import annotations

import dataclasses

import click
import pytest

from flask_poolguard.budget import PlaceHolder, Standing
from flask_poolguard.cli.budget_view import budget_lines, budgets_in
from flask_poolguard.report import Report, Server
from flask_poolguard.report.evidence import Evidence
from flask_poolguard.report.fullest import BudgetInUse, fullest
from flask_poolguard.report.host_budget import holders_of
from flask_poolguard.report.model import Finding
from flask_poolguard.report.rules import OF_WORKERS, findings_of
from flask_poolguard.report.text import Page
from flask_poolguard.state.status import PoolStatus
from tests.support.statuses import POOL, WORKER

HOLDERS = (
    PlaceHolder(4123, "shop", 3),
    PlaceHolder(4124, "shop", 1),
    PlaceHolder(4200, "desk", 1),
    PlaceHolder(0, "", 1),
    PlaceHolder(4125, "shop", 1),
)
USED_UP = Standing(7, HOLDERS)
QUIET = dataclasses.replace(
    POOL,
    waiting=0,
    oldest_wait_seconds=None,
    timeouts=0,
    leaks=0,
    checked_out=3,
    peak_checked_out=3,
    budget_file="a.budget",
)


def found(pool: PoolStatus, budget: Standing | None) -> list[Finding]:
    """Return what the rules of `check` find of one worker's pool."""
    evidence = Evidence(
        config={},
        engines=(),
        workers=(dataclasses.replace(WORKER, pools=(pool,)),),
        answers={},
        budgets={} if budget is None else {"default": budget},
    )
    findings = findings_of(evidence, OF_WORKERS)
    return [each for each in findings if each.code in ("saturated", "timeouts")]


def waiting(seconds: float, **figures: object) -> PoolStatus:
    """Return a pool for which two threads wait."""
    pool = dataclasses.replace(QUIET, waiting=2, oldest_wait_seconds=seconds)
    return dataclasses.replace(pool, **figures)  # type: ignore[arg-type] # of its own


class TestUsedUp:
    def test_is_no_finding_while_no_thread_waits(self) -> None:
        assert not found(QUIET, USED_UP)

    @pytest.mark.parametrize("seconds", [0.9, 1.1, 4.9, 5.1])
    def test_is_judged_like_a_pool_that_is_used_up(self, seconds: float) -> None:
        full = waiting(seconds, checked_out=15, peak_checked_out=15)
        levels = [each.level for each in found(waiting(seconds), USED_UP)]
        assert levels == [each.level for each in found(full, None)]

    def test_is_the_cause_with_who_has_most_of_it(self) -> None:
        (finding,) = found(waiting(2.0), USED_UP)
        assert finding.in_short.startswith(
            "POOLGUARD_BUDGET of 7 is used up (3 by worker 4123, 1 by worker 4124, 1 by"
            " worker 4200, 2 by 2 more), 2 requests wait for pool default, the first"
            " for 2.0s"
        )
        assert "POOLGUARD_BUDGET of 7 is used up" in finding.message
        assert "raise POOLGUARD_BUDGET (now 7)" in finding.fix

    def test_is_not_the_cause_where_the_pool_itself_is_full(self) -> None:
        full = waiting(2.0, checked_out=15, peak_checked_out=15)
        (finding,) = found(full, USED_UP)
        assert "BUDGET" not in finding.in_short

    def test_is_the_cause_although_the_pool_was_full_once(self) -> None:
        (finding,) = found(waiting(2.0, peak_checked_out=15), USED_UP)
        assert finding.in_short.startswith("POOLGUARD_BUDGET of 7 is used up")

    def test_with_a_place_left_is_not_the_cause(self) -> None:
        (finding,) = found(waiting(2.0), Standing(8, HOLDERS))
        assert "BUDGET" not in finding.in_short


class TestFullest:
    """Which of pools and budgets is shown as the fullest."""

    def budgets(self, limit: int, **figures: object) -> dict[str, BudgetInUse]:
        pool = dataclasses.replace(QUIET, **figures)  # type: ignore[arg-type] # its own
        worker = dataclasses.replace(WORKER, pools=(pool,))
        return {
            "a.budget": BudgetInUse(Standing(limit, ()), limit, [(worker, pool)] * 2)
        }

    def test_is_a_budget_of_which_more_is_in_use(self) -> None:
        workers = (dataclasses.replace(WORKER, pools=(QUIET,)),)
        worst = fullest(workers, self.budgets(8))
        assert str(worst) == "POOLGUARD_BUDGET is 75% used (6 of 8)"
        assert worst is not None
        assert worst.can_wait

    def test_is_the_pool_where_its_size_is_smaller(self) -> None:
        pool = dataclasses.replace(QUIET, size=3, max_overflow=0)
        workers = (dataclasses.replace(WORKER, pools=(pool,)),)
        worst = fullest(workers, self.budgets(60))
        assert str(worst) == "pool default of worker 4123 is 100% used (3 of 3)"

    def test_is_no_budget_that_has_a_connection_for_every_thread(self) -> None:
        usage = dataclasses.replace(QUIET.usage, nesting=1, threads=1, demand={1: 9})
        (budget,) = self.budgets(2, usage=usage, checked_out=1).values()
        assert not budget.fullness.can_wait


def report_of(*servers: Server) -> Report:
    """Return a report of these servers."""
    return Report(1, "2026-01-01T00:00:00+00:00", "shop", (), servers, (), "web1", ())


def lines_of(width: int, *servers: Server) -> list[str]:
    """Return the lines of these servers' budgets, without colours."""
    lines = budget_lines(budgets_in(report_of(*servers)), "shop", Page(width, False))
    return [click.unstyle(each) for each in lines]


def server_with(bind: str, file: str = "a.budget") -> Server:
    """Return the server of a bind with a budget that is used up."""
    return Server(
        bind,
        "MariaDB 10.11.19",
        True,
        None,
        None,
        None,
        None,
        budget=7,
        budget_taken=7,
        budget_holders=HOLDERS,
        budget_file=file,
    )


class TestALine:
    def test_names_those_who_have_most_and_counts_the_others(self) -> None:
        assert lines_of(200, server_with("default")) == [
            "Budget of default: 7 of 7 taken (3 by worker 4123, 1 by worker 4124, 1 by"
            " worker 4200 (desk), 2 by 2 more)"
        ]

    def test_fits_a_narrow_terminal(self) -> None:
        lines = lines_of(40, server_with("default"))
        assert len(lines) == 3
        assert max(map(len, lines)) <= 40

    def test_stands_once_for_all_binds_that_share_it(self) -> None:
        report = report_of(
            server_with("default"), server_with("reports"), server_with("stock", "b")
        )
        first, second = budgets_in(report)
        assert (first.binds, second.binds) == (("default", "reports"), ("stock",))

    def test_is_none_without_a_budget(self) -> None:
        server = Server("default", None, None, None, None, None, None)
        assert budgets_in(report_of(server)) == ()

    def test_without_holders_has_the_numbers(self) -> None:
        empty = dataclasses.replace(
            server_with("default"), budget_taken=0, budget_holders=()
        )
        assert lines_of(80, empty) == ["Budget of default: 0 of 7 taken"]

    def test_says_when_places_are_in_other_containers(self) -> None:
        assert holders_of(Standing(7, HOLDERS[3:])) == (
            "1 by other containers, 1 by worker 4125"
        )
