"""Workers are seen from their start, and what is no worker is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine

from flask_poolguard.report.deployment import parents_among
from flask_poolguard.state.reader import read_workers
from tests.support.app_server import REPOSITORY
from tests.support.desk import (
    APP,
    POOL,
    DeskServer,
    environment,
    finding,
    pids,
    recycle,
    run_pool,
    run_status,
    status,
)
from tests.support.processes import Daemon, children_of
from tests.support.reporting import MakeShop
from tests.support.uwsgi import UwsgiApp
from tests.support.waiting import wait_until
from tests.support.waitress import WaitressApp

pytestmark = pytest.mark.process

SECONDS = 20.0

# Prints the pids of the workers that this process finds.
LOOK = """
from flask_poolguard.state.reader import read_workers
print("seen:", [each.pid for each in read_workers(None).workers])
"""
SCRIPT = f"""
import gunicorn.workers.base, waitress.runner, werkzeug.serving
from tests.apps.desk import create_app
app = create_app()
with app.app_context():
    pass
{LOOK}"""
FACTORY = f"{APP}()"


def shown(*, pools: bool = True) -> set[int]:
    """Return the pids of the live workers; of those with a pool, if asked for."""
    workers = read_workers(None).workers
    parents = parents_among(workers)
    return {
        each.pid
        for each in workers
        if each not in parents and (each.pools or not pools)
    }


def wait_for(expected: set[int]) -> None:
    """Wait until just these workers show their pools."""
    wait_until(lambda: shown() == expected, seconds=SECONDS, what=f"workers {expected}")


def threads_shown(env: dict[str, str]) -> int | None:
    """Return the threads that the server of the only worker was told to use."""
    (worker,) = status(env)["workers"]
    (pool,) = worker["pools"]
    found: int | None = pool["usage"]["server_threads"]
    return found


def reach_of(threads: int) -> str:
    """Return what `budget` says of threads that serve."""
    return f" (their {threads} threads can use {threads} at once, one per thread)"


class TestWithoutRequest:
    """Workers that have had no request."""

    @pytest.mark.quick
    @pytest.mark.parametrize(
        ("options", "threads"),
        [
            pytest.param({}, 1, id="sync"),
            pytest.param({"preload": True}, 1, id="preload"),
            pytest.param({"threads": 2}, 2, id="gthread"),
            pytest.param({"threads": 2, "preload": True}, 2, id="gthread-preload"),
            pytest.param({"worker_class": "gevent"}, None, id="gevent"),
            pytest.param(
                {"worker_class": "gevent", "preload": True}, None, id="gevent-pre"
            ),
        ],
    )
    def test_are_seen_under_gunicorn(
        self,
        tmp_path: Path,
        mariadb_url: URL,
        options: dict[str, Any],
        threads: int | None,
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_POOL_SIZE="190")
        with DeskServer(tmp_path, env, workers=3, **options) as server:
            workers = server.worker_pids()
            wait_for(workers)
            report = status(env)
            doctor = json.loads(run_pool(env, "doctor", "--json"))
            run_pool(env, "check", "--min-workers", "3")
            run_pool(env, "check", "--min-workers", "4", status=2)
            assert pids(report) == workers
            reach = "" if threads is None else reach_of(3 * threads)
            budget = f"3 workers may open 600 connections{reach}: 3 × 200 (default)"
            assert finding(report, "budget")["message"].startswith(budget)
            assert finding(doctor, "budget")["message"].startswith(budget)
            victim = min(workers)
            os.kill(server.pid, signal.SIGSTOP)  # else it starts another
            try:
                os.kill(victim, signal.SIGKILL)
                wait_for(workers - {victim})
                assert pids(status(env)) == workers - {victim}
            finally:
                os.kill(server.pid, signal.SIGCONT)

    @pytest.mark.parametrize(
        ("options", "threads"),
        [
            pytest.param({}, 1, id="sync"),
            pytest.param({"threads": 3}, 3, id="gthread"),
            pytest.param({"threads": 3, "preload": True}, 3, id="gthread-preload"),
            pytest.param({"worker_class": "gevent"}, None, id="gevent"),
        ],
    )
    def test_show_how_many_threads_gunicorn_gives_them(
        self,
        tmp_path: Path,
        sqlite_url: URL,
        options: dict[str, Any],
        threads: int | None,
    ) -> None:
        env = environment(sqlite_url)
        with DeskServer(tmp_path, env, **options) as server:
            wait_for(server.worker_pids())
            assert threads_shown(env) == threads

    def test_show_how_many_threads_waitress_gives_them(
        self, tmp_path: Path, sqlite_url: URL
    ) -> None:
        env = environment(sqlite_url)
        with WaitressApp(APP, tmp_path, threads=7, env=env, is_factory=True) as server:
            wait_for({server.pid})
            assert threads_shown(env) == 7

    @pytest.mark.parametrize("preload", [False, True], ids=["load", "preload"])
    def test_need_no_new_connections(
        self, tmp_path: Path, mariadb_url: URL, preload: bool
    ) -> None:
        """And so do not keep `recycle` waiting for an answer."""
        env = environment(mariadb_url)
        with DeskServer(tmp_path, env, workers=2, preload=preload) as server:
            wait_for(server.worker_pids())
            done = recycle(env)
            assert done["done"] is True
            assert done["returncode"] == 0
            assert len(done["workers"]) == 2
            server.wake()
            assert recycle(env)["done"] is True
            assert pids(status(env)) == server.worker_pids()

    def test_are_seen_under_waitress(self, tmp_path: Path, mariadb_url: URL) -> None:
        env = environment(mariadb_url)
        with WaitressApp(APP, tmp_path, env=env, is_factory=True) as server:
            wait_for({server.pid})
            assert pids(status(env)) == {server.pid}
            (worker,) = read_workers(None).workers
            assert worker.process.threads == 4  # waitress's own choice

    @pytest.mark.parametrize("how", ["plain", "reloader"])
    def test_are_seen_of_the_development_server(
        self, tmp_path: Path, mariadb_url: URL, how: str
    ) -> None:
        """With a reloader, of the process that serves, not of the one that watches."""
        env = environment(mariadb_url)
        with flask_run(tmp_path, env, *(["--debug"] if how == "reloader" else [])) as (
            daemon
        ):
            wait_until(
                lambda: "Press CTRL+C" in daemon.log_tail(), seconds=SECONDS, what="run"
            )
            wait_until(lambda: bool(shown()), seconds=SECONDS, what="a worker")
            expected = {daemon.pid}
            if how == "reloader":
                expected = children_of(daemon.pid)
            wait_for(expected)
            wait_until(
                lambda: pids(status(env)) == expected,
                seconds=SECONDS,
                what="the worker, once its pools are known",
            )

    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param(("--mule",), id="forked"),
            pytest.param(("--lazy-apps", "--enable-threads"), id="lazy"),
            pytest.param(("--lazy-apps",), id="lazy-without-threads"),
        ],
    )
    def test_are_seen_under_uwsgi(
        self, tmp_path: Path, mariadb_url: URL, arguments: tuple[str, ...]
    ) -> None:
        env = environment(mariadb_url, FLASK_POOLGUARD_POOL_SIZE="190")
        with UwsgiApp(
            FACTORY, tmp_path, processes=3, env=env, arguments=arguments
        ) as server:
            workers = server.worker_pids()
            wait_until(
                lambda: shown(pools=False) == workers, seconds=SECONDS, what="workers"
            )
            report = status(env)
            assert pids(report) == workers
            budget = f"3 workers may open 600 connections{reach_of(3)}: 3 × 200"
            assert finding(report, "budget")["message"].startswith(budget)


@contextmanager
def flask_run(folder: Path, env: dict[str, str], *arguments: str) -> Iterator[Daemon]:
    """Run the development server."""
    daemon = Daemon(
        [sys.executable, "-m", "flask", "--app", APP, "run", "--port=0", *arguments],
        log=folder / "flask.log",
        env={**os.environ, **env, "PYTHONUNBUFFERED": "1"},
        cwd=REPOSITORY,
    )
    try:
        yield daemon
    finally:
        daemon.stop(signal.SIGINT, seconds=10)


class TestNoWorker:
    """What makes the app and does not serve it."""

    @pytest.mark.parametrize("how", ["script", "shell", "routes"])
    def test_is_seen_of_commands(
        self, tmp_path: Path, sqlite_url: URL, how: str
    ) -> None:
        """Also within a server's environment."""
        flask = [*POOL[:-1]]
        command = {
            "script": [sys.executable, "-c", SCRIPT],
            "shell": [*flask, "shell"],
            "routes": [*flask, "routes"],
        }[how]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={
                **os.environ,
                **environment(sqlite_url),
                "SERVER_SOFTWARE": "gunicorn/27.0.1",
                "WERKZEUG_RUN_MAIN": "true",
            },
            input=LOOK,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=True,
        )
        assert ("seen: []" in done.stdout) == (how != "routes"), done.stdout
        assert read_workers(None).workers == ()

    def test_is_seen_of_a_test_run(self, make_shop: MakeShop, sqlite_url: URL) -> None:
        shop = make_shop(default=create_engine(sqlite_url))
        with shop.app.app_context():
            pass
        assert shop.app.extensions["poolguard"].app_tracker.path is None
        assert read_workers(None).workers == ()

    @pytest.mark.parametrize("preload", [False, True], ids=["load", "preload"])
    def test_is_seen_of_a_child_that_a_worker_forks(
        self, tmp_path: Path, sqlite_url: URL, preload: bool
    ) -> None:
        env = environment(sqlite_url)
        with DeskServer(tmp_path, env, preload=preload) as server:
            (worker,) = server.worker_pids()
            child, seen = json.loads(server.get("/child")[1])
            assert child != worker
            assert seen == [worker]
            assert shown() == {worker}

    def test_is_seen_of_a_master_that_only_checks_the_app(
        self, tmp_path: Path, sqlite_url: URL
    ) -> None:
        env = environment(sqlite_url)
        subprocess.run(
            [sys.executable, "-m", "gunicorn", "--check-config", FACTORY],
            cwd=REPOSITORY,
            env={**os.environ, **env},
            check=True,
            timeout=60,
        )
        assert read_workers(None).workers == ()
        assert "no live worker" in run_status(env)
