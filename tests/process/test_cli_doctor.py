"""`flask pool doctor`, run beside the workers of a real server."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from sqlalchemy import URL

from flask_poolguard.cli.doctor_view import is_critical, render_diagnosis
from flask_poolguard.report import Finding, Report
from flask_poolguard.report.text import Page
from tests.conftest import Database, started
from tests.support.desk import (
    DeskServer,
    Json,
    codes,
    environment,
    finding,
    pool_of,
    run_pool,
    status,
)
from tests.support.monitoring import check
from tests.support.reporting import sessions
from tests.support.servers import DatabaseServer, MariaDBServer, PostgreSQLServer
from tests.support.waiting import free_port, wait_until

MAXIMUM = 40
LIMIT = {"FLASK_POOLGUARD_POOL_SIZE": "2", "FLASK_POOLGUARD_MAX_OVERFLOW": "2"}


@pytest.fixture(scope="module", params=[MariaDBServer, PostgreSQLServer])
def small_server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """Run a server of each product that takes few connections."""
    yield from started(lambda: request.param(max_connections=MAXIMUM))


@pytest.fixture
def url(small_server: DatabaseServer) -> Iterator[URL]:
    """Return the URL of a fresh database on the small server."""
    name = small_server.create_database()
    yield small_server.url(database=name)
    small_server.drop_database(name)


def doctor(env: dict[str, str], *arguments: str, status: int = 0) -> Json:
    """Return what `flask pool doctor --json` prints, after one look."""
    text = run_pool(env, "doctor", "--json", *arguments, status=status)
    diagnosis: Json = json.loads(text)
    return diagnosis


def first_wait(env: dict[str, str]) -> float:
    """Return for how long somebody has waited for the one worker's connections."""
    (worker,) = status(env)["workers"]
    return float(worker["pools"][0]["oldest_wait_seconds"] or 0)


def held_for(env: dict[str, str], pid: int) -> float:
    """Return for how long all of a worker's holders have had their connections."""
    return min(
        float(each["held_seconds"]) for each in pool_of(status(env), pid)["holders"]
    )


@pytest.mark.process
class TestBesideWorkers:
    @pytest.mark.quick
    def test_it_finds_nothing_where_nothing_is_wrong(
        self, tmp_path: Path, url: URL, small_server: DatabaseServer
    ) -> None:
        env = {**environment(url), **LIMIT}
        with DeskServer(tmp_path, env, workers=2) as desk:
            desk.wake()
            diagnosis = doctor(env)
            text = run_pool(env, "doctor")
        # The oldest drivers that are supported have faults.
        assert set(codes(diagnosis)) <= {"driver"}
        assert diagnosis["looked_at"]["workers"] == 2
        assert diagnosis["looked_at"]["servers"] == 1
        assert diagnosis["counts"]["critical"] == 0
        if not codes(diagnosis):
            line = " ".join(text.split()).partition("No findings. Looked at ")[2]
            assert line.startswith("2 workers, 2 pools and the settings, 1 server")
            assert small_server.product in line

    def test_it_finds_a_budget_that_is_exceeded_and_one_that_would_be(
        self, tmp_path: Path, url: URL
    ) -> None:
        env = environment(url)
        with DeskServer(tmp_path, env, workers=3) as desk:
            desk.wake()
            now = doctor(env, "--seconds", "0")
            small = {**env, **LIMIT}
            fits = doctor(small, "--seconds", "0", "--workers", "8")
            planned = doctor(small, "--seconds", "0", "--workers", "8", "--hosts", "2")
        assert "3 workers may open 45" in finding(now, "budget")["message"]
        assert "budget" not in codes(fits)
        assert "16 workers may open 64" in finding(planned, "budget")["message"]

    def test_two_names_of_one_server_have_one_budget(
        self, tmp_path: Path, url: URL
    ) -> None:
        reports = url.set(host="localhost").render_as_string(hide_password=False)
        env = environment(url, REPORTS_DATABASE_URL=reports)
        with DeskServer(tmp_path, env) as desk:
            desk.wake()
            assert "budget" not in codes(doctor(env, "--workers", "1"))
            found = finding(doctor(env, "--workers", "2"), "budget")
        assert found["message"].startswith("2 workers may open 60 connections")

    def test_a_full_server_is_critical_and_names_what_is_ours(
        self, tmp_path: Path, url: URL
    ) -> None:
        env = {**environment(url), **LIMIT}
        # Of 40, of which PostgreSQL reserves 3.
        others = 35 if url.get_backend_name() == "mysql" else 34
        with DeskServer(tmp_path, env, workers=2, threads=3) as desk:
            desk.wake()
            with sessions(url, others):
                held = desk.hold(1)
                assert held
                # One more for each worker that idles.
                diagnosis = doctor(env, "--seconds", "0", status=0)
                text = run_pool(env, "doctor", "--seconds", "0", status=0)
            desk.let_go()
        full = finding(diagnosis, "full")
        assert full["level"] == "warning"  # no request waits for one
        assert re.search(r"[23] of them by this app's workers", full["message"])
        # Worst first, with all that an operator needs.
        assert text.index("WARNING full") < text.index("so: ") < text.index("fix: ")
        assert "see: flask pool explain full" in text
        # Nor is there room for what the workers may still open.
        assert "WARNING budget" in text
        assert "CRITICAL" not in text

    def test_levels_below_the_one_asked_for_are_counted_but_not_shown(
        self, tmp_path: Path, url: URL
    ) -> None:
        env = environment(url)
        diagnosis = doctor(env, "--seconds", "0", "--level", "warning")
        assert "no-workers" not in codes(diagnosis)
        assert diagnosis["counts"]["info"] == 1
        text = run_pool(env, "doctor", "--seconds", "0", "--level", "warning")
        assert "could be better (1 not shown)" in text


@pytest.mark.process
class TestOutage:
    """Every connection is held, and others want one."""

    SMALL: ClassVar = {
        "FLASK_POOLGUARD_POOL_SIZE": "2",
        "FLASK_POOLGUARD_MAX_OVERFLOW": "1",
    }

    def test_is_critical_and_names_the_lines_that_hold_and_the_setting(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = {**environment(mariadb_url, FLASK_POOLGUARD_POOL_TIMEOUT="60")}
        env |= self.SMALL
        with DeskServer(tmp_path, env, threads=12) as desk:
            (pid, *_) = desk.hold(3)
            with desk.in_background("/wait"):
                wait_until(
                    lambda: first_wait(env) > 5, seconds=30, what="an alarm of `check`"
                )
                diagnosis = doctor(env, "--seconds", "0", status=1)
                text = run_pool(env, "doctor", "--seconds", "0", status=1)
        found = finding(diagnosis, "saturated")
        assert found["level"] == "critical"
        assert re.match(
            r"1 waits for a connection of bind 'default', the first for \d+(\.\d)?s"
            rf" \(worker {pid}: 1 waiting, 3 of 3 out\)\. Those out are held by hold"
            r" at apps/desk\.py:\d+, now at apps/desk\.py:\d+ in hold"
            r" \(3, the longest for ",
            found["message"],
        )
        assert "POOLGUARD_POOL_SIZE (now 2)" in found["fix"]
        assert "waited for 60 s fails" in found["consequence"]
        assert text.index("CRITICAL saturated") < text.index("1 critical")

    def test_that_is_over_is_told_with_its_time(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_POOL_TIMEOUT="0.1")
        env |= self.SMALL
        with DeskServer(tmp_path, env, threads=4) as desk:
            (pid, *_) = desk.hold(3)
            desk.get("/wait")
            desk.let_go()
            over = finding(doctor(env, "--seconds", "0.1"), "timeouts")
            unwatched = finding(status(env), "timeouts")
        assert over["level"] == "warning"
        assert re.fullmatch(
            r"1 of 4 checkouts of bind 'default' got no connection in time since its"
            r" worker started \S+ ago; 1 of them at \d\d:\d\d:\d\d, none within"
            rf" 0\.1 s \(by worker: {pid}: 1\)",
            over["message"],
        )
        assert unwatched["level"] == "warning"
        assert unwatched["summary"].startswith("1 of 4 checkouts of bind default got")

    def test_that_goes_on_is_critical_by_the_rising_count(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_POOL_TIMEOUT="0.1")
        env |= self.SMALL
        with DeskServer(tmp_path, env, threads=4) as desk:
            desk.hold(3)
            done = threading.Event()

            def want() -> None:
                while not done.is_set():
                    desk.get("/wait")

            with ThreadPoolExecutor(1) as executor:
                wanting = executor.submit(want)
                try:
                    diagnosis = doctor(env, "--seconds", "5", status=1)
                finally:
                    done.set()
                    wanting.result(30)
        found = finding(diagnosis, "timeouts")
        assert found["level"] == "critical"
        assert re.search(r", [1-9]\d* of them within 5 s ", found["message"])


@pytest.mark.process
class TestSaturationThatIsOver:
    """A pool was full, requests waited, and all were served."""

    def test_is_found_with_its_time(self, tmp_path: Path, mariadb_url: URL) -> None:
        env = environment(
            mariadb_url,
            FLASK_POOLGUARD_POOL_SIZE="1",
            FLASK_POOLGUARD_MAX_OVERFLOW="0",
            FLASK_POOLGUARD_POOL_TIMEOUT="100",
        )
        with DeskServer(tmp_path, env, threads=4) as desk:
            (pid,) = desk.hold(1)
            with ThreadPoolExecutor(1) as executor:
                wanting = executor.submit(desk.get, "/wait", seconds=100)
                wait_until(
                    lambda: first_wait(env) > 1, seconds=30, what="a noticeable wait"
                )
                desk.let_go()
                wanting.result(60)
            wait_until(
                lambda: "saturated" in codes(doctor(env, "--seconds", "0")),
                seconds=30,
                what="the worker's history",
            )
            diagnosis = doctor(env, "--seconds", "0")
            plugin = check(env)
        found = finding(diagnosis, "saturated")
        assert found["level"] == "warning"
        assert re.match(
            r"Requests waited for a connection of bind 'default' (at|between) .*, the"
            rf" longest for \S+s: 1 of \d checkouts of worker {pid} found none of 1"
            r" free$",
            found["message"],
        )
        assert "timeouts" not in codes(diagnosis)
        assert plugin.state == "WARNING"
        assert "requests waited for pool default of worker" in plugin.text


@pytest.mark.process
class TestHeld:
    """Connections that are out for longer than POOLGUARD_HELD_WARNING."""

    def test_are_found_where_transactions_cannot_be_seen(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_HELD_WARNING="0.5")
        with DeskServer(tmp_path, env, threads=4) as desk:
            (pid, _) = desk.hold(2)
            wait_until(lambda: held_for(env, pid) > 0.5, seconds=30, what="a long time")
            # What the worker was told counts, whatever this shell is told.
            env["FLASK_POOLGUARD_HELD_WARNING"] = "3600"
            diagnosis = doctor(env, "--seconds", "0")
            text = " ".join(run_pool(env, "doctor", "--seconds", "0").split())
        found = finding(diagnosis, "held")
        assert found["level"] == "warning"
        assert re.match(
            r"2 connections of bind 'default' held by hold at apps/desk\.py:\d+",
            found["message"],
        )
        assert f"in worker {pid}" in found["message"]
        assert "POOLGUARD_HELD_WARNING (now 0.5 s)" in found["fix"]
        hidden = diagnosis["looked_at"]["sessions_hidden"]
        assert any("GRANT PROCESS ON *.* TO 'app'@'%'" in each for each in hidden)
        assert text.count("Not to be seen:") == 1
        assert f"Not to be seen: {'; '.join(hidden)}." in text

    @pytest.mark.parametrize("allowed", ["3600", "null"])
    def test_are_none_where_that_is_allowed(
        self, tmp_path: Path, mariadb_url: URL, allowed: str
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_HELD_WARNING=allowed)
        with DeskServer(tmp_path, env, threads=4) as desk:
            (pid,) = desk.hold(1)
            wait_until(lambda: held_for(env, pid) > 0.5, seconds=30, what="a long time")
            env["FLASK_POOLGUARD_HELD_WARNING"] = "0.1"
            assert "held" not in codes(doctor(env, "--seconds", "0"))

    def test_are_found_once_where_transactions_are_seen(
        self, tmp_path: Path, postgresql_url: URL
    ) -> None:
        env = environment(postgresql_url, FLASK_POOLGUARD_HELD_WARNING="0.5")
        with DeskServer(tmp_path, env, threads=4) as desk:
            desk.hold(1)
            wait_until(
                lambda: "idle-in-transaction" in codes(doctor(env, "--seconds", "0")),
                seconds=30,
                what="the finding",
            )
            diagnosis = doctor(env, "--seconds", "0")
        assert "held" not in codes(diagnosis)
        assert diagnosis["looked_at"]["sessions_hidden"] == []


@pytest.mark.process
class TestServerGone:
    def test_is_critical_and_said_in_time(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(served_database.url.set(port=free_port()))
        began = time.monotonic()
        diagnosis = doctor(env, "--seconds", "30", status=1)
        # There is nothing to watch; the bound is generous, the watch would be longer.
        assert time.monotonic() - began < 25
        assert codes(diagnosis)[0] == "server-unreachable"


@pytest.mark.process
class TestServerWithoutRoom:
    @pytest.mark.parametrize("kind", [MariaDBServer, PostgreSQLServer])
    def test_leaves_what_the_app_has_and_may_open(
        self, tmp_path: Path, kind: type[DatabaseServer]
    ) -> None:
        # PostgreSQL keeps three for administrators.
        usable = 20 - (3 if kind is PostgreSQLServer else 0)
        with kind(max_connections=20) as server:
            url = server.url(database=server.create_database())
            env = {**environment(url), **LIMIT}
            plan = ("--workers", "8", "--hosts", "3")
            with DeskServer(tmp_path, env, workers=2) as desk:
                desk.wake()
                with sessions(url, usable - 2):
                    now = finding(doctor(env, "--seconds", "0", status=1), "full")
                    diagnosis = doctor(env, "--seconds", "0", *plan, status=1)
                    report = status(env)
                    text = run_pool(env, "status")
        planned = finding(diagnosis, "full")
        assert " refuses connections: " in now["message"]
        assert now["message"].endswith(
            "This app has 2 connections open there by 2 workers on this host; 2 workers"
            " may open 8 connections: 2 × 4 (default)"
        )
        assert planned["message"].endswith(
            "; 24 workers may open 96 connections: 24 × 4 (default)"
        )
        assert "lower POOLGUARD_POOL_SIZE and" in planned["fix"]
        (told,) = report["servers"]
        assert (told["reachable"], told["failure"]) == (False, "full")
        assert "    full, it refuses connections: see the findings\n" in text
        assert "unreachable" not in text


@pytest.mark.process
class TestOptions:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("--workers", "0"),
            ("--hosts", "-1"),
            ("--seconds", "61"),
            ("--seconds", "nan"),
            ("--level", "loud"),
        ],
    )
    def test_that_make_no_sense_are_refused(
        self, sqlite_url: URL, arguments: tuple[str, ...]
    ) -> None:
        with pytest.raises(AssertionError, match="Invalid value"):
            run_pool(environment(sqlite_url), "doctor", *arguments)

    def test_of_sqlite_need_no_server(self, sqlite_url: URL) -> None:
        diagnosis = doctor(environment(sqlite_url), "--seconds", "60")
        assert codes(diagnosis) == ["no-workers"]


def report_of(*findings: Finding) -> Report:
    """Return a report of nothing but findings."""
    return Report(1, "2026-11-23T05:25:38+00:00", "shop", (), (), findings, "vm", ())


def made(level: Any, code: str = "budget", message: str = "It is so.") -> Finding:
    """Return a finding."""
    return Finding(level, code, message, "Change it.", "It fails.")


class TestText:
    PAGE = Page(80, break_words=False)

    def test_summary_counts_by_level(self) -> None:
        report = report_of(
            made("critical"), made("critical"), made("warning"), *[made("info")] * 3
        )
        text = render_diagnosis(report, "info", self.PAGE, "db-pool")
        assert text.splitlines()[-1] == "2 critical, 1 warning, 3 could be better"
        assert is_critical(report)

    def test_summary_says_what_is_left_out(self) -> None:
        report = report_of(made("warning"), made("info"))
        text = render_diagnosis(report, "warning", self.PAGE, "db-pool")
        assert "INFO" not in text
        assert text.splitlines()[-1] == "1 warning, 1 could be better (1 not shown)"
        assert not is_critical(report)

    def test_each_finding_has_all_its_parts(self) -> None:
        text = render_diagnosis(
            report_of(made("warning")), "info", self.PAGE, "db-pool"
        )
        assert (
            "budget\n  It is so.\n  so: It fails.\n  fix: Change it.\n"
            "  see: flask db-pool explain budget\n" in text
        )

    def test_control_characters_of_strangers_do_nothing(self) -> None:
        report = report_of(made("info", message="at \x1b[2J/path"))
        assert "\x1b[2J" not in render_diagnosis(report, "info", self.PAGE, "db-pool")

    def test_lines_fit_the_page(self) -> None:
        report = report_of(made("critical", message="word " * 60))
        lines = render_diagnosis(report, "info", self.PAGE, "db-pool").splitlines()
        assert max(map(len, map(click.unstyle, lines))) <= 80
