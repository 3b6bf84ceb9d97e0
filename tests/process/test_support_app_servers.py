"""Apps run under real servers, which come and go as told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.app_server import AppServer, AppServerError
from tests.support.gunicorn import GunicornApp
from tests.support.waitress import WaitressApp

pytestmark = pytest.mark.process

APP = """
import os
import flask

app = flask.Flask(__name__)


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/greeting")
def greeting():
    return os.environ.get("GREETING", "none")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an app in it."""
    (tmp_path / "small_app.py").write_text(APP)
    return tmp_path


def ended(pid: int) -> bool:
    """Tell whether a process is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class TestBoth:
    @pytest.mark.parametrize("server_class", [GunicornApp, WaitressApp])
    def test_serves_with_the_environment_that_it_is_given(
        self, folder: Path, server_class: type[AppServer]
    ) -> None:
        env = {"GREETING": "hello"}
        with server_class("small_app:app", folder, env=env) as server:
            assert server.get("/greeting") == (200, "hello")
            assert server.get("/nowhere")[0] == 404
            pid = server.pid
        assert ended(pid)

    @pytest.mark.parametrize("server_class", [GunicornApp, WaitressApp])
    def test_an_app_that_cannot_be_loaded_shows_why(
        self, folder: Path, server_class: type[AppServer]
    ) -> None:
        server = server_class("no_such_app:app", folder)
        with pytest.raises(AppServerError, match="no_such_app"):
            server.start()


class TestGunicornApp:
    @pytest.mark.parametrize(
        ("worker_class", "threads"), [("sync", 1), ("gthread", 4), ("gevent", 1)]
    )
    def test_runs_each_class_of_worker(
        self, folder: Path, worker_class: str, threads: int
    ) -> None:
        with GunicornApp(
            "small_app:app",
            folder,
            workers=2,
            threads=threads,
            worker_class=worker_class,
        ) as server:
            assert len(server.worker_pids()) == 2
            assert int(server.get("/pid")[1]) in server.worker_pids()

    def test_reload_replaces_all_workers(self, folder: Path) -> None:
        with GunicornApp("small_app:app", folder, workers=2, preload=True) as server:
            before, port = server.worker_pids(), server.port
            server.reload()
            after = server.worker_pids()
            assert len(after) == 2
            assert not before & after
            assert server.port == port
            assert int(server.get("/pid")[1]) in after

    def test_leaves_no_worker_behind(self, folder: Path) -> None:
        with GunicornApp("small_app:app", folder, workers=2) as server:
            workers = server.worker_pids()
        assert all(ended(pid) for pid in workers)
