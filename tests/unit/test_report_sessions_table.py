"""Sessions, holders and what goes on, as text for people, from reports made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import pytest

from flask_poolguard.cli import holders_view as holders_text
from flask_poolguard.cli import top_view as top_text
from flask_poolguard.cli.status_view import render
from flask_poolguard.cli.top_view import Top
from flask_poolguard.report import PoolStatus, Report, Session
from flask_poolguard.report.text import Page
from flask_poolguard.state.status import Holder
from tests.support.statuses import POOL, WORKER
from tests.unit.test_report_table import REPORT, UNKNOWN

PAGE = Page(80, break_words=False)
IDLE = Session(
    id=900,
    owner="worker",
    host="web1",
    pid=4123,
    bind="default",
    endpoint=None,
    site=None,
    held_seconds=None,
    kept=None,
    state="idle",
    state_seconds=2.0,
    age_seconds=60.0,
    statement=None,
    label="shop@web1:4123",
    user="app",
    database="shop",
    client="10.0.0.7:51000",
)
HELD = replace(
    IDLE,
    id=812,
    endpoint="shop.checkout",
    site="shop/views.py:88",
    held_seconds=1.25,
    state="idle in transaction",
    state_seconds=1.0,
)
ORPHAN = replace(
    IDLE, id=77, owner="orphan", pid=99, bind=None, state="active", state_seconds=34.0
)
FOREIGN = replace(
    IDLE, id=5, owner=None, host=None, pid=None, bind=None, label="psql", user="ann"
)


def report_with(*sessions: Session, hidden: tuple[str, ...] = ()) -> Report:
    """Return a report whose one server listed these sessions."""
    (server,) = REPORT.servers
    server = replace(server, sessions=sessions, sessions_hidden=hidden)
    return replace(REPORT, servers=(server,))


def section(report: Report, page: Page = PAGE) -> list[str]:
    """Return the lines about sessions."""
    for part in render(report, page).split("\n\n"):
        if part.startswith("Sessions on the server"):
            return part.splitlines()
    return []


class TestSessions:
    def test_are_not_mentioned_unless_asked_for(self) -> None:
        assert section(REPORT) == []

    def test_that_matter_come_first_and_the_rest_is_summed_up(self) -> None:
        more = (replace(IDLE, id=901, state_seconds=90.0), IDLE)
        assert section(report_with(*more, FOREIGN, HELD, ORPHAN)) == [
            "Sessions on the server of default",
            "  5 in all: 1 of workers that are gone, 1 held now (above), 2 idle in"
            " workers'",
            "      pools, 1 of others.",
            "  ORPHAN of web1 pid 99, which is gone: session 77, 60s old, active for"
            " 34s",
            "  pid 4123 default, in the pool: 2 idle for 90s at most",
            "  psql (user ann from 10.0.0.7): 1 idle for 2.0s",
        ]

    def test_of_other_hosts_and_processes_are_named(self) -> None:
        sessions = (
            replace(IDLE, owner="other-host", host="web2", pid=7, bind=None),
            replace(IDLE, owner="process", pid=4999, bind=None),
            replace(IDLE, bind=None),
            replace(IDLE, state=None, state_seconds=None, owner=None, label=""),
            replace(FOREIGN, owner="unknown"),
        )
        assert section(report_with(*sessions))[4:] == [
            "  pid 4123 by its label alone: 1 idle for 2.0s",
            "  pid 4999, not among the workers found here: 1 idle for 2.0s",
            "  web2 pid 7: 1 idle for 2.0s",
            "  user app from 10.0.0.7: 1 in an unknown state",
            "  psql (user ann from 10.0.0.7), of an unknown owner: 1 idle for 2.0s",
        ]

    def test_that_are_orphans_have_no_age_where_the_server_does_not_tell(self) -> None:
        orphan = replace(ORPHAN, age_seconds=None)
        assert section(report_with(orphan))[2:] == [
            "  ORPHAN of web1 pid 99, which is gone: session 77 active for 34s"
        ]

    def test_stay_within_twenty_lines(self) -> None:
        many = [replace(ORPHAN, id=number) for number in range(200)]
        lines = section(report_with(*many, HELD))
        assert len(lines) == 2 + 20
        assert lines[-1] == "  … and 181 more (--json has all)"

    def test_of_two_hundred_pooled_ones_take_a_line_per_worker(self) -> None:
        many = [replace(IDLE, id=each, pid=each % 8) for each in range(200)]
        lines = section(report_with(*many))
        assert len(lines) == 2 + 8
        assert "pid 7 default, in the pool: 25 idle for 2.0s at most" in lines[-1]

    def test_show_statements_below(self) -> None:
        orphan = replace(ORPHAN, statement="SELECT pg_sleep(60)")
        text = render(report_with(orphan), PAGE)
        assert "\n      77: SELECT pg_sleep(60)" in text

    def test_that_are_held_show_their_state_with_the_holder(self) -> None:
        held = replace(HELD, statement="UPDATE book")
        lines = render(report_with(held), PAGE).splitlines()
        place = lines.index("Held now, longest first")
        assert lines[place + 1 : place + 4] == [
            "    1.2s  pid 4123 default: shop.checkout at shop/views.py:88, thread"
            " Thread-1;",
            "          session 812 idle in transaction for 1.0s",
            "          UPDATE book",
        ]

    def test_tell_what_cannot_be_seen(self) -> None:
        assert section(report_with(hidden=("labels: it is off",)))[1:] == [
            "  None but the one that asked.",
            "  Not to be seen: labels: it is off.",
        ]

    def test_that_the_server_did_not_list_are_not_said_to_be_none(self) -> None:
        (server,) = REPORT.servers
        server = replace(server, sessions_hidden=("any: no answer",))
        lines = section(replace(REPORT, servers=(server,)))
        assert lines[1:] == ["  Not to be seen: any: no answer."]

    def test_of_one_server_with_two_binds_are_shown_once(self) -> None:
        report = report_with(IDLE)
        (server,), (bind,) = report.servers, report.binds
        report = replace(
            report,
            servers=(server, replace(server, bind="reports")),
            binds=(bind, replace(bind, bind="reports")),
        )
        text = render(report, PAGE)
        assert text.count("Sessions on the server of default, reports") == 1
        assert text.count("in all:") == 1

    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_fit_the_page_and_command_no_terminal(self, width: int) -> None:
        nasty = replace(FOREIGN, label="\x1b[2J\x07 evil", user="a\nb", statement=None)
        page = Page(width, break_words=True)
        lines = section(report_with(nasty, ORPHAN, IDLE), page)
        assert max(map(len, lines)) <= width
        assert all(line.isprintable() for line in lines)


class TestHolders:
    def text(self, report: Report, min_seconds: float = 0.0) -> list[str]:
        """Return the lines of `flask pool holders`."""
        held = holders_text.held_now(report, min_seconds)
        return holders_text.render(report, held, min_seconds, PAGE).splitlines()

    def test_stand_with_what_their_session_does(self) -> None:
        lines = self.text(report_with(HELD))
        assert lines[1].startswith("shop: 1 connection held, 1 worker on host web1")
        assert " ".join(lines[4].split()).endswith("812 idle in transaction for 1.0s")

    def test_have_a_question_mark_where_that_is_unknown(self) -> None:
        lines = self.text(report_with(hidden=("labels: it is off",)))
        assert "session 812 state ?" in " ".join(" ".join(lines).split())
        assert lines[-1] == "Not to be seen: labels: it is off."

    def test_are_none_in_a_line(self) -> None:
        (_, line, *rest) = self.text(report_with(HELD), min_seconds=60)
        assert line.startswith("shop: no connection held for 60 s or longer, 1 worker")
        assert len(rest) <= 1

    def test_that_are_not_listed_are_counted(self) -> None:
        crowded = replace(POOL, checked_out=3)
        workers = (replace(WORKER, pools=(crowded, UNKNOWN)),)
        text = "\n".join(self.text(replace(REPORT, workers=workers)))
        assert "(GuardedPool): 2 more, whose holders are not listed" in text
        assert "(StaticPool): who holds its connection is not known" in text

    def test_of_another_host_are_told_apart(self) -> None:
        report = replace(REPORT, workers=(replace(WORKER, host="web2"),))
        assert any("web2 pid 4123 default:" in line for line in self.text(report))


def worker_with(started: str = "a", **figures: Any) -> Report:
    """Return a report of one worker, whose pool has these figures."""
    worker = replace(WORKER, started_at=started, pools=(replace(POOL, **figures),))
    return replace(REPORT, workers=(worker,))


class TestTop:
    def rates(self, *reports: Report) -> list[float | None]:
        """Return the rates of the last of several reports, two seconds apart."""
        top = Top()
        for number, report in enumerate(reports):
            refresh = top.refresh(report, 100.0 + 2 * number)
        (pool,) = refresh.pools
        return [
            pool.checkouts_per_second,
            pool.connects_per_second,
            pool.waits_per_second,
            pool.timeouts_per_second,
        ]

    def test_knows_no_rates_at_first(self) -> None:
        assert self.rates(worker_with()) == [None] * 4

    def test_gives_what_was_added_per_second(self) -> None:
        usage = replace(POOL.usage, waits=POOL.usage.waits + 4)
        later = worker_with(checkouts=1240, connects=13, usage=usage, timeouts=4)
        assert self.rates(worker_with(), later) == [3.0, 0.5, 2.0, 0.0]

    def test_goes_by_the_time_that_really_passed(self) -> None:
        top = Top()
        top.refresh(worker_with(), 100.0)
        refresh = top.refresh(worker_with(checkouts=1234 + 30), 110.0)
        assert refresh.seconds == 10.0
        assert refresh.pools[0].checkouts_per_second == 3.0

    def test_compares_with_the_refresh_just_before(self) -> None:
        reports = [worker_with(checkouts=each) for each in (0, 100, 102)]
        assert self.rates(*reports)[0] == 1.0

    def test_begins_anew_with_a_new_worker_of_the_same_number(self) -> None:
        later = worker_with("b", checkouts=5000)
        assert self.rates(worker_with(), later) == [None] * 4

    def test_begins_anew_with_a_counter_that_went_back(self) -> None:
        assert self.rates(worker_with(), worker_with(checkouts=3))[0] is None

    def test_leaves_unknown_counts_unknown(self) -> None:
        unknown = worker_with(checkouts=None, timeouts=None)
        assert self.rates(unknown, unknown) == [None, 0.0, None, None]

    def test_puts_the_pools_first_where_most_wait_then_who_holds_longest(self) -> None:
        figures = [(0, 1.0), (2, 0.5), (0, 9.0), (7, 0.1), (None, None)]
        workers = tuple(
            replace(
                WORKER,
                pid=number,
                pools=(replace(POOL, waiting=waiting, longest_held_seconds=held),),
            )
            for number, (waiting, held) in enumerate(figures)
        )
        refresh = Top().refresh(replace(REPORT, workers=workers), 1.0)
        assert [each.pid for each in refresh.pools] == [3, 1, 2, 0, 4]

    def test_shows_dashes_first_and_then_figures(self) -> None:
        top = Top()
        first = click.unstyle(top_text.render(top.refresh(worker_with(), 1.0), PAGE))
        later = worker_with(checkouts=1240)
        second = click.unstyle(top_text.render(top.refresh(later, 3.0), PAGE))
        assert first.splitlines()[4].split()[5:] == ["–"] * 4  # noqa: RUF001 (the sign for nothing)
        assert second.splitlines()[4].split()[5:] == ["3.0", "0.0", "0.0", "0.0"]
        assert "4123  default  1/15        3" in second

    def test_never_shows_the_unknown_as_nothing(self) -> None:
        workers = (replace(WORKER, pools=(UNKNOWN,)),)
        refresh = Top().refresh(replace(REPORT, workers=workers), 1.0)
        row = top_text.render(refresh, PAGE).splitlines()[4].split()
        assert row[2].startswith("?/")
        assert row[3:5] == ["?", "?"]

    @pytest.mark.parametrize("width", [40, 60, 80, 200])
    @pytest.mark.parametrize("pools", [1, 9, 64])
    @pytest.mark.parametrize("height", [2, 8, 10, 24, 50])
    def test_fits_a_terminal(self, height: int, pools: int, width: int) -> None:
        holder = Holder(1.0, "e" * 40, "s" * 40, None, 1)
        pool: PoolStatus = replace(POOL, holders=(holder,) * 5)
        workers = tuple(
            replace(WORKER, pid=each, pools=(pool,)) for each in range(pools)
        )
        refresh = Top().refresh(replace(REPORT, workers=workers), 1.0)
        lines = top_text.render(refresh, Page(width, True), height).splitlines()
        # With the cursor's; a terminal of two lines has room for the first.
        assert len(lines) + 1 <= max(height, 3)
        if height >= 24 and pools == 64:
            text = "\n".join(lines)
            assert "more pools (--json has all)" in text
            assert "more holders (--json has all)" in text

    def test_shows_every_pool_where_there_is_no_terminal(self) -> None:
        workers = tuple(replace(WORKER, pid=each) for each in range(64))
        refresh = Top().refresh(replace(REPORT, workers=workers), 1.0)
        text = top_text.render(refresh, PAGE)
        assert "more pools" not in text
        assert len(refresh.pools) == 64
