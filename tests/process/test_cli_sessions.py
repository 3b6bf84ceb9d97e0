"""`flask pool status --server`, `holders` and `top`, asked about gunicorn's workers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import URL, NullPool, create_engine

from tests.conftest import Database
from tests.process.test_cli_status_output import on_terminal
from tests.support import desk, not_tested
from tests.support.desk import DeskServer, Json, environment
from tests.support.gunicorn import is_gunicorn
from tests.support.pgbouncer import PgBouncer
from tests.support.private_server import MissingServerError
from tests.support.servers import APP_USER, MariaDBServer, PostgreSQLServer
from tests.support.waiting import wait_until

# The server's list has the sessions of all its clients.
pytestmark = [
    pytest.mark.process,
    pytest.mark.every_product,
    pytest.mark.usefixtures("own_server"),
]

MARK = "of the tests"
SLEEP = {"mysql": "SELECT SLEEP(60)", "postgresql": "SELECT pg_sleep(60)"}
# Options of a URL that let a session idle for a second.
LIMIT = {
    "mysql": ("init_command", "SET SESSION wait_timeout = 1"),
    "postgresql": ("options", "-c idle_in_transaction_session_timeout=1s"),
}
# Begins a transaction that the server's own list shows.
BEGIN = {
    "mysql": "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    "postgresql": "SELECT 1",
}


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give a server that shows labels and transactions to the app's user."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        yield Database(url, request.getfixturevalue("postgresql"))
        return
    with MariaDBServer(performance_schema="ON") as server:
        server.execute(f"GRANT PROCESS ON *.* TO {APP_USER}@'%'")
        yield Database(server.url(database=server.create_database()), server)


both_servers = pytest.mark.parametrize(
    "watched", ["postgresql", "mariadb"], indirect=True
)


def sessions(report: Json) -> list[Json]:
    """Return the sessions of the default bind's server."""
    found: list[Json] = report["servers"][0]["sessions"]
    return found


def busy_ones(report: Json) -> list[Json]:
    """Return those that run a statement of the tests."""
    return [each for each in sessions(report) if MARK in (each["statement"] or "")]


@contextmanager
def locked_table(url: URL) -> Iterator[str]:
    """Give a statement that waits for a lock.

    MariaDB looks after the client while it sleeps, but not while it waits for a row.
    """
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO notes VALUES (1)")
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE notes SET id = 2")
        yield f"UPDATE notes SET id = 3 /* {MARK} */"
        connection.rollback()


@contextmanager
def running(server: DeskServer, sql: str) -> Iterator[None]:
    """Let a view run a statement; its worker may be killed meanwhile."""

    def get() -> None:
        with contextlib.suppress(
            urllib.error.URLError, http.client.HTTPException, OSError
        ):
            server.get(f"/run?sql={quote(sql)}")

    thread = threading.Thread(target=get)
    thread.start()
    yield
    thread.join(30)


def codes(env: dict[str, str]) -> list[str]:
    """Return the codes of what `flask pool status --server` finds."""
    return desk.codes(desk.status(env, "--server"))


def kill(pid: int) -> None:
    """Kill a worker as the kernel does when memory runs out."""
    assert is_gunicorn(pid), pid
    os.kill(pid, signal.SIGKILL)


@both_servers
class TestStatusWithServer:
    @pytest.mark.quick
    def test_joins_every_workers_connections(
        self, tmp_path: Path, watched: Database
    ) -> None:
        env = environment(watched.url)
        with DeskServer(tmp_path, env, workers=3, threads=4) as server:
            server.wake()
            holders = server.hold(4)
            report = desk.status(env, "--server")
        ours = [each for each in sessions(report) if each["owner"] == "worker"]
        assert {each["pid"] for each in ours} == desk.pids(report)
        held = [each for each in ours if each["held_seconds"] is not None]
        assert sorted(each["pid"] for each in held) == sorted(holders)
        for each in held:
            assert each["endpoint"] == "hold"
            assert each["site"].startswith("apps/desk.py:")
            assert each["label"] == f"desk@{each['host']}:{each['pid']}"
            assert each["statement"] is None
        idle = [each for each in ours if each["held_seconds"] is None]
        assert all(each["endpoint"] is None for each in idle)
        assert report["servers"][0]["sessions_hidden"] == []

    def test_names_the_orphan_of_a_killed_worker(
        self, tmp_path: Path, watched: Database
    ) -> None:
        env = environment(watched.url)
        database = watched.running_server
        with (
            locked_table(watched.url) as sql,
            DeskServer(tmp_path, env, workers=2, threads=2) as server,
        ):
            server.wake()
            with running(server, sql):
                wait_until(
                    lambda: busy_ones(desk.status(env, "--server", "--sql")),
                    seconds=30,
                    what="the statement to run",
                )
                (before,) = busy_ones(desk.status(env, "--server", "--sql"))
                assert (before["owner"], before["endpoint"]) == ("worker", "run")
                kill(before["pid"])
            wait_until(
                lambda: len(server.worker_pids()) == 2, seconds=30, what="a new worker"
            )
            wait_until(lambda: "orphan" in codes(env), seconds=30, what="the finding")
            report = desk.status(env, "--server", "--sql")
            text = desk.run_status(env, "--server")
            (after,) = busy_ones(report)
            database.kill_session(after["id"])
            assert "orphan" not in codes(env)
        assert after["id"] == before["id"]
        assert (after["owner"], after["pid"]) == ("orphan", before["pid"])
        assert after["state"] == "active"
        assert after["endpoint"] is None
        finding = desk.finding(report, "orphan")
        assert finding["level"] == "warning"
        assert f"pid {before['pid']}" in finding["message"]
        assert str(after["id"]) in finding["fix"]
        host = socket.gethostname()
        line = f"ORPHAN of {host} pid {before['pid']}, which is gone: session "
        line += str(after["id"])
        assert line in " ".join(text.split())

    def test_finds_a_view_that_idles_in_a_transaction(
        self, tmp_path: Path, watched: Database
    ) -> None:
        env = environment(watched.url)
        with DeskServer(tmp_path, env, threads=2) as server:
            (pid,) = server.hold(1, BEGIN[watched.url.get_backend_name()])
            wait_until(
                lambda: (
                    "idle-in-transaction" in desk.codes(desk.status(env, "--server"))
                ),
                seconds=30,
                what="the finding",
            )
            report = desk.status(env, "--server")
            held: Json = json.loads(desk.run_pool(env, "holders", "--json"))
            text = desk.run_pool(env, "holders")
        found = desk.finding(report, "idle-in-transaction")
        assert found["message"].startswith("hold keeps 1 connection of bind 'default'")
        assert "taken at apps/desk.py:" in found["message"]
        assert "apps/desk.py:" in found["fix"]
        (holder,) = held["holders"]
        assert (holder["pid"], holder["endpoint"]) == (pid, "hold")
        assert holder["state"] == "idle in transaction"
        assert "idle in transaction for " in " ".join(text.split())


class TestBehindPgBouncer:
    def test_labels_say_which_worker_idles_in_a_transaction(
        self, tmp_path: Path, postgresql_url: URL
    ) -> None:
        try:
            pooler = PgBouncer(postgresql_url)
        except MissingServerError as error:
            not_tested.stop_test(str(error))
        with pooler:
            env = environment(pooler.url)
            with DeskServer(tmp_path, env, workers=2, threads=2) as server:
                server.wake()
                (pid,) = server.hold(1)
                wait_until(
                    lambda: "idle-in-transaction" in codes(env),
                    seconds=30,
                    what="the finding",
                )
                report = desk.status(env, "--server")
                text = " ".join(desk.run_status(env, "--server").split())
        (held,) = [
            each for each in sessions(report) if each["state"] == "idle in transaction"
        ]
        assert (held["owner"], held["pid"], held["bind"]) == ("worker", pid, None)
        found = desk.finding(report, "idle-in-transaction")
        assert found["message"].startswith(
            f"Worker {pid} keeps 1 connection of bind 'default' idle in a transaction"
            " behind a proxy, taken by hold at apps/desk.py:"
        )
        assert f"session {held['id']} for " in found["message"]
        assert "apps/desk.py:" in found["fix"]
        assert f"pid {pid} by its label alone: 1 idle in transaction for" in text
        assert "of others" not in text
        assert "session-gone" not in desk.codes(report)


class TestLabels:
    def test_are_the_workers_own_though_the_app_connected_before_the_fork(
        self, tmp_path: Path, postgresql_url: URL
    ) -> None:
        env = environment(postgresql_url, QUERY_AT_START="1")
        with DeskServer(tmp_path, env, workers=2, preload=True) as server:
            server.wake()
            report = desk.status(env, "--server")
            workers = server.worker_pids()
        labels = {
            each["label"].rpartition(":")[2]: each["pid"]
            for each in sessions(report)
            if each["owner"] == "worker" and each["pid"] in workers
        }
        assert labels == {str(pid): pid for pid in workers}

    def test_of_workers_in_another_folder_are_not_called_strangers(
        self, tmp_path: Path, postgresql_url: URL
    ) -> None:
        env = environment(postgresql_url)
        elsewhere = {**env, "FLASK_POOLGUARD_STATE_DIR": str(tmp_path / "elsewhere")}
        with DeskServer(tmp_path, elsewhere) as server:
            (pid,) = server.wake().worker_pids()
            text = " ".join(desk.run_status(env, "--server").split())
        assert f"pid {pid}, not among the workers found here: 1 idle" in text


class TestStatements:
    def test_are_shown_with_sql_only(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(served_database.url)
        with DeskServer(tmp_path, env, threads=2) as server:
            sql = SLEEP[served_database.url.get_backend_name()]
            with running(server, f"{sql} -- secret {MARK}"):
                wait_until(
                    lambda: busy_ones(desk.status(env, "--server", "--sql")),
                    seconds=30,
                    what="the statement to run",
                )
                without = desk.run_status(env, "--server")
                without += desk.run_status(env, "--server", "--json")
                with_sql = desk.run_status(env, "--server", "--sql")
                (one,) = busy_ones(desk.status(env, "--server", "--sql"))
                served_database.running_server.kill_session(one["id"])
        assert "secret" not in without
        assert f"{sql} -- secret {MARK}" in with_sql

    def test_need_the_servers_list(self, mariadb_url: URL) -> None:
        done = desk.ask(environment(mariadb_url), "status", "--sql")
        assert done.returncode == 2
        assert "add --server" in done.stderr


class TestSessionsThatAreGone:
    def test_are_named_with_who_holds_them(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        option = LIMIT[served_database.url.get_backend_name()]
        env = environment(served_database.url.update_query_pairs([option]))
        with DeskServer(tmp_path, env, threads=2) as server:
            (pid,) = server.hold(1)
            wait_until(
                lambda: "session-gone" in desk.codes(desk.status(env)),
                seconds=30,
                what="the finding",
            )
            report = desk.status(env, "--server")
            text = " ".join(desk.run_status(env, "--server").split())
            holders = desk.run_pool(env, "holders")
        (holder,) = desk.pool_of(report, pid)["holders"]
        assert holder["gone"] is True
        assert f"session {holder['server_id']} gone: the server has ended it" in text
        assert " connections, 0 of them ours" in text
        assert "knows none" not in text
        assert "state ?" not in text
        found = desk.finding(report, "session-gone")
        assert "still held: hold at apps/desk.py:" in found["message"]
        assert f"(worker {pid}); its limit for idle ones" in found["message"]
        assert "WARNING session-gone" in holders


class TestWhatCannotBeSeen:
    def test_is_said_in_the_text(self, tmp_path: Path, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            server.hold(1)
            text = " ".join(desk.run_status(env, "--server").split())
        assert text.count("Not to be seen:") == 1
        assert "labels of sessions (performance_schema is off)" in text
        assert "run: GRANT PROCESS ON *.* TO 'app'@'%'" in text

    @pytest.mark.parametrize(
        "arguments",
        [("status", "--server"), ("holders",), ("top", "--count=1")],
        ids=lambda arguments: arguments[0],
    )
    def test_a_server_that_is_gone_leaves_the_workers(
        self, tmp_path: Path, arguments: tuple[str, ...]
    ) -> None:
        with PostgreSQLServer() as database:
            env = environment(database.url(database=database.create_database()))
            with DeskServer(tmp_path, env, threads=2) as server:
                (pid,) = server.hold(1)
                database.stop()
                text = desk.run_pool(env, *arguments)
                report = json.loads(desk.run_pool(env, *arguments, "--json"))
        assert f"pid {pid} default: hold at apps/desk.py:" in text
        assert "CRITICAL server-unreachable: The server of bind 'default'" in text
        assert "server-unreachable" in desk.codes(report)
        if arguments[0] != "top":
            unseen = "what the sessions of default do (the server did not answer"
            assert unseen in text

    @pytest.mark.parametrize(
        "arguments",
        [("holders",), ("top", "--count=1")],
        ids=lambda arguments: arguments[0],
    )
    def test_workers_that_are_missing_are_said_to_be(
        self,
        tmp_path: Path,
        state_dir: Path,
        mariadb_url: URL,
        arguments: tuple[str, ...],
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            (pid,) = server.hold(1)
            complete: Json = json.loads(desk.run_pool(env, *arguments, "--json"))
            (path,) = state_dir.rglob("*.state")
            with path.open("r+b") as file:
                file.seek(7)
                file.write(b"\xfe")  # the file of a worker of another release
            text = " ".join(desk.run_pool(env, *arguments).split())
            report: Json = json.loads(desk.run_pool(env, *arguments, "--json"))
        assert complete["findings"] == []
        assert desk.finding(report, "layout")["level"] == "warning"
        assert f"WARNING layout: Worker {pid} runs another version" in text
        assert report["holders"] == []

    @pytest.mark.parametrize(
        "arguments",
        [("holders",), ("top", "--count=1")],
        ids=lambda arguments: arguments[0],
    )
    def test_a_folder_that_is_refused_is_named(
        self, tmp_path: Path, mariadb_url: URL, arguments: tuple[str, ...]
    ) -> None:
        folder = tmp_path / "open-to-all"
        folder.mkdir()
        folder.chmod(0o777)
        env = environment(mariadb_url, FLASK_POOLGUARD_STATE_DIR=str(folder))
        text = desk.run_pool(env, *arguments)
        report: Json = json.loads(desk.run_pool(env, *arguments, "--json"))
        assert "WARNING state-folder: A folder of state files cannot be" in text
        assert str(folder) in desk.finding(report, "state-folder")["message"]


class TestHolders:
    def test_none_is_said_in_a_line_with_whether_anybody_lives(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        alone = desk.run_pool(env, "holders")
        with DeskServer(tmp_path, env, workers=2) as server:
            server.wake()
            idle = desk.run_pool(env, "holders")
        assert "\ndesk: no connection held, no live worker on host " in alone
        assert "\ndesk: no connection held, 2 workers on host " in idle
        assert len(idle.splitlines()) <= 3

    @pytest.mark.quick
    def test_are_listed_longest_first_in_eighty_columns(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(
            mariadb_url, REPORTS_DATABASE_URL=mariadb_url.render_as_string(False)
        )
        with DeskServer(tmp_path, env, workers=2, threads=4) as server:
            server.hold(1)
            server.hold(3)
            text = desk.run_pool(env, "holders")
            held = json.loads(desk.run_pool(env, "holders", "--json"))["holders"]
            late = json.loads(
                desk.run_pool(env, "holders", "--json", "--min-seconds=3600")
            )
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        assert "\ndesk: 4 connections held, " in text
        seconds = [each["held_seconds"] for each in held]
        assert len(seconds) == 4
        assert seconds == sorted(seconds, reverse=True)
        assert late["holders"] == []
        assert late["workers"] >= 1
        names = "held_seconds host pid bind endpoint site thread server_id state"
        assert " ".join(held[0]) == f"{names} state_seconds gone kept now now_seconds"

    @pytest.mark.parametrize("seconds", ["-1", "nan", "soon"])
    def test_refuse_a_senseless_bound(self, mariadb_url: URL, seconds: str) -> None:
        done = desk.ask(environment(mariadb_url), "holders", f"--min-seconds={seconds}")
        assert done.returncode == 2
        assert "--min-seconds" in done.stderr


class TestTop:
    def test_counts_what_happens_between_refreshes(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with (
            DeskServer(tmp_path, env, threads=2) as server,
            desk.watching(env, "top", "--json", "--interval=0.5") as process,
        ):
            server.wake()
            assert process.stdout is not None
            checkouts = 0.0
            for number in range(60):
                refresh = json.loads(process.stdout.readline())
                assert (refresh["seconds"] is None) == (number == 0)
                rates = [each["checkouts_per_second"] for each in refresh["pools"]]
                checkouts = sum(each or 0 for each in rates)
                if checkouts:
                    break
                server.get("/query")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert checkouts > 0
        assert process.returncode == 0
        assert errors == ""

    @pytest.mark.quick
    def test_ends_after_a_count(self, tmp_path: Path, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=2) as server:
            (pid,) = server.hold(1)
            text = desk.run_pool(env, "top", "--count=2", "--interval=0.1")
            lines = desk.run_pool(
                env, "top", "--count=2", "--interval=0.1", "--json"
            ).splitlines()
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        assert text.count("Held now, longest first") == 2
        first, second = text.split("Held now", 1)
        assert "rates from the next refresh on" in first
        assert "rates of the last" in second
        assert [json.loads(line)["pools"][0]["pid"] for line in lines] == [pid, pid]
        names = "verdict schema_version taken_at app seconds pools budgets holders"
        assert " ".join(json.loads(lines[0])) == f"{names} findings"

    def test_clears_a_terminal_until_it_is_interrupted(self, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        text, code = on_terminal(
            env, "--interval=0.1", until="rates of the last", command="top"
        )
        assert code == 0
        assert text.count("\x1b[2J") >= 2
        assert "Traceback" not in text

    def test_says_that_nobody_lives(self, mariadb_url: URL) -> None:
        text = desk.run_pool(environment(mariadb_url), "top", "--count=1")
        assert "No live worker" in text
