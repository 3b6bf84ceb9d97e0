"""The hooks of pytest that name the tests that leave a connection out.

Until an app is guarded, no more is imported than what pytest itself needs.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest

from .. import guarded_apps
from ..log_lines import warn

if t.TYPE_CHECKING:
    from flask import Flask

    from .left_out import LeftByTest

# Where a report carries the leaks of its test, also from a worker of xdist.
_ON_REPORT: t.Final = "poolguard_leaks"
# So many tests are named unless pytest is run with -v.
MOST_NAMED: t.Final = 20

HELP: t.Final = (
    "Give each back in its test: use it in a with block, or close it. One that is to"
    " stay open is kept with guard.keep(), or the test is marked"
    " @pytest.mark.allow_leak. The ini option poolguard_leaks is {mode!r}; others are"
    " {others}."
)
MODES: t.Final = ("warn", "error", "off")


class LeakWatch:
    """Watches each test from its setup to the end of its teardown.

    :param mode: ``"warn"``, or ``"error"`` to fail the tests.
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._leaks: LeftByTest | None = None
        self._named: dict[str, list[str]] = {}
        self._has_failed = False
        guarded_apps.on_guarded.append(self._guarded)

    def _guarded(self, app: Flask) -> None:
        if self._leaks is None:
            from .left_out import LeftByTest

            self._leaks = LeftByTest()

    def pytest_unconfigure(self) -> None:
        """Let go of the process: pytest may be run again in it."""
        guarded_apps.on_guarded.remove(self._guarded)
        if self._leaks is not None:
            self._leaks.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin with a test."""
        self._has_failed = False
        if self._leaks is not None:
            self._leaks.begin()

    # Old-style wrappers: an older pytest knows no others, and the plugin is loaded
    # wherever the package is installed.
    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[t.Any]
    ) -> Iterator[None]:
        """Leave alone what a fixture of more than one test takes."""
        if fixturedef.scope == "function":
            yield
            return
        before = None if self._leaks is None else self._leaks.now()
        yield
        if self._leaks is not None:
            self._leaks.leave_alone(before)

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        """Put what a test left on the report of its teardown."""
        outcome = yield
        report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined] # pluggy sends it
        self._has_failed = self._has_failed or report.failed
        if call.when != "teardown" or self._leaks is None:
            return
        texts = self._left_by(item)
        if not texts or item.get_closest_marker("allow_leak") is not None:
            return
        setattr(report, _ON_REPORT, texts)
        if self._mode == "error" and not self._has_failed:
            report.outcome = "failed"
            report.longrepr = "\n".join(
                [f"{item.nodeid} leaked:", *texts, help_for(self._mode)]
            )

    def _left_by(self, item: pytest.Item) -> list[str]:
        """Return what a test left. An error in a hook would end the whole run."""
        try:
            return [] if self._leaks is None else self._leaks.end()
        except Exception:
            warn(
                "guard_failed",
                "What %s left could not be determined",
                item.nodeid,
                exc_info=True,
            )
            return []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what any worker reports."""
        for text in getattr(report, _ON_REPORT, ()):
            named = self._named.setdefault(report.nodeid, [])
            if text not in named:
                named.append(text)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Name the tests, once each."""
        if not self._named:
            return
        terminalreporter.section("tests that left a connection out", sep="=")
        shown = list(self._named.items())
        if terminalreporter.verbosity < 1:
            shown = shown[:MOST_NAMED]
        for nodeid, texts in shown:
            for text in texts:
                terminalreporter.write_line(f"{nodeid}: {text}")
        more = len(self._named) - len(shown)
        if more:
            terminalreporter.write_line(f"… and {more} more tests; -v names all")
        terminalreporter.write_line(help_for(self._mode))


def help_for(mode: str) -> str:
    """Return what to do, and how to set the plugin otherwise."""
    others = " and ".join(repr(each) for each in MODES if each != mode)
    return HELP.format(mode=mode, others=others)
