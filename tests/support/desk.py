"""Run `tests.apps.desk` under gunicorn, and ask `flask pool` about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sqlalchemy import URL

from tests.support import forked_python
from tests.support.app_server import REPOSITORY
from tests.support.database_server import APP_PASSWORD
from tests.support.gunicorn import GunicornApp, is_gunicorn
from tests.support.waiting import wait_until

APP = "tests.apps.desk:create_app"
POOL = [sys.executable, "-m", "flask", "--app", APP, "pool"]
STATUS = [*POOL, "status"]
RECYCLE = [*POOL, "recycle"]

Json = dict[str, Any]


def environment(url: URL, **more: str) -> dict[str, str]:
    """Return the variables that the app is to be told.

    :param more: further ones.
    """
    return {"DATABASE_URL": url.render_as_string(hide_password=False), **more}


def ask(
    env: Mapping[str, str], *arguments: str, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a `flask pool` command; it must tell no secret and end in time."""
    command = [*POOL, *arguments]
    done = forked_python.run(command, env={**os.environ, **env}, seconds=seconds)
    assert "Traceback" not in done.stderr, done.stderr
    assert APP_PASSWORD not in done.stdout + done.stderr
    return done


def run_pool(env: Mapping[str, str], *arguments: str, status: int = 0) -> str:
    """Return what a `flask pool` command prints.

    :param status: with which it must end.
    """
    done = ask(env, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def run_status(env: Mapping[str, str], *arguments: str) -> str:
    """Return what `flask pool status` prints."""
    return run_pool(env, "status", *arguments)


def status(env: Mapping[str, str], *arguments: str) -> Json:
    """Return what `flask pool status --json` prints."""
    report: Json = json.loads(run_status(env, "--json", *arguments))
    return report


def codes(report: Json) -> list[str]:
    """Return the codes of a report's findings."""
    return [finding["code"] for finding in report["findings"]]


def finding(report: Json, code: str) -> Json:
    """Return the one finding with this code."""
    (found,) = [each for each in report["findings"] if each["code"] == code]
    return dict(found)


def pids(report: Json) -> set[int]:
    """Return the pids of a report's workers."""
    return {worker["pid"] for worker in report["workers"]}


def pool_of(report: Json, pid: int, bind: str = "default") -> Json:
    """Return the figures of one worker's pool."""
    (found,) = [
        pool
        for worker in report["workers"]
        if worker["pid"] == pid
        for pool in worker["pools"]
        if pool["bind"] == bind
    ]
    return dict(found)


@contextmanager
def watching(
    env: Mapping[str, str], *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a `flask pool` command that goes on until it is stopped, in pipes."""
    with subprocess.Popen(
        [*POOL, *arguments],
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


class DeskServer(GunicornApp):
    """The app under gunicorn, with views that hold on to a connection."""

    def __init__(self, folder: Path, env: Mapping[str, str], **options: Any) -> None:
        """Prepare; nothing happens before `start`.

        :param options: see `GunicornApp`.
        """
        self.env = dict(env)
        self._held = folder / "held"
        self._held.mkdir(exist_ok=True)
        self._threads: list[threading.Thread] = []
        super().__init__(
            f"{APP}()", folder, env={**env, "HOLD_FOLDER": str(self._held)}, **options
        )

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self.stop()

    def start(self, *, seconds: float = 60.0) -> None:
        """Start; 16 workers take their time on a small machine."""
        super().start(seconds=seconds)

    def wake(self, path: str = "/query") -> Self:
        """Send requests until every worker has had one, and so shows itself."""
        seen: set[int] = set()

        def all_seen() -> bool:
            seen.add(int(self.get(path)[1]))
            return self.worker_pids() <= seen

        wait_until(all_seen, seconds=30, what="a request in every worker")
        return self

    def hold(self, count: int, sql: str = "SELECT 1", view: str = "hold") -> list[int]:
        """Let views hold so many more connections; return the pids of their workers.

        :param sql: what each runs first.
        :param view: `hold`, or `nest` for one that then takes a second connection.
        """
        names = [f"{len(self._threads) + number}" for number in range(count)]
        for name in names:
            # It is answered when the test lets go, however long that takes here.
            thread = threading.Thread(
                target=self.get,
                args=(f"/{view}/{name}?sql={quote(sql)}",),
                kwargs={"seconds": 110},
            )
            thread.start()
            self._threads.append(thread)
        files = [self._held / f"{name}.held" for name in names]
        wait_until(
            lambda: all(file.exists() and file.read_text() for file in files),
            seconds=30,
            what=f"{count} more held connections",
        )
        return [int(file.read_text()) for file in files]

    @contextmanager
    def in_background(self, path: str) -> Iterator[None]:
        """Send a request that is answered in its own time."""
        thread = threading.Thread(
            target=self.get, args=(path,), kwargs={"seconds": 110}
        )
        thread.start()
        try:
            yield
        finally:
            self.let_go()
            thread.join(60)

    def let_go(self) -> None:
        """Let all views give back what they hold, and wait for them."""
        for number in range(len(self._threads)):
            (self._held / f"{number}.let-go").touch()
        for thread in self._threads:
            thread.join(30)
        for file in self._held.iterdir():
            file.unlink()
        self._threads.clear()


def suspend(pid: int) -> None:
    """Stop a process and wait until it stands still."""
    assert is_gunicorn(pid), pid
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_until(
        lambda: stat.read_text().rpartition(")")[2].split()[0] == "T",
        what=f"process {pid} to stand still",
    )


def run_recycle(
    env: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run `flask pool recycle`, whose own time limit is 60 s."""
    return ask(env, "recycle", *arguments, seconds=90)


def recycle(env: Mapping[str, str], *arguments: str) -> Json:
    """Return what `flask pool recycle --json` prints, with its return code."""
    done = run_recycle(env, "--json", *arguments)
    assert done.stderr == ""
    return {**json.loads(done.stdout), "returncode": done.returncode}
