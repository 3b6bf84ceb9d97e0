"""`flask pool status` beside an app that runs under gunicorn on real servers."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.conftest import Database
from tests.support import desk
from tests.support.database_server import DatabaseServer
from tests.support.desk import DeskServer, environment
from tests.support.monitoring import check
from tests.support.proxy import SilentServer
from tests.support.waiting import free_port, wait_until

# The server's list has the sessions of all its clients.
pytestmark = [pytest.mark.process, pytest.mark.usefixtures("own_server")]


def open_sessions(server: DatabaseServer, database: Database) -> set[int]:
    """Return the app's sessions on its own database, as the server lists them."""
    return server.session_ids(database=database.url.database)


class TestFigures:
    @pytest.mark.quick
    @pytest.mark.parametrize("preload", [False, True])
    def test_each_worker_shows_what_it_holds(
        self, tmp_path: Path, served_database: Database, preload: bool
    ) -> None:
        env = environment(served_database.url)
        with DeskServer(tmp_path, env, workers=2, threads=4, preload=preload) as server:
            server.wake()
            checkout = server.hold(3)
            report = desk.status(env)
            assert desk.pids(report) == server.worker_pids()
            sessions = open_sessions(served_database.running_server, served_database)
            held_ids, opened = set(), 0
            for pid in server.worker_pids():
                pool = desk.pool_of(report, pid)
                assert pool["checked_out"] == checkout.count(pid)
                assert [each["endpoint"] for each in pool["holders"]] == [
                    "hold"
                ] * checkout.count(pid)
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

    @pytest.mark.parametrize("worker_class", ["gthread", "gevent"])
    def test_the_app_itself_can_show_the_same(
        self, tmp_path: Path, mariadb_url: URL, worker_class: str
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(
            tmp_path, env, workers=2, threads=4, worker_class=worker_class
        ) as server:
            server.wake()
            server.hold(2)

            def figures(report: dict[str, Any]) -> dict[int, list[int]]:
                names = ("checked_out", "idle", "checkouts", "peak_checked_out")
                pools = {pid: desk.pool_of(report, pid) for pid in desk.pids(report)}
                return {pid: [pools[pid][name] for name in names] for pid in pools}

            def inside_and_outside() -> tuple[dict[str, Any], dict[str, Any]]:
                return json.loads(server.get("/report")[1]), desk.status(env)

            # A housekeeper may open a connection between the one and the other.
            wait_until(
                lambda: len({str(figures(each)) for each in inside_and_outside()}) == 1,
                what="the same figures",
            )
            inside, outside = inside_and_outside()
            assert desk.pids(inside) == desk.pids(outside) == server.worker_pids()
            assert inside["servers"] == outside["servers"]
            assert figures(inside) == figures(outside)


class TestWorkersThatComeAndGo:
    def test_a_stopped_worker_still_shows_what_it_holds(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            (pid,) = server.hold(1)
            desk.suspend(pid)
            try:
                report = desk.status(env)
                checked = check(env)
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: "stopped" not in desk.codes(desk.status(env)))
        pool = desk.pool_of(report, pid)
        critical = desk.finding(report, "stopped")
        assert critical["level"] == "critical"
        assert critical["message"] == (
            f"Worker {pid} is stopped, by a signal (SIGSTOP, Ctrl-Z) or a debugger,"
            " with 1 connection out and 0 connections idle"
        )
        assert f"kill -CONT {pid}" in critical["fix"]
        assert checked.state == "CRITICAL"
        assert checked.text.startswith(
            f"desk: worker {pid} is stopped by a signal or a debugger, with"
            " 1 connection out; before that, it is in hold, "
        )
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
            shown = desk.pids(desk.status(env))
            assert killed not in shown
            assert spared in shown
            wait_until(
                lambda: len(server.worker_pids()) == 2, seconds=30, what="a new worker"
            )
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
        assert text.startswith("UNKNOWN  no live worker of this app was found on this")
        assert "\ndesk: no live worker on host " in text
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
            holders = desk.run_pool(environment(postgresql_url), "holders")
            text = desk.run_status(environment(postgresql_url))
        assert report["workers"] == []
        assert "other-deployment" in holders
        # Nothing that follows from this shell's settings is said besides.
        assert desk.codes(report) == ["other-deployment"]
        found = desk.finding(report, "other-deployment")
        assert f"Worker {pid} of desk" in found["message"]
        assert f"/{mariadb_url.database}" in found["message"]
        assert "DATABASE_URL" in found["fix"]
        assert " ".join(text.split()).startswith(
            f"UNKNOWN worker {pid} of desk uses other databases than this shell: set"
            " the service's variables, such as DATABASE_URL (other-deployment)"
        )
        assert str(postgresql_url.database) not in text

    def test_nothing_hides_that_the_shell_has_other_databases(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        with DeskServer(tmp_path, environment(mariadb_url)) as server:
            (pid,) = server.wake().worker_pids()
            # No server listens there, which would be critical.
            elsewhere = mariadb_url.set(port=free_port(), database="elsewhere")
            text = desk.run_pool(environment(elsewhere), "doctor", "--seconds=0")
        assert text.startswith(f"UNKNOWN  worker {pid} of desk uses other databases")
        assert "server-unreachable" not in text

    def test_a_bind_with_another_database_is_said_first_and_alone(
        self, tmp_path: Path, mariadb_url: URL, postgresql_url: URL
    ) -> None:
        reports = postgresql_url.render_as_string(hide_password=False)
        env = environment(mariadb_url, REPORTS_DATABASE_URL=reports)
        elsewhere = mariadb_url.set(port=free_port())
        other = environment(elsewhere, REPORTS_DATABASE_URL=reports)
        with DeskServer(tmp_path, env) as server:
            (pid,) = server.wake().worker_pids()
            server.get("/leak")
            report = desk.status(other)
            text = desk.run_status(other)
        # What the workers say of themselves is true all the same.
        assert desk.codes(report) == ["other-deployment", "leak"]
        assert [each["bind"] for each in report["servers"]] == ["reports"]
        assert desk.pool_of(report, pid)["checked_out"] == 0
        assert " ".join(text.split()).startswith(
            f"WARNING worker {pid} uses another database for bind 'default' than this"
            " shell: set the service's variables, such as DATABASE_URL"
        )

    def test_workers_with_another_state_folder_are_known_by_their_sessions(
        self, tmp_path: Path, postgresql_url: URL
    ) -> None:
        folder = tmp_path / "state"
        env = environment(postgresql_url)
        service = {**env, "FLASK_POOLGUARD_STATE_DIR": str(folder)}
        with DeskServer(tmp_path, service) as server:
            (pid,) = server.wake().worker_pids()
            report, text = desk.status(env), desk.run_status(env)
        found = desk.finding(report, "no-workers")
        assert found["level"] == "warning"
        assert f"but its process {pid} is connected to its servers" in found["message"]
        assert "POOLGUARD_STATE_DIR as the service has it" in found["fix"]
        assert text.startswith("UNKNOWN  no live worker of this app was found on this")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
    def test_another_users_folder_is_a_hint(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        theirs = tmp_path / "flask-poolguard-12345"
        theirs.mkdir()
        os.chown(theirs, 12345, 12345)
        report = desk.status(environment(mariadb_url, TMPDIR=str(tmp_path)))
        (hint,) = [
            each for each in report["findings"] if str(theirs) in each["message"]
        ]
        assert hint["code"] == "other-user"
        assert "sudo -u '#12345'" in hint["fix"]


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
        assert "accepts connections, but gives no answer within" in found["message"]
        assert "accepts connections and gives no answer, see the findings" in text

    def test_a_refused_login_is_shown_with_its_reason(
        self, postgresql_url: URL
    ) -> None:
        url = postgresql_url.set(username="nobody_here")
        env = environment(url)
        report = desk.status(env)
        found = desk.finding(report, "server-unreachable")
        assert "refuses the login of user nobody_here: " in found["message"]
        assert report["servers"][0]["failure"] == "login"
        assert "    refuses the login, see the findings\n" in desk.run_status(env)


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
