"""What pages show commands on: an app under gunicorn, in the state that a page needs.

A page sets the scene in a block that is not shown, and then runs ``flask --app desk``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from tests.support.desk import DeskServer, environment
from tests.support.monitoring import check
from tests.support.waiting import wait_until


@contextmanager
def desk(
    *, workers: int = 2, threads: int = 1, **settings: str
) -> Iterator[DeskServer]:
    """Run the app on the page's database; its commands are those of ``desk``.

    With one thread, a worker that holds a connection leaves the next request to
    another, so that each run of the page is the same.

    :param settings: of the guard, in lower case; the commands have them, too.
    """
    Path("desk.py").write_text("from tests.apps.desk import create_app\n")
    names = {f"FLASK_POOLGUARD_{name.upper()}": settings[name] for name in settings}
    for name in list(os.environ):
        if name.startswith("FLASK_POOLGUARD_"):  # of a server that was stopped
            del os.environ[name]
    os.environ.update(names)
    env = environment(make_url(os.environ["DATABASE_URL"]), **names)
    with DeskServer(
        Path.cwd().parent,
        env,
        workers=workers,
        threads=threads,
        arguments=("--timeout=300",),
    ) as server:
        yield server.wake()


def hold(server: DeskServer, count: int = 2) -> None:
    """Let views hold connections, until the workers know which lines run now."""
    server.hold(count)
    time.sleep(2)


def need(server: DeskServer, count: int, *, checkouts: int) -> None:
    """Let views need so many connections at a time, and one at a time otherwise."""
    server.hold(count)
    server.let_go()
    for _ in range(checkouts):
        server.get("/query")
    time.sleep(1.5)  # until the workers have written what they counted


def wait_for_alarm(server: DeskServer) -> None:
    """Wait until requests have waited for so long that `check` is critical."""
    wait_until(
        lambda: check(server.env).state == "CRITICAL", seconds=60, what="a long wait"
    )


def leave_orphan(server: DeskServer) -> Engine:
    """Kill a worker in the middle of a query that PostgreSQL goes on with; return an
    engine of another program.
    """
    other = create_engine(
        os.environ["DATABASE_URL"],
        poolclass=NullPool,
        connect_args={"application_name": "nightly"},
    )
    find = text(
        "SELECT application_name FROM pg_stat_activity"
        " WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    )
    in_background(server, "/run?sql=SELECT%20pg_sleep(60)")
    with other.connect() as connection:
        wait_until(lambda: connection.scalar(find) is not None, what="the query")
        os.kill(int(connection.scalar(find).rpartition(":")[2]), signal.SIGKILL)
    wait_until(
        lambda: len(server.worker_pids()) == 2, seconds=30, what="another worker"
    )
    server.wake()
    return other


def in_background(server: DeskServer, path: str) -> None:
    """Send a request whose answer nothing waits for."""
    threading.Thread(
        target=server.get, args=(path,), kwargs={"seconds": 110}, daemon=True
    ).start()
