"""The comparison of other projects' suites fails when it must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.suites.comparison import Comparison, compare
from tests.suites.guarded_apps_plugin import name_of, outcome_of
from tests.suites.projects import PROJECTS, Project
from tests.suites.runs import Run

PROJECT = Project("a-project", "1.0", arguments=("tests",), minimum=2, pools=True)
STOCK = Run(
    exit_status=0,
    outcomes={"t::one": "passed", "t::two": "passed", "t::three": "skipped"},
    messages={},
    pools={"QueuePool": 3},
    apps=3,
    guards=0,
    guard_file=None,
)
GUARDED = replace(STOCK, pools={"GuardedPool": 3}, guards=3, guard_file="guard.py")


def compared(stock: Run = STOCK, guarded: Run = GUARDED) -> Comparison:
    """Compare a guarded run with two stock runs that ended alike."""
    return compare(PROJECT, stock, stock, guarded)


def with_outcomes(run: Run, **outcomes: str) -> Run:
    """Return the run with other outcomes of some tests."""
    changed = {f"t::{name}": outcome for name, outcome in outcomes.items()}
    return replace(run, outcomes=run.outcomes | changed)


class TestDifferences:
    """Tests that end with the guard as they do not without."""

    def test_runs_that_end_alike_pass(self) -> None:
        """Nothing is found where nothing differs, and the tests are counted."""
        comparison = compared()
        assert comparison.passed
        assert comparison.counts() == "3 compared (2 passed, 1 skipped)"

    @pytest.mark.parametrize(
        "outcome", ["failed", "skipped", "error at setup", "passed, error at teardown"]
    )
    def test_another_outcome_is_named(self, outcome: str) -> None:
        """Any other outcome counts, not only a failure."""
        comparison = compared(guarded=with_outcomes(GUARDED, one=outcome))
        assert not comparison.passed
        (difference,) = comparison.differences
        assert str(difference) == (f"t::one: passed in stock, {outcome} with the guard")

    def test_a_failure_that_passes_with_the_guard_is_named(self) -> None:
        """A test that the guard repairs differs as well."""
        comparison = compared(stock=with_outcomes(STOCK, four="failed"))
        (difference,) = comparison.differences
        assert (difference.stock, difference.guarded) == ("failed", "not run")

    def test_a_test_that_only_the_guarded_run_has_is_named(self) -> None:
        """What stock never ran cannot be the same."""
        comparison = compared(guarded=with_outcomes(GUARDED, four="passed"))
        (difference,) = comparison.differences
        assert (difference.test, difference.stock) == ("t::four", "not run")

    def test_what_is_unstable_in_stock_is_not_compared(self) -> None:
        """It is named instead."""
        second = with_outcomes(STOCK, three="failed")
        guarded = with_outcomes(GUARDED, three="error at setup")
        comparison = compare(PROJECT, STOCK, second, guarded)
        assert comparison.passed
        assert comparison.unstable == {"t::three": ("skipped", "failed")}


class TestFaults:
    """Runs that prove nothing fail."""

    @pytest.mark.parametrize(
        ("stock", "guarded", "fault"),
        [
            (STOCK, replace(GUARDED, guards=2), "2 of 3 apps had a guard"),
            (STOCK, replace(GUARDED, apps=0, guards=0), "0 of 0 apps"),
            (STOCK, replace(GUARDED, pools={"QueuePool": 3}), "no pool was replaced"),
            (STOCK, replace(GUARDED, exit_status=2), "exit status 2"),
            (replace(STOCK, exit_status=5), GUARDED, "exit status 5"),
            (replace(STOCK, guard_file="guard.py"), GUARDED, "stock run had the guard"),
            (with_outcomes(STOCK, one="failed"), GUARDED, "only 1 tests pass"),
            (replace(STOCK, outcomes={}), replace(GUARDED, outcomes={}), "only 0"),
            (
                with_outcomes(STOCK, four="failed while collected"),
                GUARDED,
                "could not collect t::four",
            ),
        ],
    )
    def test_each_is_named(self, stock: Run, guarded: Run, fault: str) -> None:
        """The reason is given, and the comparison does not pass."""
        comparison = compared(stock, guarded)
        assert not comparison.passed
        assert any(fault in each for each in comparison.faults)


class TestOutcomes:
    """What the plugin makes of pytest's reports."""

    @pytest.mark.parametrize(
        ("when", "outcome", "expected"),
        [
            ("setup", "passed", None),
            ("call", "passed", "passed"),
            ("call", "failed", "failed"),
            ("setup", "skipped", "skipped"),
            ("setup", "failed", "error at setup"),
            ("teardown", "failed", "error at teardown"),
            ("teardown", "passed", None),
        ],
    )
    def test_a_phase_is_told_apart(
        self, when: str, outcome: str, expected: str | None
    ) -> None:
        """An error in setup or teardown is not a failure of the test."""
        report = pytest.TestReport(
            "t::one",
            ("t.py", 1, "one"),
            {},
            outcome,  # type: ignore[arg-type] # a parameter is no literal
            None,
            when,  # type: ignore[arg-type] # the same
        )
        assert outcome_of(report) == expected
        assert name_of(report) == "t::one"


def test_every_suite_has_a_minimum() -> None:
    """A suite of which nothing need pass could not fail."""
    assert all(project.minimum >= 35 for project in PROJECTS.values())
