"""What is not normal has a colour in the tables, and nothing else has."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flask_poolguard.cli import history_view, holders_view, status_view, top_view
from flask_poolguard.report.hour import history_of
from flask_poolguard.report.model import Report
from flask_poolguard.report.text import Page
from flask_poolguard.state.history import History, Minute
from flask_poolguard.state.status import Holder, PoolStatus, Worker
from tests.support.statuses import POOL, WORKER

PAGE = Page(200, break_words=False)
WELL = replace(
    POOL, waiting=0, oldest_wait_seconds=None, connecting=0, holders=(), checked_out=0
)
FULL = replace(WELL, size=5, max_overflow=0, checked_out=5)
HELD = Holder(75.0, "shop.export", "shop/views.py:88", "Thread-1", 812)
LONG = replace(WELL, checked_out=1, longest_held_seconds=75.0, holders=(HELD,))


def report_of(pool: PoolStatus, *, stopped: bool = False) -> Report:
    """Return a report of one worker with one pool, and no finding."""
    worker: Worker = replace(WORKER, pools=(pool,), stopped=stopped)
    return Report(
        schema_version=1,
        taken_at="2026-01-01T00:00:00.000+00:00",
        app="shop",
        workers=(worker,),
        servers=(),
        findings=(),
        host="web1",
        binds=(),
    )


def painted(text: str) -> list[str]:
    """Return what has a colour, below the verdict."""
    below = text.partition("\n")[2]
    return re.findall(r"\x1b\[3[13]m(.*?)\x1b\[0m", below)


def of_status(report: Report) -> list[str]:
    """Return what `flask pool status` paints."""
    return painted(status_view.render(report, PAGE))


def of_top(report: Report) -> list[str]:
    """Return what `flask pool top` paints."""
    return painted(top_view.render(top_view.Top().refresh(report, 1.0), PAGE))


def of_holders(report: Report) -> list[str]:
    """Return what `flask pool holders` paints."""
    held = holders_view.held_now(report)
    return painted(holders_view.render(report, held, 0.0, PAGE))


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (WELL, []),
        (FULL, ["5/5"]),
        (replace(FULL, waiting=3), ["5/5", "3"]),
        (replace(WELL, size=0, checked_out=50), []),  # no limit
        (LONG, ["75s", "75s"]),  # in the table, and in the list of holders
        (replace(LONG, held_warning_seconds=None), []),
        (replace(LONG, holders=(replace(HELD, kept=True),)), []),
    ],
    ids=["well", "full", "waiting", "unlimited", "long", "allowed", "kept"],
)
def test_of_a_pool(pool: PoolStatus, expected: list[str]) -> None:
    assert of_status(report_of(pool)) == expected
    assert of_top(report_of(pool)) == expected


def test_of_a_holder() -> None:
    gone = replace(LONG, holders=(replace(HELD, held_seconds=2.0, gone=True),))
    assert of_holders(report_of(LONG)) == ["75s"]
    assert of_holders(report_of(gone)) == ["2.0s"]
    short = replace(LONG, holders=(replace(HELD, held_seconds=2.0),))
    assert of_holders(report_of(short)) == []


def test_of_a_worker_that_is_stopped() -> None:
    pid, line = of_status(report_of(WELL, stopped=True))
    assert (pid, line) == ("4123", "Stopped by a signal, or a debugger")
    assert of_top(report_of(WELL, stopped=True)) == ["4123"]


def test_of_timeouts_between_two_refreshes() -> None:
    top = top_view.Top()
    top.refresh(report_of(WELL), 1.0)
    later = report_of(replace(WELL, timeouts=(WELL.timeouts or 0) + 4))
    assert painted(top_view.render(top.refresh(later, 3.0), PAGE)) == ["2.0"]


def test_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000 // 60 * 60
    monkeypatch.setattr("time.time", lambda: float(now))
    bad = Minute(
        at=now - 60,
        checkouts=50,
        waits=9,
        timeouts=4,
        unavailable=5,
        leaks=6,
        most_waiting=7,
        longest_wait_seconds=2.5,
        first_waited_at=now - 30.0,
        last_waited_at=now - 20.0,
    )
    usual = Minute(at=now - 120, checkouts=50, waits=3, longest_wait_seconds=0.02)
    report = report_of(replace(WELL, history=History((usual, bad))))
    text = history_view.render(report, history_of(report), 15, PAGE)
    assert painted(text) == ["7", "2.5s", "4", "5", "6"]


def test_leaves_the_columns_where_they_are() -> None:
    view = status_view.render(report_of(replace(FULL, waiting=3)), PAGE)
    heading, row = (
        re.sub(r"\x1b\[\d+m", "", line)
        for line in view.splitlines()
        if re.search(r"\bPID\b|^ *4123", line)
    )
    assert row.index("5/5") + 3 == heading.index("OUT/LIMIT") + len("OUT/LIMIT")
    assert len(row) == len(heading)
