"""The last hour of all workers, as a table and as bars."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import click
import pytest

from flask_poolguard.cli import history_view
from flask_poolguard.cli.history_view import render, sparkline, to_dict
from flask_poolguard.report.hour import BindMinute, history_of
from flask_poolguard.report.model import Report
from flask_poolguard.report.text import Page
from flask_poolguard.state.history import History, Minute
from flask_poolguard.state.status import Worker
from tests.support.statuses import POOL, WORKER

NOW = 1_800_000_000 // 60 * 60


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the minute be the same in each run."""
    monkeypatch.setattr(time, "time", lambda: NOW + 30.0)


def a_worker(*minutes: Minute, bind: str = "default") -> Worker:
    """Return one that remembers these."""
    pool = replace(POOL, bind=bind, history=History(minutes))
    return replace(WORKER, pools=(pool,))


def a_report(*workers: Worker) -> Report:
    """Return a report without findings."""
    return Report(
        schema_version=1,
        taken_at="2027-01-15T08:00:30.000+00:00",
        app="shop",
        workers=workers,
        servers=(),
        findings=(),
        host="web1",
        binds=(),
    )


def lines_of(report: Report, minutes: int = 15, width: int = 80) -> list[str]:
    """Return what is printed, without colours."""
    text = render(report, history_of(report), minutes, Page(width, True))
    return click.unstyle(text).splitlines()


BUSY = Minute(
    at=NOW - 60,
    checkouts=200,
    waits=20,
    timeouts=3,
    unavailable=1,
    refused_writes=4,
    deadlocks=1,
    leaks=2,
    most_out=5,
    most_waiting=4,
    longest_wait_seconds=2.5,
    first_failed_at=NOW - 40.0,
    last_failed_at=NOW - 3.0,
)


def test_workers_are_added_up_and_binds_are_not() -> None:
    report = a_report(
        a_worker(Minute(at=NOW - 120, checkouts=7), BUSY),
        a_worker(replace(BUSY, longest_wait_seconds=4.0, first_failed_at=NOW - 50.0)),
        a_worker(Minute(at=NOW - 60, checkouts=9), bind="reports"),
    )
    first, second, third = history_of(report)
    assert (first.bind, first.minute) == ("default", Minute(at=NOW - 120, checkouts=7))
    expected = Minute(
        at=NOW - 60,
        checkouts=400,
        waits=40,
        timeouts=6,
        unavailable=2,
        refused_writes=8,
        deadlocks=2,
        leaks=4,
        most_out=10,
        most_waiting=8,
        longest_wait_seconds=4.0,
        first_failed_at=NOW - 50.0,
        last_failed_at=NOW - 3.0,
    )
    assert second.minute == expected
    assert (third.bind, third.minute.checkouts) == ("reports", 9)
    found = to_dict(report, history_of(report))["minutes"]
    assert [each["bind"] for each in found] == ["default", "default", "reports"]
    assert found[1]["timeouts"] == 6


def test_minutes_are_rows_and_the_hour_is_a_row_of_bars() -> None:
    report = a_report(
        a_worker(
            Minute(at=NOW - 3540, checkouts=100), BUSY, Minute(at=NOW, checkouts=3)
        )
    )
    lines = lines_of(report)
    assert lines[0].startswith("OK  1 worker, ")
    rows = [line.split() for line in lines if " default " in line and ":" in line[:6]]
    minute = time.strftime("%H:%M", time.localtime(NOW - 60))
    assert rows[0] == [
        minute,
        "default",
        *["200", "5", "20", "4", "2.5s", "3", "1", "2"],
    ]
    assert len(rows) == 2  # the first minute was longer ago
    (bars,) = [line for line in lines if line.startswith("checkouts ")]
    assert bars[10:70] == "▄" + " " * 57 + "█▁"
    assert bars[70:] == " 200"
    assert any(line.startswith(" timeouts ") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("width", [40, 60, 200])
def test_no_line_is_longer_than_the_page(width: int) -> None:
    report = a_report(a_worker(*(replace(BUSY, at=NOW - 60 * k) for k in range(60))))
    assert max(map(len, lines_of(report, 60, width))) <= width


def test_that_nothing_happened_is_said() -> None:
    assert "within the last hour" in " ".join(lines_of(a_report(a_worker())))
    old = a_report(a_worker(Minute(at=NOW - 1800, checkouts=5)))
    assert "within the last 15 minutes" in " ".join(lines_of(old))
    assert "within the last minute." in " ".join(lines_of(old, 1))


@pytest.mark.parametrize(
    ("values", "bars"),
    [([0, 1, 8], " ▁█"), ([1, 1], "██"), ([0, 1000, 1], " █▁"), ([5, 10], "▄█")],
)
def test_bars_are_relative_to_the_greatest(values: Any, bars: str) -> None:
    assert sparkline(values) == bars


def test_all_figures_of_a_minute_are_shown() -> None:
    """A new figure is not forgotten here."""
    assert len(history_view._HEADINGS) == len(
        history_view._row(BindMinute("default", BUSY))
    )
