"""Every code block of docs/background-work.md runs, and keeps what it promises.

The page's ``export()`` is made to leave a connection out, which each block's scope must
give back and report under its name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.app_server import REPOSITORY

pytestmark = pytest.mark.process

PAGE = (REPOSITORY / "docs" / "background-work.md").read_text()
BLOCKS = {
    code.splitlines()[0].removeprefix("# "): code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S)
}

# Notes in a file who left a connection out, of all processes, and leaves one out.
LEAVING = """
import logging


class _Noting(logging.Handler):
    def emit(self, record):
        who, found, _ = record.getMessage().partition(" did not give back")
        if found:
            with open(os.environ["LEAKS"], "a") as file:
                file.write(who + "\\n")


logging.getLogger("flask_poolguard").addHandler(_Noting())
held, tidy_export = [], export


def export() -> int:
    held.append(engine.connect())
    return tidy_export()
"""

CELERY_SETTINGS = """
broker_url = "filesystem://"
broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
result_backend = "file://results"
worker_hijack_root_logger = False
"""

# Pools are empty again once the module has run.
END = """
from shop import app, guard
out = {bind: each["checked_out"] for bind, each in guard.stat(app).items()}
assert out == {"default": 0, "reports": 0}, out
"""

# What a how-to needs to run: the code that uses its block, by the block's file.
USES = {
    "blocks.py": "import blocks",
    "threads.py": "import threads",
    "copied.py": (
        "from copied import app\n"
        "assert app.test_client().get('/order').text == 'ordered'"
    ),
    "executor.py": (
        "from executor import app\n"
        "assert app.test_client().get('/thumbnails').text == '42'"
    ),
    "jobs.py": (
        "import fakeredis\n"
        "from rq import Queue, SimpleWorker\n"
        "queue = Queue(connection=fakeredis.FakeStrictRedis())\n"
        "job = queue.enqueue('jobs.nightly_export')\n"
        "SimpleWorker([queue], connection=queue.connection).work(burst=True)\n"
        "assert job.latest_result().return_value == 42"
    ),
    "scheduled.py": (
        "import datetime, threading\n"
        "from apscheduler.events import EVENT_JOB_EXECUTED\n"
        "from scheduled import scheduler\n"
        "done = threading.Event()\n"
        "scheduler.add_listener(lambda event: done.set(), EVENT_JOB_EXECUTED)\n"
        "(job,) = scheduler.get_jobs()\n"
        "job.modify(next_run_time=datetime.datetime.now(datetime.timezone.utc))\n"
        "scheduler.start()\n"
        "assert done.wait(30)\n"
        "scheduler.shutdown()"
    ),
    "chat.py": (
        "from chat import app, socketio\n"
        "client = socketio.test_client(app)\n"
        "client.emit('archive')\n"
        "client.disconnect()"
    ),
}

NAMES = {
    "blocks.py": ["nightly export", "nightly totals"],
    "copied.py": ["order mail"],
    "executor.py": ["thumbnails"],
    "chat.py": ["chat archive"],
}


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """Write the page's files; return what their programs are started with."""
    for name, code in BLOCKS.items():
        (tmp_path / name).write_text(code + (LEAVING if name == "shop.py" else ""))
    (tmp_path / "celery_settings.py").write_text(CELERY_SETTINGS)
    (tmp_path / "queue").mkdir()
    (tmp_path / "results").mkdir()
    return {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path}/shop.db",
        "LEAKS": f"{tmp_path}/leaks",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)]),
    }


def run(environment: Mapping[str, str], *arguments: str) -> str:
    """Run Python in the folder of the files; return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(environment["LEAKS"]).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def leaks(environment: Mapping[str, str]) -> list[str]:
    """Return the names under which connections were given back."""
    return Path(environment["LEAKS"]).read_text().splitlines()


def count_of(line: str) -> int:
    """Return how many leaks a line tells of: equal ones that follow are counted."""
    more = re.match(r"(\d+) more like this", line)
    return 1 if more is None else int(more[1])


def test_each_block_is_run() -> None:
    assert set(BLOCKS) == {"shop.py", "tasks.py", *USES}
    assert PAGE.count("```python") == len(BLOCKS)


@pytest.mark.parametrize("name", USES)
def test_a_block_gives_back_what_its_work_leaves(
    environment: Mapping[str, str], name: str
) -> None:
    run(environment, "-c", USES[name] + END)
    assert leaks(environment) == NAMES.get(name, ["nightly export"])


SEND = "from tasks import nightly_export as t; print(t.delay().get(timeout=40))"


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_celery_gives_back_what_a_task_leaves(
    environment: Mapping[str, str], pool: str
) -> None:
    """In a worker of Celery's own, with each of its pools."""
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "celery", "-A", "tasks", "worker"),
            *(f"--pool={pool}", "--concurrency=2", "--loglevel=WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ],
        cwd=Path(environment["LEAKS"]).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert run(environment, "-c", SEND).strip() == "42"
        assert run(environment, "-c", SEND).strip() == "42"
    finally:
        worker.terminate()
        worker.communicate(timeout=30)
    assert leaks(environment)[0] == "nightly export"
    assert sum(map(count_of, leaks(environment))) == 2
