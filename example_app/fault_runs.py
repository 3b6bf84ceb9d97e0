"""Faults that run beside the requests of a worker, and end by themselves.

**Do not copy anything from here.** Each runs in threads of its own, so that the page
that started it is answered at once, and within ``guard.scope()``, whose name the live
page and ``flask pool`` show.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Flask, current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from example_app.extensions import db, guard
from flask_poolguard.testing.faults import PoolFaults

# More threads than that would say no more.
MOST_CONNECTIONS = 50
WAITERS = 2
# Until all connections are out; they may have to be opened first.
TAKEN_WITHIN_SECONDS = 10.0
# By then the request that asked for it is answered.
KILLED_AFTER_SECONDS = 1.0

logger = logging.getLogger(__name__)

Work = Callable[[], object]


class FaultRefusedError(Exception):
    """The fault cannot be had here; the message says why, for the person there."""


class Runs:
    """The faults that are under way in this process, one of each name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the one below
        self._running: dict[str, int] = {}

    def start(self, name: str, works: list[Work]) -> None:
        """Let each work run in a thread.

        :raises FaultRefusedError: that fault is under way.
        """
        with self._lock:
            if name in self._running:
                raise FaultRefusedError(
                    "This worker is still at it; it ends by itself."
                )
            self._running[name] = len(works)
        app = current_app._get_current_object()  # type: ignore[attr-defined] # of the proxy
        for work in works:
            threading.Thread(
                target=self._run, args=(app, name, work), daemon=True
            ).start()

    def is_running(self, name: str) -> bool:
        """Tell whether a fault is under way."""
        with self._lock:
            return name in self._running

    def _run(self, app: Flask, name: str, work: Work) -> None:
        try:
            with app.app_context(), guard.scope(f"faults.{name}"):
                work()
        except (SQLAlchemyError, threading.BrokenBarrierError):
            # That is what the fault is for: a timeout, a deadlock, a lost connection.
            logger.warning("The fault %s has met this:", name, exc_info=True)
        finally:
            with self._lock:
                self._running[name] -= 1
                if not self._running[name]:
                    del self._running[name]


runs = Runs()


def hold() -> None:
    """Hold a connection without using it."""
    runs.start("hold", [partial(_hold_until, _end())])


def saturate() -> None:
    """Hold all connections that the pool may have, and let two more threads wait."""
    holders: list[Work] = [partial(_hold_until, _end())] * _limit()
    waiters: list[Work] = [partial(_hold_until, 0.0)] * WAITERS
    runs.start("saturate", holders + waiters)


def deadlock() -> None:
    """Let as many threads as there are connections take one, then one more each."""
    everyone = threading.Barrier(_limit())
    runs.start("deadlock", [partial(_take_two, everyone)] * everyone.parties)


def kill() -> None:
    """Let the server end the sessions of this worker's own pool: one that is in use,
    and what is idle, such as that of the request that asks for it.
    """
    if db.engine.dialect.name == "sqlite":
        raise FaultRefusedError("SQLite has no server, and so no sessions to end.")
    db.session.execute(text("SELECT 1"))
    runs.start("kill", [partial(_lose, _end())])


FAULTS: Mapping[str, Callable[[], None]] = {
    each.__name__: each for each in (hold, saturate, deadlock, kill)
}


def _end() -> float:
    seconds: float = current_app.config["EXAMPLE_FAULT_SECONDS"]
    return time.monotonic() + seconds


def _limit() -> int:
    stat: Mapping[str, Any] = guard.stat()["default"]
    size, overflow = stat["size"], stat["max_overflow"]
    is_limited = size and overflow is not None and overflow >= 0
    if not is_limited or size + overflow > MOST_CONNECTIONS:
        raise FaultRefusedError(
            f"This takes a pool of at most {MOST_CONNECTIONS} connections; set"
            " POOLGUARD_POOL_SIZE and POOLGUARD_MAX_OVERFLOW."
        )
    return int(size + overflow)


def _hold_until(end: float) -> None:
    with db.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        time.sleep(max(end - time.monotonic(), 0.0))  # Deliberate fault.


def _take_two(everyone: threading.Barrier) -> None:
    with db.engine.connect() as first:
        first.execute(text("SELECT 1"))
        everyone.wait(TAKEN_WITHIN_SECONDS)
        with db.engine.connect() as second:  # Deliberate fault: none is left.
            second.execute(text("SELECT 1"))


def _lose(end: float) -> None:
    with db.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        time.sleep(KILLED_AFTER_SECONDS)
        # What the fixture `pool_faults` of the pytest plugin is. It ends sessions of
        # this pool only, by their numbers, with the app's own account.
        PoolFaults().kill_all(db.engine)
        time.sleep(max(end - time.monotonic(), 0.0))
        connection.execute(text("SELECT 1"))  # raises, and the note says why
