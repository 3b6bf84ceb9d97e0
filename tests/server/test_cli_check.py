"""`check`, as a monitoring system runs it beside an app under gunicorn."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import click
import pytest
from sqlalchemy import URL

from flask_poolguard.cli.check import command, fail
from tests.conftest import Database
from tests.support import desk
from tests.support.app_server import REPOSITORY
from tests.support.desk import APP, DeskServer, environment, watching
from tests.support.monitoring import (
    BARE,
    check,
    check_without_app,
    read,
    run,
    run_module,
)
from tests.support.waiting import wait_until


@pytest.fixture
def folder(state_dir: Path) -> str:
    """Return where the workers write, which a bare environment does not say."""
    return str(state_dir / "flask-poolguard")


def small_pool(url: URL) -> dict[str, str]:
    """Return the environment of an app with a pool of two, and patient waiters."""
    return environment(
        url,
        FLASK_POOLGUARD_POOL_SIZE="2",
        FLASK_POOLGUARD_MAX_OVERFLOW="0",
        FLASK_POOLGUARD_POOL_TIMEOUT="60",
    )


@pytest.mark.process
class TestWell:
    @pytest.mark.quick
    def test_is_ok_with_figures_of_all_workers(
        self, tmp_path: Path, served_database: Database, folder: str
    ) -> None:
        env = environment(served_database.url)
        with DeskServer(tmp_path, env, workers=2, threads=4) as server:
            server.wake().hold(3)
            with_app = check(env)
            without = check_without_app("--state-dir", folder, "--app-name", "desk")
        assert with_app.state == without.state == "OK"
        for found in (with_app, without):
            held = found.data.pop("held")  # type: ignore[attr-defined] # of JSON, so a dict
            assert held is not None
            assert held > 0
            # The fullest pool has two or three of 15.
            usage = found.data.pop("usage")  # type: ignore[attr-defined] # of JSON, so a dict
            assert usage in (13.3, 20.0)
            assert found.data == {
                "workers": 2,
                "waiting": 0,
                "wait": 0,
                "timeouts": 0,
                "leaks": 0,
                "connecting": 0,
                "connect": 0,
                "unavailable": 0,
            }
        assert "desk: 2 live workers" in with_app.text

    def test_says_the_same_as_json(
        self, tmp_path: Path, mariadb_url: URL, folder: str
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            done = run_module("check", "--json", "--state-dir", folder)
        (line,) = done.stdout.splitlines()
        found = json.loads(line)
        assert (found["state"], found["exit_status"], done.returncode) == ("OK", 0, 0)
        (app,) = found["apps"]
        assert (app["app"], app["workers"], app["waiting"]) == ("desk", 1, 0)

    def test_a_full_pool_with_a_connection_for_each_thread_is_well(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(
            mariadb_url,
            FLASK_POOLGUARD_POOL_SIZE="1",
            FLASK_POOLGUARD_MAX_OVERFLOW="0",
        )
        with DeskServer(tmp_path, env, workers=2) as server:
            server.wake().hold(1)
            # A worker looks at its threads once a second.
            wait_until(
                lambda: check(env).state == "OK", seconds=30, what="figures of threads"
            )
            found = check(env)
        assert found.data["usage"] == 100
        assert "a connection for every thread" in found.text

    def test_needs_no_database(
        self, tmp_path: Path, mariadb_url: URL, postgresql_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            secret = "not-the-password"
            url = mariadb_url.set(password=secret)
            assert check(environment(url)).state == "OK"


@pytest.mark.process
class TestUnwell:
    def test_a_saturated_pool_is_critical_and_waiting_a_warning(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = small_pool(served_database.url)
        with DeskServer(tmp_path, env, threads=4) as server:
            (pid, _) = server.hold(2)
            with server.in_background("/wait"):
                wait_until(
                    lambda: check(env).data["waiting"] == 1,
                    seconds=30,
                    what="a waiter",
                )
                full = check(env)
                used = check(env, "--critical-usage=95", "--critical-wait-seconds=3600")
                wait_until(
                    lambda: check(env).state == "CRITICAL",
                    seconds=30,
                    what="a wait of five seconds",
                )
                late = check(env)
                blind = check(
                    env,
                    "--warning-wait-seconds=3600",
                )
        assert used.state == "CRITICAL"
        assert f"pool default of worker {pid} is 100% used (2 of 2)" in used.text
        assert full.data["usage"] == 100
        assert f"pool default of worker {pid} has 2 of 2 out, 1 request waits" in (
            late.text
        )
        assert "are in hold, now at apps/desk.py:" in late.text
        assert blind.state == "OK"

    def test_names_who_holds_a_connection_for_too_long(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=4) as server:
            (pid,) = server.hold(1)
            critical = check(env, "--critical-held-seconds=0")
            warning = check(env, "--warning-held-seconds=0")
        assert critical.state == "CRITICAL"
        assert f" in worker {pid} by hold at apps/desk.py:" in critical.text
        assert warning.state == "WARNING"

    def test_too_few_workers_are_critical(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            found = check(env, "--min-workers=2")
        assert found.state == "CRITICAL"
        assert "1 live worker, fewer than 2" in found.text

    def test_no_worker_is_critical_unless_none_is_wanted(
        self, mariadb_url: URL, state_dir: Path, folder: str
    ) -> None:
        env = environment(mariadb_url)
        (state_dir / "flask-poolguard").mkdir(mode=0o700)
        found = check(env)
        assert found.state == "CRITICAL"
        assert folder in found.text
        assert found.data == {"workers": 0}
        assert check(env, "--min-workers=0").state == "OK"
        assert check_without_app("--state-dir", folder).state == "CRITICAL"

    def test_its_own_process_is_no_worker(self, mariadb_url: URL) -> None:
        """Though its app uses the database while it is made."""
        found = check(environment(mariadb_url, QUERY_AT_START="1"))
        assert found.state == "CRITICAL"
        assert found.data == {"workers": 0}
        assert "no live worker found" in found.text

    def test_another_command_is_no_worker(self, mariadb_url: URL, folder: str) -> None:
        env = environment(mariadb_url, QUERY_AT_START="1")
        Path(folder).mkdir(mode=0o700)
        with watching(env, "top", "--interval", "0.5") as top:
            assert top.stdout is not None
            assert top.stdout.readline()
            found = check_without_app("--state-dir", folder)
        assert found.data == {"workers": 0}

    def test_tells_what_has_just_gone_wrong(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = {
            **small_pool(mariadb_url),
            "FLASK_POOLGUARD_POOL_TIMEOUT": "0.1",
        }
        with DeskServer(tmp_path, env, threads=4) as server:
            server.get("/leak")
            server.hold(2)
            server.get("/wait")
            server.let_go()
            found = check(env)
        assert (found.data["timeouts"], found.data["leaks"]) == (1, 1)
        assert found.state == "WARNING"
        assert re.search(
            r"1 of \d checkouts of bind default got no connection in time at \d\d:",
            found.text,
        )
        assert (
            "leak did not give back 1 connection taken at apps/desk.py:" in found.text
        )


@pytest.mark.process
class TestSeveralApps:
    def test_the_worst_counts_and_figures_are_labelled(
        self, tmp_path: Path, mariadb_url: URL, folder: str
    ) -> None:
        env = environment(mariadb_url)
        (tmp_path / "till").mkdir()
        with (
            DeskServer(tmp_path, env) as server,
            DeskServer(tmp_path / "till", {**env, "APP_NAME": "till"}) as other,
        ):
            server.wake()
            other.wake()
            limits = ("--state-dir", folder, "--critical-held-seconds=0")
            assert check_without_app(*limits).state == "OK"
            other.hold(1)
            both = check_without_app(*limits)
            one = check_without_app(*limits, "--app-name=desk")
            neither = check_without_app(*limits, "--root-path", str(tmp_path))
        assert both.state == "CRITICAL"
        assert both.text.startswith("till: 1 connection of bind default held for ")
        assert both.data["desk.workers"] == both.data["till.workers"] == 1
        assert one.state == "OK"
        assert one.data["workers"] == 1
        assert neither.data == {"workers": 0}


@pytest.mark.process
class TestUnknown:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("check", "--bogus"),
            ("check", "--warning-usage=much"),
            ("check", "--critical-held-seconds=nan"),
            ("check", "--warning-waiting=3", "--critical-waiting=2"),
            ("check", "--min-workers=-1"),
            ("check", "surplus"),
            ("chekc",),
            ("--bogus", "check"),
        ],
        ids=" ".join,
    )
    def test_is_what_a_wrong_option_leads_to(self, arguments: tuple[str, ...]) -> None:
        assert read(run_module(*arguments)).state == "UNKNOWN"

    def test_is_what_help_leads_to(self) -> None:
        done = run_module("check", "--help")
        assert done.returncode == 3
        assert "--critical-usage" in done.stdout

    def test_is_what_a_wrong_option_leads_to_with_the_app(
        self, sqlite_url: URL
    ) -> None:
        env = environment(sqlite_url)
        assert check(env, "--bogus").state == "UNKNOWN"
        command = [sys.executable, "-m", "flask", "--app", APP, "pool", "--x", "check"]
        assert read(run(command, {**os.environ, **env})).state == "UNKNOWN"

    def test_wrong_options_are_told_in_json_too(self) -> None:
        done = run_module("check", "--json", "--bogus")
        assert json.loads(done.stdout)["state"] == "UNKNOWN"
        assert done.returncode == 3

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("import nosuch_module", "No module named 'nosuch_module'"),
            ("def (", "SyntaxError"),
            ("raise SystemExit(1)", "ended this process"),
            ("raise RuntimeError('first\\nlast|')", "last"),
            ("raise ValueError('mysql://app:geheim@db/shop')", "mysql://app:***@db"),
            ("import flask; app = flask.Flask('bare')", "'bare' has no PoolGuard"),
            ("", "Failed to find Flask application"),
            ("print('hello'); 1 / 0", "ZeroDivisionError"),
        ],
    )
    def test_is_what_a_broken_app_leads_to(
        self, tmp_path: Path, source: str, reason: str
    ) -> None:
        (tmp_path / "broken_app.py").write_text(source)
        env = {"PYTHONPATH": os.pathsep.join((BARE["PYTHONPATH"], str(tmp_path)))}
        flask = [sys.executable, "-m", "flask", "--app", "broken_app", "pool", "check"]
        found = read(run(flask, {**BARE, **env}))
        assert found.state == "UNKNOWN"
        assert reason in found.text
        assert "geheim" not in found.line

    @pytest.mark.parametrize("way", [">/dev/full", ">&-"])
    @pytest.mark.parametrize("form", ["", "--json"])
    def test_is_what_an_output_that_cannot_be_written_leads_to(
        self, way: str, form: str
    ) -> None:
        if way == ">/dev/full" and not Path("/dev/full").exists():
            pytest.skip("this platform has no /dev/full")
        line = f"'{sys.executable}' -m flask_poolguard check {form} {way}"
        done = run(["/bin/sh", "-c", line], BARE)
        assert (done.returncode, done.stdout) == (3, "")
        assert "Traceback" not in done.stderr

    def test_is_what_a_folder_that_is_not_there_leads_to(self, tmp_path: Path) -> None:
        for folder in (tmp_path / "nowhere", tmp_path / "nowhere" / "at" / "all"):
            found = check_without_app("--state-dir", str(folder), "--min-workers=0")
            assert found.state == "UNKNOWN"
            assert "--state-dir" in found.text
            assert f"there is no folder {str(folder)!r}" in found.text

    def test_is_what_a_relative_folder_leads_to(self) -> None:
        found = check_without_app("--state-dir", "tests")
        assert found.state == "UNKNOWN"
        assert "--state-dir" in found.text
        assert "'tests' is not absolute" in found.text

    def test_a_folder_that_others_can_write_to_is_not_believed(
        self, tmp_path: Path
    ) -> None:
        hostile = tmp_path / "hostile"
        hostile.mkdir()
        hostile.chmod(0o777)
        found = check_without_app("--state-dir", str(hostile))
        assert found.state == "UNKNOWN"
        assert "writable by others" in found.text

    def test_a_file_that_cannot_be_read_hides_its_worker_only(
        self, tmp_path: Path, mariadb_url: URL, folder: str
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            (file,) = Path(folder).iterdir()
            file.chmod(0o600)  # else nobody but its worker may write to it
            with file.open("r+b") as opened:
                opened.seek(7)
                opened.write(b"\xfe")
            found = check_without_app("--state-dir", folder)
        assert found.state == "UNKNOWN"
        assert "runs another version" in found.text

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_another_users_workers_are_looked_for_with_sudo(
        self, tmp_path: Path, mariadb_url: URL, folder: str
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            command = [sys.executable, "-c", AS_SOMEBODY_ELSE, "check"]
            found = read(run([*command, "--state-dir", folder], BARE))
        assert found.state == "UNKNOWN"
        assert "Permission denied" in found.text or "belongs to user 0" in found.text
        assert "as the user that the app runs as" in found.text

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
    def test_one_that_takes_a_folders_name_blinds_no_command(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        taken = tmp_path / "flask-poolguard-0"
        taken.mkdir()
        os.chown(taken, 12345, 12345)
        env = environment(mariadb_url, TMPDIR=str(tmp_path))
        with DeskServer(tmp_path, env) as server:
            server.wake()
            found = check(env)
            report = desk.status(env)
            renewal = desk.recycle(env)
        assert found.state == "OK"
        assert renewal["done"] is True
        assert report["servers"][0]["ours"] == 1
        for each in (renewal, report):
            finding = desk.finding(each, "state-folder")
            assert finding["level"] == "info"
            assert "User #12345 has taken the name" in finding["message"]
            assert str(taken) in finding["message"]
            assert "POOLGUARD_STATE_DIR" in finding["fix"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
    def test_one_that_takes_a_folders_name_is_not_named_with_sudo(
        self, tmp_path: Path, state_dir: Path
    ) -> None:
        (state_dir / "flask-poolguard").mkdir()
        (tmp_path / "flask-poolguard-0").mkdir()
        os.chown(tmp_path / "flask-poolguard-0", 12345, 12345)
        found = read(run_module("check", env={**os.environ, "TMPDIR": str(tmp_path)}))
        assert found.state == "CRITICAL"
        assert "12345" not in found.line

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
    def test_who_has_no_folder_is_sent_to_those_who_have(self, tmp_path: Path) -> None:
        theirs = tmp_path / "flask-poolguard-12345"
        theirs.mkdir()
        os.chown(theirs, 12345, 12345)
        tmp_path.chmod(0o755)
        env = {**BARE, "TMPDIR": str(tmp_path)}
        done = run([sys.executable, "-c", SEARCH_IN_TMPDIR], env)
        found = read(done)
        assert found.state == "UNKNOWN"
        assert "sudo -u '#12345'" in found.text


# Without the folders outside of this test's own.
SEARCH_IN_TMPDIR = """
import os
from flask_poolguard.state import directory
isdir = os.path.isdir
os.path.isdir = lambda path: "/dev/shm" != path and "/run" not in path and isdir(path)
import runpy, sys
sys.argv[1:] = ["check"]
runpy.run_module("flask_poolguard", run_name="__main__")
"""


# Imports first: the interpreter may be out of that user's reach.
AS_SOMEBODY_ELSE = """
import os, pwd, sys
import flask_poolguard.__main__ as main
import flask_poolguard.cli.check
os.setuid(12345)
main.main(sys.argv[1:], prog_name="flask_poolguard")
"""


NO_LIMITS = {"as_json", "app_name", "root_path", "state_dir"}


class TestDocs:
    """docs/monitoring.md against the command."""

    @pytest.mark.parametrize(
        "option",
        [each for each in command.params if each.name not in NO_LIMITS],
        ids=lambda option: str(option.name),
    )
    def test_name_each_limit_with_its_default(self, option: click.Option) -> None:
        page = (REPOSITORY / "docs" / "monitoring.md").read_text()
        (row,) = [
            line
            for line in page.splitlines()
            if f"| `{option.opts[0]}`" in line or f", `{option.opts[0]}`" in line
        ]
        _, _, warning, critical, _, _ = row.split("|")
        cell = warning if option.opts[0].startswith("--warning") else critical
        default = "none" if option.default is None else f"{option.default:g}"
        assert cell.strip() == default


@pytest.mark.process
class TestTheModule:
    @pytest.mark.parametrize("arguments", [(), ("--help",)])
    def test_alone_prints_help_and_is_not_ok(self, arguments: tuple[str, ...]) -> None:
        done = run_module(*arguments)
        assert done.returncode == 3
        assert "check" in done.stdout

    def test_imports_no_app(self, tmp_path: Path, folder: str) -> None:
        (tmp_path / "wsgi.py").write_text("raise SystemExit('imported')")
        Path(folder).mkdir(mode=0o700)
        env = {"FLASK_APP": str(tmp_path / "wsgi.py")}
        found = check_without_app("--state-dir", folder, env=env)
        assert found.state == "CRITICAL"
        assert "imported" not in found.line

    def test_sends_who_wants_another_command_to_flask(self) -> None:
        found = read(run_module("status"))
        assert found.state == "UNKNOWN"
        assert "status needs the app: flask --app APP pool status" in found.text


@pytest.mark.process
class TestWithTheApp:
    def test_may_look_at_another_one(
        self, tmp_path: Path, mariadb_url: URL, folder: str
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, {**env, "APP_NAME": "till"}) as server:
            server.wake()
            assert check(env).data["workers"] == 0
            assert check(env, "--app-name=till").data["workers"] == 1
            assert check(env, f"--state-dir={folder}").data["workers"] == 0


class TestWhatABrokenAppQuotes:
    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (
                "postgresql://app@db/shop?sslmode=no&password=geheim",
                "app@db/shop?sslmode=no&password=***",
            ),
            (
                "invalid: host=db password=geheim user=app",
                "invalid: host=db password=*** user=app",
            ),
            (
                "invalid: password=*;gehe&geheim user=app",
                "invalid: password=*** user=app",
            ),
            (
                "invalid: host=db passfile = geheim user=app",
                "invalid: host=db passfile = *** user=app",
            ),
            ("PASSWORD='a geheim' user=app", "PASSWORD=*** user=app"),
            (r"password='a\' geheim' user=app", "password=*** user=app"),
            (repr("password='a geheim' user=\"app\""), "password=*** user="),
            (r"password=a\ geheim user=app", "password=*** user=app"),
            ("connect(passwd='geheim')", "connect(passwd=***"),
        ],
    )
    @pytest.mark.parametrize("as_json", [False, True])
    def test_is_told_without_its_password(
        self,
        error: str,
        reason: str,
        as_json: bool,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(click.exceptions.Exit) as exit_:
            fail(ValueError(error), as_json=as_json)
        assert exit_.value.exit_code == 3
        said = capsys.readouterr().out
        assert (json.loads(said)["text"] if as_json else said).count(reason) == 1
        assert "geheim" not in said
