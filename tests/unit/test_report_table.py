"""The table for people, from reports made by hand."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from flask_poolguard.cli.status_view import render
from flask_poolguard.report import (
    BindSetting,
    BindSettings,
    Finding,
    Holder,
    PoolStatus,
    Report,
    Server,
)
from flask_poolguard.report.text import Page, duration
from tests.support.statuses import POOL, WORKER

REPORT = Report(
    schema_version=1,
    taken_at="2026-01-01T00:00:00.000+00:00",
    app="shop",
    workers=(WORKER,),
    servers=(Server("default", "MariaDB 10.11.19", True, 600.0, 151, 40, 18),),
    findings=(Finding("warning", "budget", "Too many.", "Have fewer."),),
    host="web1",
    binds=(
        BindSettings(
            "default",
            POOL.url,
            "GuardedPool",
            (BindSetting("size", "5", "default"),),
        ),
    ),
)
UNKNOWN = replace(
    POOL,
    pool_class="StaticPool",
    size=None,
    max_overflow=None,
    checked_out=None,
    idle=None,
    overflow=None,
    waiting=None,
    longest_held_seconds=None,
    recycle_seconds=None,
    peak_checked_out=None,
    timeouts=None,
    holders=(),
)


def with_pools(*pools: PoolStatus) -> Report:
    """Return the report with other pools in its one worker."""
    return replace(REPORT, workers=(replace(WORKER, pools=pools),))


def lines_of(report: Report, width: int = 80, *, break_words: bool = True) -> list[str]:
    """Return the lines of a report, without colours."""
    return click.unstyle(render(report, Page(width, break_words))).splitlines()


def row_of(report: Report) -> list[str]:
    """Return the cells of the first worker's first line."""
    lines = lines_of(report)
    (heading,) = [
        number for number, line in enumerate(lines) if line.split()[:1] == ["PID"]
    ]
    return lines[heading + 1].split()


class TestHeight:
    @pytest.mark.parametrize("width", [40, 80])
    @pytest.mark.parametrize("height", [3, 8, 12, 24, 60])
    def test_is_that_of_the_terminal(self, height: int, width: int) -> None:
        holder = Holder(1.0, "e" * 40, "s" * 40, None, 1)
        report = with_pools(replace(POOL, holders=(holder,) * 9))
        page = Page(width, True)
        whole = render(report, page).splitlines()
        lines = render(report, page, height).splitlines()
        assert len(lines) < height  # the last line is the cursor's
        assert max(map(len, map(click.unstyle, lines))) <= width
        if height > len(whole):
            assert lines == whole
        elif height == 24 and width == 80:
            assert "more (--json has all)" in "\n".join(lines)
            assert "Too many." in "\n".join(lines)
        elif height <= 8:
            kept = height - 2
            assert lines[:kept] == whole[:kept]
            assert lines[kept].startswith("… ")
            assert lines[kept].endswith(" more lines: flask pool status")


class TestRows:
    def test_show_a_pool_in_one_line(self) -> None:
        assert lines_of(REPORT)[1].startswith("shop: 1 worker on host web1, taken at ")
        assert row_of(REPORT) == (
            ["4123", "default", "1/15", "2", "3", "9", "1.2s", "4", "5", "500s"]
        )

    def test_show_what_is_unknown_as_a_question_mark_and_never_as_0(self) -> None:
        assert row_of(with_pools(UNKNOWN)) == (
            ["4123", "default", "?/–", "?", "?", "?", "?", "?", "5", "–"]  # noqa: RUF001 (the dash shown)
        )

    def test_show_that_nothing_is_held(self) -> None:
        idle = replace(POOL, checked_out=0, longest_held_seconds=None, holders=())
        assert row_of(with_pools(idle))[6] == "–"  # noqa: RUF001 (the dash shown)
        assert not any("Held now" in line for line in lines_of(with_pools(idle)))

    @pytest.mark.parametrize("limits", [(0, 10), (5, -1)])
    def test_show_that_there_is_no_limit(self, limits: tuple[int, int]) -> None:
        pool = replace(POOL, size=limits[0], max_overflow=limits[1])
        assert row_of(with_pools(pool))[2] == "1/∞"

    def test_show_a_worker_of_which_nothing_could_be_read(self) -> None:
        assert row_of(with_pools()) == ["4123", "–", *["?"] * 8]  # noqa: RUF001 (the dash shown)

    def test_show_another_containers_host(self) -> None:
        report = replace(REPORT, host="web2")
        assert row_of(report)[0] == "web1:4123"

    def test_stand_below_each_other_where_columns_do_not_fit(self) -> None:
        pool = replace(POOL, bind="a-bind-with-an-unusually-long-name")
        lines = lines_of(with_pools(pool))
        assert "pid 4123, bind a-bind-with-an-unusually-long-name" in lines
        assert any("waiting 3, peak 9" in line for line in lines)


class TestWidth:
    @pytest.mark.parametrize("width", [40, 80, 132])
    def test_is_kept_by_every_line(self, width: int) -> None:
        long = "x" * 300
        pool = replace(
            POOL, bind=long, holders=(Holder(1.0, long, f"/{long}/views.py:1", "t", 1),)
        )
        report = replace(
            with_pools(pool),
            app=long,
            findings=(Finding("critical", long, long, long),),
            binds=(BindSettings("default", f"mysql://{long}", "GuardedPool", ()),),
        )
        lines = lines_of(report, width)
        assert max(map(len, lines)) <= width
        assert sum(line.count("x") for line in lines) >= 300 * 7

    def test_gives_way_to_a_word_that_somebody_may_want_to_copy(self) -> None:
        url = "mysql://" + "x" * 100
        report = replace(
            REPORT, binds=(BindSettings("default", url, "GuardedPool", ()),)
        )
        assert any(url in line for line in lines_of(report, break_words=False))
        assert not any(url in line for line in lines_of(report))


class TestText:
    def test_cannot_command_the_terminal(self) -> None:
        holder = Holder(1.0, "/\x1b[2J\x07\n\u202e", "a.py:1", "t\x9b31m", 1)
        pool = replace(POOL, bind="\x1b[31m", holders=(holder,))
        text = "\n".join(lines_of(with_pools(pool)))
        assert all(char.isprintable() for char in text.replace("\n", ""))
        assert r"/\x1b[2J\x07\n\u202e at a.py:1" in text

    def test_names_ten_holders_and_counts_the_others(self) -> None:
        holders = tuple(
            Holder(float(number), f"view{number}", "a.py:1", None, None)
            for number in range(13)
        )
        lines = lines_of(with_pools(replace(POOL, holders=holders)))
        start = lines.index("Held now, longest first")
        assert "view12 at a.py:1" in lines[start + 1]
        assert "view3 at a.py:1" in lines[start + 10]
        assert lines[start + 11] == "  … and 3 more (--json has all)"

    def test_tells_a_connection_that_is_being_opened(self) -> None:
        holder = Holder(0.1, None, None, None, None)
        lines = lines_of(with_pools(replace(POOL, holders=(holder,))))
        assert "    0.1s  pid 4123 default: is being opened" in lines

    def test_names_workers_that_have_been_quiet(self) -> None:
        pools = (replace(POOL, waiting=0),)
        worker = replace(WORKER, updated_seconds_ago=95.0, pools=pools)
        report = replace(REPORT, workers=(worker,))
        assert "Quiet (nothing to do): 4123 for 95s" in lines_of(report)

    def test_names_workers_that_are_stopped(self) -> None:
        worker = replace(WORKER, updated_seconds_ago=95.0, stopped=True)
        lines = lines_of(replace(REPORT, workers=(worker,)))
        assert "Stopped by a signal, or a debugger: 4123" in lines
        assert not any(line.startswith("Quiet") for line in lines)

    def test_names_workers_that_cannot_connect(self) -> None:
        pool = replace(POOL, waiting=1, connecting=3, oldest_connect_seconds=8.2)
        lines = lines_of(
            replace(
                REPORT,
                workers=(replace(WORKER, pools=(pool,), updated_seconds_ago=95.0),),
            )
        )
        assert "Connecting: 4123 default: 3 for 8.2s" in lines
        assert not any(line.startswith("Quiet") for line in lines)
        row = next(line for line in lines if line.lstrip().startswith("4123"))
        assert row.split()[4] == "4"

    def test_names_the_slowest_connect_if_it_was_slow(self) -> None:
        for seconds, expected in ((0.9, False), (2.34, True)):
            pool = replace(POOL, longest_connect_seconds=seconds)
            workers = (replace(WORKER, pools=(pool,)),)
            lines = lines_of(replace(REPORT, workers=workers))
            assert ("Slowest connect so far: 4123 default: 2.3s" in lines) == expected

    def test_shows_servers_and_findings(self) -> None:
        text = "\n".join(lines_of(REPORT))
        assert text.startswith(
            "WARNING  Too many. (budget)\nshop: 1 worker on host web1"
        )
        findings, servers = (
            "Findings\n  WARNING budget: Too many.\n    fix: Have fewer.\n\n",
            "Servers\n"
            "  default: mysql+pymysql://app@db/shop\n"
            "    MariaDB 10.11.19, 40 of 151 connections, 18 of them ours, closes"
            " idle ones\n    after 600 s",
        )
        assert 0 < text.index(findings) < text.index(servers)

    def test_hints_are_last_and_no_verdict(self) -> None:
        hint = Finding("info", "tls", "No TLS.", "Use TLS.")
        lines = lines_of(replace(REPORT, findings=(hint,)))
        assert lines[0].startswith("OK  1 worker, ")
        assert lines[-3:] == ["Hints", "  INFO tls: No TLS.", "    fix: Use TLS."]

    @pytest.mark.parametrize(
        ("server", "expected"),
        [
            (Server("default", None, None, None, None, None, None), "not asked"),
            (Server("default", None, False, None, None, None, None), "unreachable"),
            (
                Server("default", "SQLite 3.40.1", None, None, None, None, None),
                "SQLite 3.40.1, no such file yet",
            ),
            (
                Server("default", "MySQL 8", True, None, 151, None, None),
                "MySQL 8, ? of 151 connections, ? of them ours",
            ),
        ],
    )
    def test_says_what_is_not_known_of_a_server(
        self, server: Server, expected: str
    ) -> None:
        text = "\n".join(lines_of(replace(REPORT, servers=(server,))))
        assert expected in text

    def test_shows_the_settings_when_nobody_is_there(self) -> None:
        report = replace(REPORT, workers=())
        assert "    size 5 (default)" in lines_of(report)
        assert "    size 5 (default)" not in lines_of(REPORT)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "–"),  # noqa: RUF001 (the dash shown)
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (10, "10s"),
        (119.9, "119s"),
        (190, "3m10s"),
        (7500, "2h05m"),
        (266400, "3d02h"),
    ],
)
def test_a_duration_is_as_short_as_it_can_be_read(
    seconds: float | None, expected: str
) -> None:
    assert duration(seconds) == expected
