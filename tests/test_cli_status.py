"""`flask pool status` beside an app that runs under gunicorn on real servers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.conftest import Database
from tests.support import desk
from tests.support.app_server import REPOSITORY
from tests.support.database_server import APP_PASSWORD, DatabaseServer
from tests.support.desk import DeskServer, environment
from tests.support.proxy import SilentServer
from tests.support.waiting import wait_until

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def open_sessions(server: DatabaseServer, database: Database) -> set[int]:
    """Return the app's sessions on its own database, as the server lists them."""
    return server.session_ids(database=database.url.database)


def names(found: desk.Json) -> str:
    """Return the names in a JSON object, in their order."""
    return " ".join(found)


class TestFigures:
    @pytest.mark.parametrize("preload", [False, True])
    def test_each_worker_shows_what_it_holds(
        self, tmp_path: Path, served_database: Database, preload: bool
    ) -> None:
        env = environment(served_database.url)
        with DeskServer(tmp_path, env, workers=2, threads=4, preload=preload) as server:
            server.wake()
            holding = server.hold(3)
            report = desk.status(env)
            assert desk.pids(report) == server.worker_pids()
            sessions = open_sessions(served_database.running_server, served_database)
            held_ids, opened = set(), 0
            for pid in server.worker_pids():
                pool = desk.pool_of(report, pid)
                assert pool["checked_out"] == holding.count(pid)
                assert [each["endpoint"] for each in pool["holders"]] == [
                    "hold"
                ] * holding.count(pid)
                held_ids |= {each["server_id"] for each in pool["holders"]}
                opened += pool["checked_out"] + pool["idle"]
            assert len(held_ids) == 3
            assert held_ids <= sessions
            assert opened == len(sessions) == report["servers"][0]["ours"]

    def test_a_holder_is_named_by_endpoint_line_and_thread_longest_first(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=4) as server:
            (pid,) = server.hold(1)
            server.hold(1)
            pool = desk.pool_of(desk.status(env), pid)
            first, second = pool["holders"]
            assert first["held_seconds"] > second["held_seconds"] > 0
            assert pool["longest_held_seconds"] == first["held_seconds"]
            assert re.fullmatch(r"apps/desk\.py:\d+", first["site"])
            assert first["thread"]
            assert first["thread"] != second["thread"]

    def test_figures_follow_what_the_worker_does(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(
            mariadb_url,
            FLASK_POOLGUARD_POOL_SIZE="1",
            FLASK_POOLGUARD_MAX_OVERFLOW="1",
            FLASK_POOLGUARD_POOL_TIMEOUT="0.1",
        )
        with DeskServer(tmp_path, env, threads=4) as server:
            (pid, _) = server.hold(2)
            assert server.get("/wait")[1].strip() == '{"got_one":false}'
            full = desk.pool_of(desk.status(env), pid)
            server.let_go()
            report = desk.status(env)
            quiet = desk.pool_of(report, pid)
        assert (full["checked_out"], full["idle"], full["overflow"]) == (2, 0, 1)
        assert (quiet["checked_out"], quiet["idle"], quiet["overflow"]) == (0, 1, 0)
        assert quiet["closed"]["overflow"] == 1
        assert quiet["timeouts"] == 1
        assert quiet["peak_checked_out"] == 2
        assert quiet["checkouts"] == quiet["connects"] == 2
        assert quiet["holders"] == []
        assert quiet["longest_held_seconds"] is None
        assert desk.finding(report, "timeouts")["level"] == "warning"

    def test_waiters_are_counted_with_their_longest_wait(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(
            mariadb_url,
            FLASK_POOLGUARD_POOL_SIZE="1",
            FLASK_POOLGUARD_MAX_OVERFLOW="0",
            FLASK_POOLGUARD_POOL_TIMEOUT="60",
        )
        with DeskServer(tmp_path, env, threads=4) as server:
            (pid,) = server.hold(1)
            with server.in_background("/wait"):
                wait_until(
                    lambda: desk.pool_of(desk.status(env), pid)["waiting"],
                    seconds=30,
                    what="a waiter",
                )
                pool = desk.pool_of(desk.status(env), pid)
                server.let_go()
        assert pool["waiting"] == 1
        assert pool["oldest_wait_seconds"] > 0

    def test_sixteen_workers_are_all_there(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, workers=16, preload=True) as server:
            server.wake()
            report = desk.status(env)
            assert desk.pids(report) == server.worker_pids()
            assert len(report["workers"]) == 16
            pools = [worker["pools"][0] for worker in report["workers"]]
            idle = sum(pool["idle"] for pool in pools)
            assert idle == report["servers"][0]["ours"] == 16

    def test_every_bind_has_its_own_figures(
        self, tmp_path: Path, mariadb_url: URL, postgresql_url: URL
    ) -> None:
        reports = postgresql_url.render_as_string(hide_password=False)
        env = environment(mariadb_url, REPORTS_DATABASE_URL=reports)
        with DeskServer(tmp_path, env, threads=2) as server:
            (pid,) = server.hold(1)
            report = desk.status(env)
        assert desk.pool_of(report, pid, "default")["checked_out"] == 1
        assert desk.pool_of(report, pid, "reports")["checked_out"] == 0
        assert [each["bind"] for each in report["servers"]] == ["default", "reports"]
        assert report["servers"][0]["product"].startswith("MariaDB 1")
        assert report["servers"][1]["product"].startswith("PostgreSQL 1")


class TestWorkersThatComeAndGo:
    def test_a_stopped_worker_still_shows_what_it_holds(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            (pid,) = server.hold(1)
            desk.suspend(pid)
            try:
                pool = desk.pool_of(desk.status(env), pid)
            finally:
                os.kill(pid, signal.SIGCONT)
        assert pool["checked_out"] == 1
        assert pool["holders"][0]["endpoint"] == "hold"

    def test_a_killed_worker_is_gone_at_once(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, workers=2) as server:
            server.wake()
            killed, spared = server.worker_pids()
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: killed not in server.worker_pids(), what="its death")
            assert desk.pids(desk.status(env)) == {spared}
            wait_until(
                lambda: len(server.worker_pids()) == 2, seconds=30, what="a new worker"
            )
            server.wake()
            assert desk.pids(desk.status(env)) == server.worker_pids()

    def test_after_a_reload_only_the_new_workers_are_shown(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, workers=2) as server:
            before = server.wake().worker_pids()
            server.reload()
            server.wake()
            after = desk.pids(desk.status(env))
            assert after == server.worker_pids()
            assert not after & before

    def test_workers_that_end_after_so_many_requests_leave_nothing_behind(
        self, tmp_path: Path, state_dir: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, arguments=("--max-requests=2",)) as server:
            seen = set()

            def several() -> bool:
                seen.add(server.get("/query")[1])
                return len(seen) > 2

            wait_until(several, seconds=30, what="the third worker")
            assert desk.pids(desk.status(env)) <= server.worker_pids()
        assert list(state_dir.rglob("*.state")) == []

    def test_two_apps_in_one_folder_are_kept_apart(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        other_env = {**env, "APP_NAME": "till"}
        (tmp_path / "till").mkdir()
        with (
            DeskServer(tmp_path, env) as server,
            DeskServer(tmp_path / "till", other_env) as other,
        ):
            server.wake()
            other.wake()
            assert desk.pids(desk.status(env)) == server.worker_pids()
            assert desk.pids(desk.status(other_env)) == other.worker_pids()


class TestNobodyThere:
    def test_says_so_with_folder_user_settings_and_servers(
        self, state_dir: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_POOL_SIZE="3")
        text = desk.run_status(env)
        assert text.startswith("desk: no live worker on host ")
        assert str(state_dir / "flask-poolguard") in text
        assert f"({os.geteuid()})" in text
        assert "size 3 (POOLGUARD_POOL_SIZE), overflow 10 (default)" in text
        assert re.search(r"MariaDB 1.*, 0 of \d+ connections", text)

    def test_json_has_no_worker_and_a_finding(self, mariadb_url: URL) -> None:
        report = desk.status(environment(mariadb_url))
        assert report["workers"] == []
        assert desk.finding(report, "no-workers")["level"] == "info"
        assert report["servers"][0]["reachable"] is True

    def test_the_commands_own_pool_is_no_workers(self, mariadb_url: URL) -> None:
        env = environment(mariadb_url, QUERY_AT_START="1")
        assert desk.status(env)["workers"] == []

    def test_workers_on_other_databases_are_named_but_not_counted(
        self, tmp_path: Path, mariadb_url: URL, postgresql_url: URL
    ) -> None:
        production = environment(mariadb_url)
        with DeskServer(tmp_path, production) as server:
            (pid,) = server.wake().worker_pids()
            report = desk.status(environment(postgresql_url))
        assert report["workers"] == []
        found = desk.finding(report, "other-deployment")
        assert f"Worker {pid} of desk" in found["message"]
        assert f"/{mariadb_url.database}" in found["message"]
        assert "DATABASE_URL" in found["fix"]


class TestServersThatDoNotAnswer:
    def test_the_rest_of_the_report_is_there(
        self, tmp_path: Path, mariadb_url: URL, postgresql_url: URL
    ) -> None:
        with SilentServer() as silent:
            reports = postgresql_url.set(port=silent.port)
            env = environment(
                mariadb_url,
                REPORTS_DATABASE_URL=reports.render_as_string(hide_password=False),
            )
            with DeskServer(tmp_path, env) as server:
                server.wake()
                report = desk.status(env)
                text = desk.run_status(env)
                assert desk.pids(report) == server.worker_pids()
        asked, unasked = report["servers"]
        assert (asked["reachable"], asked["ours"]) == (True, 1)
        assert unasked["reachable"] is False
        assert unasked["connections"] is None
        found = desk.finding(report, "server-unreachable")
        assert found["level"] == "critical"
        assert "no answer within" in found["message"]
        assert "unreachable" in text

    def test_a_refused_login_is_shown_with_its_reason(
        self, postgresql_url: URL
    ) -> None:
        url = postgresql_url.set(username="nobody_here")
        found = desk.finding(desk.status(environment(url)), "server-unreachable")
        assert "nobody_here" in found["message"]


class TestFindings:
    def test_name_the_leaking_line_and_the_defeated_setting(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, POOL_RECYCLE="50000")
        with DeskServer(tmp_path, env, workers=2) as server:
            server.wake()
            for _ in range(3):
                server.get("/leak")
            report = desk.status(env)
        leak = desk.finding(report, "leak")
        message = re.fullmatch(
            r"leak did not give back 3 connections taken at (apps/desk\.py:\d+)",
            leak["message"],
        )
        assert message is not None
        assert message[1] in leak["fix"]
        recycle = desk.finding(report, "recycle")
        key = "SQLALCHEMY_ENGINE_OPTIONS['pool_recycle']"
        assert f"{key} = 50000 s of bind 'default'" in recycle["message"]
        assert "28800 s" in recycle["message"]
        assert key in recycle["fix"]


class TestOutput:
    def test_piped_text_is_plain_and_fits_eighty_columns(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url, POOL_RECYCLE="50000")
        with DeskServer(tmp_path, env, workers=2, threads=4) as server:
            server.wake()
            server.get("/leak")
            server.hold(2)
            text = desk.run_status(env)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        assert str(mariadb_url.database) in text
        assert "  WARNING leak: " in text
        assert "    fix: Use the connection in a with block" in text
        assert "Held now, longest first" in text

    def test_a_terminal_gets_colours(self, mariadb_url: URL) -> None:
        text, code = on_terminal(environment(mariadb_url))
        assert code == 0
        assert ANSI.search(text)
        assert all(len(ANSI.sub("", line)) <= 80 for line in text.splitlines())

    def test_no_color_turns_them_off(self, mariadb_url: URL) -> None:
        env = environment(mariadb_url, NO_COLOR="1")
        text, _ = on_terminal(env)
        assert "no-workers" in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_an_output_that_cannot_encode_everything_is_no_error(
        self, tmp_path: Path, mariadb_url: URL, encoding: str
    ) -> None:
        env = environment(mariadb_url, PYTHONIOENCODING=encoding)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            assert "Servers" in desk.run_status(env)

    def test_json_has_the_documented_names_and_no_others(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            server.hold(1)
            server.get("/leak")
            report = desk.status(env)
        worker = report["workers"][0]
        pool = worker["pools"][0]
        assert report["schema_version"] == 1
        assert names(report) == "schema_version taken_at app workers servers findings"
        assert names(worker) == "pid host started_at alive updated_seconds_ago pools"
        assert names(pool) == (
            "bind url pool_class size max_overflow checked_out idle overflow waiting"
            " oldest_wait_seconds longest_held_seconds recycle_seconds recycle_source"
            " peak_checked_out checkouts connects timeouts leaks closed holders"
        )
        assert names(pool["closed"]) == "recycled idle dead overflow"
        assert names(pool["holders"][0]) == (
            "held_seconds endpoint site thread server_id"
        )
        assert names(report["servers"][0]) == (
            "bind product reachable idle_timeout_seconds max_connections connections"
            " ours"
        )
        assert names(report["findings"][0]) == "level code message fix"


class TestWatch:
    def test_prints_one_json_document_per_line_until_interrupted(
        self, mariadb_url: URL
    ) -> None:
        with watching(environment(mariadb_url), "--json") as process:
            assert process.stdout is not None
            reports = [json.loads(process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert reports[0]["taken_at"] < reports[1]["taken_at"]
        assert process.returncode == 0
        assert errors == ""

    def test_appends_reports_where_there_is_no_terminal(self, mariadb_url: URL) -> None:
        headlines = 0
        with watching(environment(mariadb_url)) as process:
            assert process.stdout is not None
            while headlines < 2:
                line = process.stdout.readline()
                assert line, "the command ended by itself"
                assert "\x1b" not in line
                headlines += line.startswith("desk: no live worker")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert errors == ""

    def test_clears_a_terminal_between_reports(self, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        text, code = on_terminal(env, "--watch=0.1", until="taken at", times=2)
        assert code == 0
        assert text.count("\x1b[2J") >= 2
        assert "Traceback" not in text

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "1e9"])
    def test_a_senseless_pause_is_refused(self, mariadb_url: URL, seconds: str) -> None:
        done = subprocess.run(
            [*desk.STATUS, "--watch", seconds],
            cwd=REPOSITORY,
            env={**os.environ, **environment(mariadb_url)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "--watch" in done.stderr
        assert "Traceback" not in done.stderr


@contextmanager
def watching(env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command with `--watch`, its output in pipes."""
    with subprocess.Popen(
        [*desk.STATUS, "--watch=0.1", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **env, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def on_terminal(
    env: dict[str, str], *arguments: str, until: str = "", times: int = 1
) -> tuple[str, int]:
    """Run the command on a terminal of 80 columns; return its text and exit code.

    :param until: send Ctrl-C when this was seen.
    :param times: so many times.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [*desk.STATUS, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TERM": "xterm", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    try:
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if until and text.count(until.encode()) >= times:
                until = ""
                process.send_signal(signal.SIGINT)
        code = process.wait(30)
    finally:
        process.kill()
        process.wait(30)
        os.close(ours)
    assert APP_PASSWORD not in text.decode()
    return text.decode(), code
