"""Skip what this machine cannot test, but never quietly."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

MARK = "NOT TESTED: "


def stop_test(reason: str) -> NoReturn:
    """Skip the running test loudly; fail it in CI.

    :param reason: what is missing and how to get it.
    """
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is a failure.)", pytrace=False)
    skip_test(reason)


def skip_test(reason: str) -> NoReturn:
    """Skip the running test loudly, in CI too: nobody there can help it.

    :param reason: what is not possible here.
    """
    pytest.skip(MARK + reason)


def summarize(reporter: pytest.TerminalReporter) -> None:
    """List what was missing, with the number of tests that needed it."""
    counts: dict[str, int] = {}
    for report in reporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _, mark, reason = text.partition(MARK)
        if mark:
            counts[reason] = counts.get(reason, 0) + 1
    if not counts:
        return
    reporter.section("NOT TESTED", sep="!", red=True, bold=True)
    for reason, count in sorted(counts.items()):
        reporter.line(f"{count} tests did not run. {reason}", red=True)
    reporter.line("Everything above was left out: this run proves nothing about it.")
