"""`flask pool tune` on real servers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import URL

from tests.conftest import Database
from tests.support import desk, not_tested, tuning
from tests.support.app_server import REPOSITORY
from tests.support.database_server import APP_PASSWORD
from tests.support.desk import environment
from tests.support.gunicorn import GunicornApp
from tests.support.pgbouncer import PgBouncer
from tests.support.processes import children_of, command_of, kill_all
from tests.support.proxy import TCPProxy
from tests.support.servers import DatabaseServer, MissingServerError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

# As short as a run can be: one process, three sizes.
SHORT = ("--processes=1", "--max-size=3", "--seconds=0.3", "--rounds=2", "--threads=6")


def sessions(database: Database) -> set[int]:
    """Return the sessions on the test's own database, as its server lists them."""
    return database.running_server.session_ids(database=database.url.database)


class TestRun:
    @pytest.mark.quick
    def test_finds_how_many_connections_saturate_the_database(
        self, served_database: Database
    ) -> None:
        found = tuning.run_json(
            environment(served_database.url),
            *("--url=/knee", "--processes=1", "--threads=10", "--max-size=8"),
            *("--seconds=1", "--rounds=2"),
        )
        assert found["complete"]
        assert next(iter(found)) == "verdict"
        size = found["recommended"]["pool_size"]
        assert f"pool_size {size} " in found["verdict"]["text"]
        # One alone does 12.5 a second, four 50, and so do all that are more. Two rounds
        # on a machine that does other work may be off; the range says by how much.
        advised = found["recommended"]
        assert advised["low"] <= advised["pool_size"] <= advised["high"]
        assert advised["low"] <= 5
        assert advised["high"] >= 3
        rates = {each["size"]: each["per_second"] for each in found["sizes"]}
        assert rates[8] <= 52
        assert 1.5 * rates[1] < rates[2]
        assert 2.2 * rates[1] < rates[8]
        for each in found["sizes"]:
            assert each["busy"] == pytest.approx(each["size"], abs=0.7)

    def test_processes_add_up(self, mariadb_url: URL) -> None:
        found = tuning.run_json(
            environment(mariadb_url),
            *("--url=/sleep", *SHORT, "--processes=2"),
        )
        assert [each["connections"] for each in found["sizes"]] == [2, 4, 6]
        # One connection does 50 a second at the most.
        for each in found["sizes"]:
            assert 0 < each["per_second"] <= 52 * each["connections"]
            assert each["p50_seconds"] >= 0.02

    def test_queries_are_run_by_weight(self, served_database: Database) -> None:
        found = tuning.run_json(
            environment(served_database.url),
            *("--sql=3:SELECT 'a%b' LIKE '%\\%b'", "--sql=SELECT 2", *SHORT),
        )
        assert found["kind"] == "transactions"
        assert [each["weight"] for each in found["work"]] == [3, 1]
        assert found["sizes"][0]["per_second"] > 10

    def test_requests_are_run_by_weight(self, mariadb_url: URL) -> None:
        found = tuning.run_json(
            environment(mariadb_url), "--url=9:/query", "--url=1:/moved", *SHORT
        )
        often, seldom = (sum(each["statuses"].values()) for each in found["work"])
        assert often > 3 * seldom > 0
        assert "redirect" in {note["code"] for note in found["notes"]}

    def test_prints_text_and_writes_a_page_and_a_picture(
        self, tmp_path: Path, postgresql_url: URL
    ) -> None:
        page, picture = tmp_path / "tune.html", tmp_path / "tune.png"
        done = tuning.run(
            environment(postgresql_url),
            *("--url=/sleep", *SHORT, f"--html={page}", f"--png={picture}"),
        )
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "\x1b" not in done.stdout
        assert "PostgreSQL 15" in done.stdout
        assert re.search(r"^  POOLGUARD_POOL_SIZE = [123]$", done.stdout, re.MULTILINE)
        assert "3 pool sizes from 1 to 3, 2 rounds of 0.3 s each, with 6" in done.stderr
        assert "imported by" not in done.stdout
        assert re.match(r"(OK|WARNING)  (pool_size|It takes)", done.stdout)
        assert page.read_text().startswith("<!DOCTYPE html>")
        assert APP_PASSWORD not in page.read_text()
        assert picture.read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_an_output_that_cannot_encode_everything_is_no_error(
        self, sqlite_url: URL, encoding: str
    ) -> None:
        env = environment(sqlite_url, PYTHONIOENCODING=encoding)
        done = subprocess.run(
            tuning.command("--sql=SELECT 1", *SHORT),
            cwd=REPOSITORY,
            env={**os.environ, **env},
            capture_output=True,
            encoding=encoding,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "(lambda)" in done.stdout

    def test_is_no_worker_for_the_status(
        self, tmp_path: Path, state_dir: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with running(env, "--url=/sleep", "--rounds=50", *SHORT[:3]) as process:
            wait_for_load(process)

            def has_load() -> bool:  # it has no connections between two sizes
                report = desk.status({**env, "APP_NAME": "tuned"})
                assert report["workers"] == []
                return bool(report["servers"][0]["connections"] > 0)

            wait_until(has_load, seconds=60, what="connections of the load")
            assert list(state_dir.rglob("*.state")) == []


class TestBesideWorkers:
    def test_uses_as_many_threads_as_they_have(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        few = ("--processes=1", "--seconds=0.3", "--rounds=2")
        with GunicornApp(f"{tuning.APP}()", tmp_path, env=env, threads=4):
            wait_for_worker(env)
            found = tuning.run_json(env, "--url=/sleep", *few)
        assert (found["threads"], found["threads_from"]) == (4, "workers")
        assert [each["size"] for each in found["sizes"]] == [1, 2, 3, 4]
        assert found["recommended"]["pool_size"] <= 4

    def test_measures_nothing_for_workers_of_one_thread(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with GunicornApp(f"{tuning.APP}()", tmp_path, env=env):
            wait_for_worker(env)
            done = tuning.run(env, "--url=/sleep", "--processes=1")
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert "a live worker serves with 1 thread, which uses no more" in message
        assert "so pool_size 1 is enough" in message
        assert "give --threads" in message


def wait_for_worker(env: dict[str, str]) -> None:
    """Wait until a live worker shows its pool."""

    def is_there() -> bool:
        workers = desk.status({**env, "APP_NAME": "tuned"})["workers"]
        return any(each["pools"] for each in workers)

    wait_until(is_there, seconds=60, what="a worker with its pool")


BLOCKED = "import sys; sys.modules |= dict.fromkeys(['matplotlib', 'numpy', 'scipy'])\n"


def without_extra(env: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run `flask` where none of the extra's packages can be imported."""
    program = f"{BLOCKED}from flask.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--app", tuning.APP, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **env},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class TestWithoutTheExtra:
    def test_says_in_one_line_what_to_install(self, sqlite_url: URL) -> None:
        status, output, errors = without_extra(
            environment(sqlite_url), "--debug", "pool", "tune", "--sql=SELECT 1"
        )
        assert status == 2
        assert output == ""
        assert errors.splitlines()[-1:] == [
            "Error: flask pool tune needs matplotlib, numpy, scipy:"
            " pip install 'flask-poolguard[tune]'"
        ]
        assert "Traceback" not in errors

    @pytest.mark.parametrize(
        "arguments", [("tune", "--help"), ("status",), ("config",), ("--help",)]
    )
    def test_all_else_works(self, sqlite_url: URL, arguments: tuple[str, ...]) -> None:
        status, _, errors = without_extra(environment(sqlite_url), "pool", *arguments)
        assert status == 0, errors

    def test_the_load_can_be_made(self) -> None:
        """Else each process of the load would import what only the command needs."""
        program = f"{BLOCKED}import flask_poolguard.tune.load_worker"
        done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY)
        assert done.returncode == 0


class TestRefusals:
    def test_without_debug_mode_says_what_would_happen(self, mariadb_url: URL) -> None:
        done = tuning.run(environment(mariadb_url), "--url=/query", *SHORT, debug=False)
        message = " ".join(done.stderr.split())
        assert done.returncode == 1
        assert done.stdout.splitlines()[1:] == []
        assert "is not in debug mode" in message
        assert str(mariadb_url.database) in message
        assert "over up to 3 connections: GET /query" in message
        assert "--yes-load-this-database" in message

    def test_without_debug_mode_it_can_be_meant(self, sqlite_url: URL) -> None:
        done = tuning.run(
            environment(sqlite_url),
            *("--sql=SELECT 1", *SHORT, "--yes-load-this-database"),
            debug=False,
        )
        assert done.returncode == 0, done.stderr

    def test_more_than_half_of_what_is_free(self, served_database: Database) -> None:
        done = tuning.run(
            environment(served_database.url), "--url=/query", "--max-size=900"
        )
        assert done.returncode == 1
        assert re.search(
            r"--max-size 900 is too large: .* has \d+ of .* connections free, half of",
            " ".join(done.stderr.split()),
        )

    @pytest.mark.usefixtures("own_server")
    def test_takes_half_of_what_its_role_may_have(
        self, postgresql: DatabaseServer, postgresql_url: URL
    ) -> None:
        postgresql.execute("ALTER ROLE app CONNECTION LIMIT 8")
        try:
            found = tuning.run_json(
                environment(postgresql_url),
                *("--sql=SELECT 1", "--processes=1", "--seconds=0.2", "--rounds=1"),
            )
        finally:
            postgresql.execute("ALTER ROLE app CONNECTION LIMIT -1")
        assert [each["size"] for each in found["sizes"]] == [1, 2, 3, 4]

    def test_behind_a_pooler_asks_for_the_largest_size(
        self, postgresql_url: URL
    ) -> None:
        with pooler(postgresql_url) as url:
            refused = tuning.run(environment(url), "--sql=SELECT 1", "--processes=1")
            found = tuning.run_json(environment(url), "--sql=SELECT 1", *SHORT)
        assert refused.returncode == 1
        message = " ".join(refused.stderr.split())
        assert "is unknown (a pooler stands before the server" in message
        assert "give the largest pool that each of 1 processes may have" in message
        assert [each["size"] for each in found["sizes"]] == [1, 2, 3]

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("--url=/", "--sql=SELECT 1"),
            ("--url=x",),
            ("--sql=DROP TABLE a",),
            ("--sql=SELECT 1", "--html=a", "--png=./a"),
        ],
    )
    def test_of_senseless_work(
        self, sqlite_url: URL, arguments: tuple[str, ...]
    ) -> None:
        done = tuning.run(environment(sqlite_url), *arguments)
        assert done.returncode == 2
        assert "Error: " in done.stderr

    def test_of_a_bind_that_is_none(self, sqlite_url: URL) -> None:
        done = tuning.run(environment(sqlite_url), "--sql=SELECT 1", "--bind=reprots")
        assert done.returncode == 2
        assert "'reprots' is no bind of this app; it has: default." in done.stderr

    def test_of_a_server_that_is_away(self, mariadb_url: URL) -> None:
        done = tuning.run(environment(mariadb_url.set(port=1)), "--url=/query")
        assert done.returncode == 1
        assert "The server of bind 'default' cannot be asked" in done.stderr


class TestFailures:
    @pytest.mark.parametrize("debug", [True, False])
    def test_a_view_that_fails_ends_the_run_with_its_error(
        self, mariadb_url: URL, debug: bool
    ) -> None:
        done = tuning.run(
            environment(mariadb_url),
            *("--url=/query", "--url=/fail", *SHORT, "--yes-load-this-database"),
            debug=debug,
        )
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert " Error: GET /fail" in message
        assert "LookupError: no such tea" in message
        assert debug or "answered 500" in message

    def test_a_pool_that_cannot_be_filled_is_told_in_words(
        self, postgresql_url: URL
    ) -> None:
        with pooler(postgresql_url, max_client_conn=2) as url:
            done = tuning.run(environment(url), "--sql=SELECT 1", *SHORT)
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert "Error: A pool of 3 connections could not be filled: with 2 open" in (
            message
        )
        assert "no more connections allowed" in message
        assert "Choose a smaller --max-size" in message

    def test_a_query_that_fails_ends_the_run_with_its_error(
        self, postgresql_url: URL
    ) -> None:
        done = tuning.run(environment(postgresql_url), "--sql=SELECT nothing", *SHORT)
        assert done.returncode == 1
        assert 'column "nothing" does not exist' in " ".join(done.stderr.split())

    def test_a_query_cannot_change_anything(self, served_database: Database) -> None:
        """A function may try; the server refuses it."""
        call = {"mysql": "NEXTVAL(tickets)", "postgresql": "nextval('tickets')"}
        engine = sa.create_engine(served_database.url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SEQUENCE tickets")
        query = f"SELECT {call[engine.dialect.name]}"
        done = tuning.run(environment(served_database.url), f"--sql={query}", *SHORT)
        assert done.returncode == 1
        assert re.search("read.only", done.stderr, re.IGNORECASE)
        with engine.begin() as connection:
            assert connection.exec_driver_sql(query).scalar() == 1
        engine.dispose()

    def test_a_view_that_uses_no_database_is_told(self, mariadb_url: URL) -> None:
        done = tuning.run(environment(mariadb_url), "--url=/no-database", *SHORT)
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert "takes a connection of bind 'default'" in message
        assert "GET /no-database answered 200" in message

    def test_a_view_that_takes_two_is_told(self, mariadb_url: URL) -> None:
        done = tuning.run(environment(mariadb_url), "--url=/two", *SHORT)
        assert done.returncode == 1
        assert "GET /two has 2 connections" in done.stderr

    def test_an_app_that_fails_to_import_again_shows_what_it_wrote(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        folder = tmp_path / "pids"
        folder.mkdir()
        env = environment(mariadb_url, PIDS_FOLDER=str(folder), ONLY_ONCE="1")
        done = tuning.run(env, "--url=/query", *SHORT)
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert "ended by itself, with status 3" in message
        assert "This app runs already, on mysql+pymysql://app:***@" in message

    def test_an_app_that_fails_to_import_is_flasks_own_error(self) -> None:
        done = subprocess.run(
            tuning.command("--url=/query"),
            cwd=REPOSITORY,
            capture_output=True,
            encoding="utf-8",
            timeout=100,
            check=False,
        )
        assert done.returncode != 0
        assert "KeyError: 'DATABASE_URL'" in done.stderr


class TestEarlyEnd:
    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_leaves_nothing_behind(
        self,
        tmp_path: Path,
        state_dir: Path,
        served_database: Database,
        signum: signal.Signals,
    ) -> None:
        folder = tmp_path / "tmp"
        folder.mkdir()
        env = environment(served_database.url, TMPDIR=str(folder))
        with running(env, "--url=/sleep", "--processes=2", "--rounds=90") as process:
            children = wait_for_load(process, 2)
            wait_until(lambda: sessions(served_database), what="connections")
            process.send_signal(signum)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signum, errors
        assert "Traceback" not in errors
        assert all("tune.load_worker" not in command_of(pid) for pid in children)
        wait_until(lambda: not sessions(served_database), what="the end of sessions")
        assert list(folder.iterdir()) == []
        assert list(state_dir.rglob("*.state")) == []

    @pytest.mark.parametrize("ends_early", [False, True])
    def test_ends_what_the_app_started_too(
        self, tmp_path: Path, sqlite_url: URL, ends_early: bool
    ) -> None:
        folder = tmp_path / "helpers"
        folder.mkdir()
        env = environment(sqlite_url, HELPERS_FOLDER=str(folder))
        rounds = "--rounds=90" if ends_early else "--rounds=1"
        with running(env, "--sql=SELECT 1", *SHORT[:3], rounds) as process:
            wait_for_load(process)
            helpers = {int(each.name) for each in folder.glob("[0-9]*")}
            try:
                assert [command_of(pid) for pid in helpers] == ["sleep 600"]
                if ends_early:
                    process.send_signal(signal.SIGINT)
                process.communicate(timeout=60)
                wait_until(
                    lambda: not any(map(command_of, helpers)),
                    what="the end of what the app started",
                )
            finally:
                kill_all(filter(command_of, helpers))

    def test_shows_on_a_terminal_how_far_it_is_and_what_it_has_found(
        self, sqlite_url: URL
    ) -> None:
        env = environment(sqlite_url)
        with on_terminal(env, "--sql=SELECT 1") as (process, until):
            until(b" 4/270")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        found = json.loads(output)
        assert not found["complete"]
        assert [each["size"] for each in found["sizes"]] == [1, 2, 3]
        assert found["recommended"]["pool_size"] in (1, 2, 3)
        assert found["notes"][0]["code"] == "interrupted"

    def test_by_a_server_that_ends_shows_what_was_measured_and_why(
        self, served_database: Database
    ) -> None:
        with TCPProxy.before(served_database.url) as server:
            url = served_database.url.set(host=server.host, port=server.port)
            env = environment(url, FLASK_POOLGUARD_CONNECT_RETRY="0.1")
            with on_terminal(env, "--url=/query") as (process, until):
                until(b" 4/270")
                server.close()
                until(b"Error: ")
                output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        found = json.loads(output)
        assert not found["complete"]
        assert [each["size"] for each in found["sizes"]] == [1, 2, 3]
        assert found["notes"][0]["code"] == "interrupted"

    def test_by_a_server_that_hangs_shows_what_was_measured_and_why(
        self, postgresql_url: URL
    ) -> None:
        with TCPProxy.before(postgresql_url) as server:
            url = postgresql_url.set(host=server.host, port=server.port)
            with on_terminal(environment(url), "--url=/query") as (process, until):
                until(b" 4/270")
                server.drop()
                until(b"Error: ")
                output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        found = json.loads(output)
        assert not found["complete"]
        assert [each["size"] for each in found["sizes"]] == [1, 2, 3]

    def test_a_killed_command_takes_its_processes_along(
        self, served_database: Database
    ) -> None:
        env = environment(served_database.url)
        with running(env, "--url=/sleep", "--processes=2", "--rounds=90") as process:
            children = wait_for_load(process, 2)
            process.kill()
            process.communicate(timeout=60)
        wait_until(
            lambda: all("tune.load_worker" not in command_of(pid) for pid in children),
            seconds=30,
            what="the end of the processes",
        )
        wait_until(lambda: not sessions(served_database), what="the end of sessions")


@contextmanager
def pooler(target: URL, **settings: int) -> Iterator[URL]:
    """Run a PgBouncer before a database; the test is skipped where there is none."""
    try:
        server = PgBouncer(target, **settings)
    except MissingServerError as error:
        not_tested.stop_test(str(error))
    with server:
        yield server.url


@contextmanager
def on_terminal(
    env: dict[str, str], work: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[bytes], None]]]:
    """Run the command for long, its errors on a terminal and JSON in a pipe.

    Gives the process too, and what waits until the terminal shows something.
    """
    ours, theirs = pty.openpty()
    arguments = (work, *SHORT[:3], "--rounds=90", "--json")
    with subprocess.Popen(
        tuning.command(*arguments),
        cwd=REPOSITORY,
        env={**os.environ, "TERM": "xterm", **env},
        stdout=subprocess.PIPE,
        stderr=theirs,
        encoding="utf-8",
    ) as process:
        os.close(theirs)
        shown = b""

        def until(text: bytes) -> None:
            nonlocal shown
            while text not in shown:
                try:
                    shown += os.read(ours, 65536)
                except OSError:
                    raise AssertionError(shown[-2000:].decode()) from None

        try:
            yield process, until
        finally:
            process.kill()
            os.close(ours)


@contextmanager
def running(env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in the background."""
    with subprocess.Popen(
        tuning.command(*arguments),
        cwd=REPOSITORY,
        env={**os.environ, **env, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=60)


def wait_for_load(process: subprocess.Popen[str], processes: int = 1) -> set[int]:
    """Wait until the load has begun; return its processes."""
    assert process.stderr is not None
    assert process.stderr.readline().startswith("imported by")  # the app's own
    line = process.stderr.readline()
    assert "pool sizes from" in line, line + process.stderr.read()
    children = children_of(process.pid)
    assert len(children) == processes
    assert all("tune.load_worker" in command_of(pid) for pid in children)
    return children
