"""`flask pool recycle` beside an app that runs under gunicorn on real servers."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.conftest import Database
from tests.support import desk
from tests.support.app_server import REPOSITORY
from tests.support.desk import DeskServer, environment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


def sessions_on(database: Database) -> set[int]:
    """Return the app's sessions on its own database, as the server lists them."""
    server = database.running_server
    return server.session_ids(database=database.url.database)


@contextmanager
def load(server: DeskServer, threads: int = 4) -> Iterator[list[int]]:
    """Send requests all the time; gives the statuses of the answers so far."""
    statuses: list[int] = []
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            statuses.append(server.get("/query")[0])

    senders = [threading.Thread(target=send) for _ in range(threads)]
    for sender in senders:
        sender.start()
    try:
        wait_until(lambda: len(statuses) > 20, seconds=30, what="some traffic")
        yield statuses
    finally:
        is_over.set()
        for sender in senders:
            sender.join(60)


class TestAllWorkers:
    @pytest.mark.quick
    @pytest.mark.parametrize("preload", [False, True])
    def test_have_new_connections_only(
        self, tmp_path: Path, served_database: Database, preload: bool
    ) -> None:
        more = {"QUERY_AT_START": "yes"} if preload else {}
        env = environment(served_database.url, **more)
        with DeskServer(tmp_path, env, workers=2, threads=4, preload=preload) as server:
            server.wake()
            server.hold(4)
            server.let_go()
            parents = set()
            if preload:  # the parent keeps connections as well
                parents = {server.pid}
            before = sessions_on(served_database)
            found = desk.recycle(env)
            assert (found["returncode"], found["done"]) == (0, True)
            assert next(iter(found)) == "verdict"
            assert found["verdict"]["level"] == "ok"
            pids = {worker["pid"] for worker in found["workers"]}
            assert pids == server.worker_pids() | parents
            pools = [pool for each in found["workers"] for pool in each["pools"]]
            assert all(pool["answered"] and pool["outdated"] == 0 for pool in pools)
            assert sum(pool["closed"] for pool in pools) == len(before)
            server.wake()
            after = sessions_on(served_database)
            assert after
            assert not after & before

    def test_serve_every_request_meanwhile(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(
            served_database.url,
            FLASK_POOLGUARD_POOL_SIZE="2",
            FLASK_POOLGUARD_MAX_OVERFLOW="0",
        )
        with DeskServer(tmp_path, env, workers=2, threads=4) as server:
            server.wake()
            with load(server, threads=8) as statuses:
                before = sessions_on(served_database)
                for _ in range(3):
                    assert desk.recycle(env)["done"]
                so_far = len(statuses)
                wait_until(lambda: len(statuses) > so_far + 50, seconds=30)
                after = sessions_on(served_database)
            assert set(statuses) == {200}
            assert before
            assert after
            assert not after & before

    def test_are_told_by_two_commands_at_once(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(
            mariadb_url,
            REPORTS_DATABASE_URL=mariadb_url.render_as_string(hide_password=False),
        )
        with DeskServer(tmp_path, env, workers=2, threads=2) as server:
            server.wake()
            done: dict[str, desk.Json] = {}

            def recycle(bind: str) -> None:
                done[bind] = desk.recycle(env, "--bind", bind, "--timeout", "40")

            threads = [
                threading.Thread(target=recycle, args=(bind,))
                for bind in ("default", "reports")
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(90)
            for bind, found in done.items():
                assert found["done"], found
                binds = {
                    pool["bind"] for each in found["workers"] for pool in each["pools"]
                }
                assert binds == {bind}
            assert set(done) == {"default", "reports"}

    def test_of_gevent_as_well(self, tmp_path: Path, postgresql_url: URL) -> None:
        env = environment(postgresql_url)
        with DeskServer(tmp_path, env, worker_class="gevent") as server:
            server.wake()
            (pid,) = server.worker_pids()
            before = desk.pool_of(desk.status(env), pid)
            found = desk.recycle(env)
            assert found["done"]
            (worker,) = found["workers"]
            assert worker["pools"][0]["closed"] == before["idle"] == 1


class TestOneThatIsHeld:
    def test_is_replaced_when_it_comes_back_and_not_before(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(served_database.url)
        with DeskServer(tmp_path, env, threads=4) as server:
            server.wake()
            (pid,) = server.hold(1)
            (held,) = sessions_on(served_database)
            found = desk.recycle(env, "--timeout", "3")
            assert (found["returncode"], found["done"]) == (1, False)
            assert found["verdict"]["level"] == "warning"
            assert re.search(
                r"1 of 1 worker on host .* may still use older connections after .*:"
                r" 1 connection out, it is in hold, (now|taken) at apps/desk\.py:\d+",
                found["verdict"]["text"],
            )
            (worker,) = found["workers"]
            (pool,) = worker["pools"]
            assert (worker["pid"], pool["answered"], pool["outdated"]) == (pid, True, 1)
            (holder,) = pool["holders"]
            assert (holder["endpoint"], holder["server_id"]) == ("hold", held)
            assert re.fullmatch(r"apps/desk\.py:\d+", holder["site"])
            # Others have new ones meanwhile, which nobody takes for old ones.
            server.wake()
            text = desk.run_recycle(env, "--timeout", "0").stdout
            assert held in sessions_on(served_database)
            assert text.startswith("WARNING  1 of 1 worker")
            server.let_go()
            wait_until(lambda: held not in sessions_on(served_database))
            assert desk.recycle(env)["done"]

    def test_is_waited_for(
        self, tmp_path: Path, state_dir: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=4) as server:
            server.hold(1)
            found: list[desk.Json] = []
            waiting = threading.Thread(target=lambda: found.append(desk.recycle(env)))
            waiting.start()
            requests = state_dir / "flask-poolguard"
            wait_until(lambda: list(requests.glob("*.recycle")), seconds=30)
            server.let_go()
            waiting.join(60)
            assert found[0]["done"]
            assert found[0]["workers"][0]["pools"][0]["closed"] == 1

    def test_is_named_for_people(self, tmp_path: Path, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, threads=4) as server:
            (pid,) = server.hold(1)
            done = desk.run_recycle(env, "--timeout", "3")
            text = " ".join(done.stdout.split())
            assert done.returncode == 1
            assert f"{pid} default: hold at apps/desk.py:" in text
            assert text.startswith("WARNING 1 of 1 worker on host")
            # First the reasons, then the table.
            assert text.index("hold at apps") < text.index("PID")
            assert max(map(len, done.stdout.splitlines())) <= 80
            assert "\r" not in done.stdout
            assert "\033" not in done.stdout


class TestOneWorker:
    def test_that_is_stopped_is_named_and_obeys_later(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        env = environment(served_database.url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            (pid,) = server.worker_pids()
            before = sessions_on(served_database)
            desk.suspend(pid)
            try:
                done = desk.run_recycle(env, "--timeout", "2")
                assert done.returncode == 1
                text = " ".join(done.stdout.split())
                assert f"{pid} has not answered (default): it is stopped" in text
                assert "no answer from 1 worker" in text
                found = desk.recycle(env, "--timeout", "0")
                (worker,) = found["workers"]
                (pool,) = worker["pools"]
                assert (pool["answered"], pool["outdated"]) == (False, None)
                assert sessions_on(served_database) == before
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: not sessions_on(served_database) & before)

    def test_that_ends_meanwhile_is_done(
        self, tmp_path: Path, state_dir: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            (pid,) = server.worker_pids()
            desk.suspend(pid)
            found: list[desk.Json] = []
            waiting = threading.Thread(target=lambda: found.append(desk.recycle(env)))
            waiting.start()
            requests = state_dir / "flask-poolguard"
            wait_until(lambda: list(requests.glob(f"{pid}-*.recycle")), seconds=30)
            os.kill(pid, signal.SIGKILL)
            waiting.join(60)
            assert found[0]["done"]
            assert found[0]["workers"][0]["ended"]
            # Whoever comes next takes away what is left.
            wait_until(lambda: pid not in server.worker_pids() and server.worker_pids())
            server.wake()
            assert not list(requests.glob(f"{pid}-*"))

    def test_that_has_made_no_connection_answers(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env) as server:
            server.wake("/pid")
            found = desk.recycle(env)
            assert found["done"]
            (pool,) = found["workers"][0]["pools"]
            assert pool["answered"]
            assert pool["closed"] == pool["outdated"] == 0


class TestWithoutAnybody:
    def test_it_is_not_done(self, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        done = desk.run_recycle(env)
        text = " ".join(done.stdout.split())
        assert done.returncode == 1
        assert text.startswith("UNKNOWN no worker on host")
        assert "No live worker of desk found" in text
        found = desk.recycle(env)
        assert (found["done"], found["workers"]) == (False, [])
        assert found["left_out"] == "no live worker was found"

    def test_there_is_nothing_to_do_if_that_is_allowed(self, mariadb_url: URL) -> None:
        done = desk.run_recycle(environment(mariadb_url), "--allow-none")
        assert done.returncode == 0
        assert done.stdout.startswith("OK  no live worker on host")

    def test_with_other_databases_it_is_not_done(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        with DeskServer(tmp_path, environment(mariadb_url)) as server:
            server.wake()
            (pid,) = server.worker_pids()
            elsewhere = environment(mariadb_url.set(database="elsewhere"))
            done = desk.run_recycle(elsewhere)
            text = " ".join(done.stdout.split())
            assert done.returncode == 1
            assert text.startswith("UNKNOWN no worker on host")
            assert "its live workers use other databases" in text
            assert f"Worker {pid} of desk not shown" in text
            found = desk.recycle(elsewhere)
            assert (found["done"], found["workers"]) == (False, [])

    def test_a_folder_that_others_can_write_to_is_refused(
        self, tmp_path: Path, mariadb_url: URL
    ) -> None:
        folder = tmp_path / "open"
        folder.mkdir()
        folder.chmod(0o777)
        env = environment(mariadb_url, FLASK_POOLGUARD_STATE_DIR=str(folder))
        done = desk.run_recycle(env)
        text = " ".join(done.stdout.split())
        assert done.returncode == 1
        assert "is writable by others" in text
        found = desk.recycle(env)
        assert found["refused"]
        assert found["verdict"]["level"] == "unknown"
        assert found["refused"] in found["verdict"]["text"]

    def test_a_bind_that_is_none_is_an_error(self, mariadb_url: URL) -> None:
        done = desk.run_recycle(environment(mariadb_url), "--bind", "reprots")
        assert done.returncode == 2
        assert "'reprots' is no bind of this app; it has: default" in done.stderr


class TestOneBind:
    def test_leaves_the_others_alone(self, tmp_path: Path, mariadb_url: URL) -> None:
        url = mariadb_url.render_as_string(hide_password=False)
        env = environment(mariadb_url, REPORTS_DATABASE_URL=url)
        with DeskServer(tmp_path, env) as server:
            server.wake()
            (pid,) = server.worker_pids()
            before = desk.pool_of(desk.status(env), pid)
            found = desk.recycle(env, "--bind", "reports")
            assert found["done"]
            (pool,) = found["workers"][0]["pools"]
            assert (pool["bind"], pool["closed"]) == ("reports", 0)
            after = desk.pool_of(desk.status(env), pid)
            assert after["idle"] == before["idle"] == 1
            assert after["closed"]["invalidated"] == 0


def test_a_terminal_shows_how_far_it_is(tmp_path: Path, mariadb_url: URL) -> None:
    env = environment(mariadb_url)
    with DeskServer(tmp_path, env, threads=2) as server:
        server.hold(1)
        master, slave = pty.openpty()
        try:
            done = subprocess.run(
                [*desk.RECYCLE, "--timeout", "2"],
                cwd=REPOSITORY,
                env={**os.environ, **env, "TERM": "xterm"},
                stdin=subprocess.DEVNULL,
                stdout=slave,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
            )
            text = os.read(master, 65536).decode()
        finally:
            os.close(slave)
            os.close(master)
        assert done.returncode == 1
        assert "0 of 1 worker done, 1 still out" in text
        assert "may still use older connections" in " ".join(text.split())
