"""State files of workers that are killed or stopped in the middle of anything."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flask_poolguard.state.reader import read_workers
from flask_poolguard.state.search import Search
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

# A worker that opens, uses and loses connections as fast as it can, in four threads.
BUSY = """
import sys, threading
from flask import Flask
from sqlalchemy import create_engine
from flask_poolguard import PoolGuard

app = Flask("busy", root_path=sys.argv[1])
engine = create_engine(f"sqlite:///{sys.argv[1]}/busy.sqlite", pool_size=2)
PoolGuard(app).register(engine)

def work():
    while True:
        with app.app_context(), engine.connect() as connection:
            connection.invalidate()

for _ in range(4):
    threading.Thread(target=work).start()
"""

# One that opens five connections at once, gives back two and then does nothing.
STOPS = """
import os, signal, sys, time
from flask import Flask
from sqlalchemy import create_engine
from flask_poolguard import PoolGuard

app = Flask("stops", root_path=sys.argv[1])
engine = create_engine(f"sqlite:///{sys.argv[1]}/stops.sqlite", pool_size=5)
PoolGuard(app).register(engine)
with app.app_context():
    with engine.connect():
        pass
    time.sleep(0.15)
    held = [engine.connect() for _ in range(5)]
    for each in held[:2]:
        each.close()
    held[2].invalidate()
    time.sleep(0.5)  # less than until the housekeeper's next round
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
"""


@contextmanager
def program(text: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as it is needed."""
    process = subprocess.Popen([sys.executable, "-c", text, str(folder)])
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def found(name: str, folder: Path) -> Search:
    """Look for a program's state file."""
    return read_workers(None, name, str(folder))


def test_a_worker_that_is_killed_leaves_nothing_that_is_believed(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    for _ in range(8):
        with program(BUSY, tmp_path) as process:
            wait_until(
                lambda: found("busy", tmp_path).workers, what="a worker", seconds=60
            )
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.wait(30)
        search = found("busy", tmp_path)
        assert (search.workers, search.problems) == ((), ())


def test_a_worker_can_be_stopped_anywhere_and_is_read(tmp_path: Path) -> None:
    chance = random.Random(11)
    with program(BUSY, tmp_path) as process:
        wait_until(lambda: found("busy", tmp_path).workers, what="a worker", seconds=60)
        for _ in range(50):
            time.sleep(chance.uniform(0, 0.01))
            process.send_signal(signal.SIGSTOP)
            search = found("busy", tmp_path)
            process.send_signal(signal.SIGCONT)
            assert search.problems == ()
            (worker,) = search.workers
            (pool,) = worker.pools
            assert len(pool.connections) <= 4 + 2


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc to see it stopped")
def test_a_stopped_worker_shows_what_was_true_a_moment_before(tmp_path: Path) -> None:
    with program(STOPS, tmp_path):
        wait_until(
            lambda: any(each.stopped for each in found("stops", tmp_path).workers),
            what="it to stop",
            seconds=60,
        )
        for _ in range(2):
            (worker,) = found("stops", tmp_path).workers
            (pool,) = worker.pools
            assert (pool.connects, pool.peak_checked_out) == (5, 5)
            assert (pool.checked_out, pool.idle) == (2, 2)
            assert pool.closed.invalidated == 1
            held = pool.longest_held_seconds or 0.0
            assert worker.updated_seconds_ago is not None
            assert held >= worker.updated_seconds_ago
            time.sleep(0.5)
        assert held >= 0.5  # it goes on, while the worker does not
