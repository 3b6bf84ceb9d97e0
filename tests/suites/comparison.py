"""Compare how a suite's tests end without a guard and with one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.suites.projects import Project
from tests.suites.runs import Run

# Tests failed, or none did. Anything else means that pytest did not run them all.
ENDED = (0, 1)
NOT_RUN = "not run"
GUARDED_POOL = "GuardedPool"


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that ends with the guard as it never does without."""

    test: str
    stock: str
    guarded: str
    message: str

    def __str__(self) -> str:
        return f"{self.test}: {self.stock} in stock, {self.guarded} with the guard"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What three runs of a suite say.

    :ivar stable: the tests that ended alike in both stock runs, with their outcome.
    :ivar unstable: those that did not, which are not compared.
    :ivar faults: why these runs prove nothing.
    """

    stable: dict[str, str]
    unstable: dict[str, tuple[str, str]]
    differences: list[Difference]
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Tell whether the suite was run, and the guard changed nothing."""
        return not self.differences and not self.faults

    def counts(self) -> str:
        """Return how many of the compared tests ended how in stock."""
        outcomes = list(self.stable.values())
        parts = [f"{outcomes.count(each)} {each}" for each in sorted(set(outcomes))]
        return f"{len(outcomes)} compared ({', '.join(parts)})"


def compare(project: Project, first: Run, second: Run, guarded: Run) -> Comparison:
    """Compare a guarded run with two stock runs."""
    stable, unstable = _split(first.outcomes, second.outcomes)
    differences = [
        Difference(test, outcome, found, guarded.messages.get(test, ""))
        for test, outcome in stable.items()
        if (found := guarded.outcomes.get(test, NOT_RUN)) != outcome
    ]
    differences += [
        Difference(test, NOT_RUN, outcome, guarded.messages.get(test, ""))
        for test, outcome in guarded.outcomes.items()
        if test not in stable and test not in unstable
    ]
    faults = [*_faults(project, stable), *_stock_faults(first, second)]
    return Comparison(
        stable, unstable, differences, [*faults, *_guarded_faults(project, guarded)]
    )


def _split(
    first: dict[str, str], second: dict[str, str]
) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Separate the tests that ended alike in two runs from those that did not."""
    pairs = {
        test: (first.get(test, NOT_RUN), second.get(test, NOT_RUN))
        for test in {**first, **second}
    }
    stable = {test: one for test, (one, two) in pairs.items() if one == two}
    return stable, {test: pair for test, pair in pairs.items() if test not in stable}


def _faults(project: Project, stable: dict[str, str]) -> Iterator[str]:
    passed = list(stable.values()).count("passed")
    if passed < project.minimum:
        yield (
            f"only {passed} tests pass in both stock runs, of at least"
            f" {project.minimum}"
        )
    broken = [test for test, outcome in stable.items() if "while collected" in outcome]
    failed = [test for test in broken if stable[test].startswith("failed")]
    if failed:
        yield f"stock could not collect {', '.join(failed)}"


def _stock_faults(*runs: Run) -> Iterator[str]:
    for run in runs:
        if run.exit_status not in ENDED:
            yield f"a stock run ended with exit status {run.exit_status}"
        if run.guards or run.guard_file or GUARDED_POOL in run.pools:
            yield "a stock run had the guard"


def _guarded_faults(project: Project, run: Run) -> Iterator[str]:
    if run.exit_status not in ENDED:
        yield f"the guarded run ended with exit status {run.exit_status}"
    if not run.apps or run.guards != run.apps:
        yield f"{run.guards} of {run.apps} apps had a guard"
    if project.pools and not run.pools.get(GUARDED_POOL):
        yield "no pool was replaced by a guarded one"
