"""Two hundred threads and every kind of fault end with nothing lost."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
from sqlalchemy import Connection, event, exc, text

from flask_poolguard.errors import PoolDeadlock, PoolTimeout
from flask_poolguard.pool import CloseReason
from tests.conftest import Database
from tests.support.guarded_app import guarded_pool
from tests.support.tracked import Tracked

pytestmark = pytest.mark.stress

THREADS = 200
SIZE, OVERFLOW = 2, 1


class FaultError(Exception):
    """Raised by the app, or by the network."""


class Crowd:
    """Threads that misuse one pool, each by a plan of its own."""

    def __init__(self, database: Database, turns: int) -> None:
        self.database = database
        self.turns = turns
        self.tracked = Tracked(
            database.url,
            pool_size=SIZE,
            max_overflow=OVERFLOW,
            pool_timeout=0.2,
        )
        self.pool = guarded_pool(self.tracked.engine)
        self.counts: Counter[str] = Counter()
        self.no_route = 0.1  # the share of connects that fail
        self._lock = threading.Lock()
        self._chance = threading.local()
        event.listen(self.tracked.engine, "do_connect", self._connect)

    def _connect(self, *_: object) -> None:
        chance = getattr(self._chance, "mine", None)
        if chance is not None and chance.random() < self.no_route:
            self.count("failed connects")
            raise FaultError("no route")

    def count(self, name: str) -> None:
        """Count what happened."""
        with self._lock:
            self.counts[name] += 1

    def take(self) -> Connection:
        """Take a connection, and count what comes of asking for it."""
        try:
            connection = self.tracked.engine.connect()
        except exc.TimeoutError:
            self.count("timeouts")
            raise
        except Exception:
            self.count("failed checkouts")
            raise
        self.count("checkouts")
        return connection

    def run(self, number: int) -> None:
        """Take turns of all kinds."""
        self._chance.mine = chance = random.Random(number)
        kinds = [
            *[self.tidy] * 6,
            *(self.invalidate, self.softly, self.detach, self.nest, self.fail),
            *(self.nest, self.nest, self.forget, self.kill),
        ]
        for _ in range(self.turns):
            with self.tracked.app.app_context():
                try:
                    chance.choice(kinds)()
                except (FaultError, exc.TimeoutError, exc.DBAPIError) as error:
                    self.count(type(error).__name__)

    def tidy(self) -> None:
        """Do as one should."""
        with self.take() as connection:
            connection.execute(text("SELECT 1"))

    def invalidate(self) -> None:
        """Declare it unusable."""
        with self.take() as connection:
            connection.invalidate()

    def softly(self) -> None:
        """Have it replaced next time."""
        with self.take() as connection:
            connection.connection.invalidate(soft=True)

    def detach(self) -> None:
        """Take it out of the pool."""
        with self.take() as connection:
            connection.detach()

    def nest(self) -> None:
        """Take another while having one, which all may do at the same time."""
        with self.take():
            time.sleep(0.001)  # so that others get that far too
            with self.take() as connection:
                connection.execute(text("SELECT 1"))

    def fail(self) -> None:
        """Raise while having it."""
        with self.take():
            raise FaultError("mine")

    def forget(self) -> None:
        """Leave it to the end of the task."""
        self.take()

    def kill(self) -> None:
        """Have the server end somebody's session."""
        server = self.database.server
        if server is None or self._chance.mine.random() > 0.2:
            return
        sessions = server.session_ids(database=self.database.url.database)
        if sessions:
            server.kill_session(self._chance.mine.choice(sorted(sessions)))
            self.count("killed")


def assert_adds_up(crowd: Crowd) -> None:
    """Check that nothing is lost, and that all counters tell the same story."""
    pool, tracked = crowd.pool, crowd.tracked
    assert (pool.waiting, pool.checkedout()) == (0, 0)
    assert pool._pool.opened == pool.checkedin() <= SIZE
    state = tracked.agree(out=0, idle=pool.checkedin())
    assert state.waiting == 0
    # Whoever waited for somebody who connects in vain is counted with him.
    assert state.timeouts is not None
    assert state.unavailable is not None
    assert state.timeouts <= crowd.counts["timeouts"]
    assert state.timeouts + state.unavailable == (
        crowd.counts["timeouts"] + crowd.counts["failed checkouts"]
    )
    closed = sum(getattr(state.closed, reason) for reason in get_args(CloseReason))
    assert state.connects == pool.checkedin() + closed
    assert state.checkouts == crowd.counts["checkouts"]
    held = [tracked.engine.connect() for _ in range(SIZE + OVERFLOW)]
    for each in held:
        each.close()


def meet_with_misfortune(crowd: Crowd) -> None:
    """Make sure that there was a failed connect, a deadlock and a timeout, which are
    chance otherwise.
    """
    with crowd.tracked.app.app_context():
        held = [crowd.take() for _ in range(SIZE + OVERFLOW)]
        for each in held:
            each.invalidate()
            each.close()
    crowd.no_route = 1.0
    with ThreadPoolExecutor(1) as executor:
        executor.submit(crowd.run, THREADS).result(110)
    crowd.no_route = 0.0
    with crowd.tracked.app.app_context():
        held = [crowd.take() for _ in range(SIZE + OVERFLOW)]
        with pytest.raises(PoolDeadlock):
            crowd.take()
        with ThreadPoolExecutor(1) as executor, pytest.raises(PoolTimeout):
            executor.submit(crowd.take).result(60)
        for each in held:
            each.close()


def test_nothing_is_lost(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    crowd = Crowd(database, turns=20 if database.server is None else 5)
    with ThreadPoolExecutor(THREADS) as executor:
        done: list[Any] = [executor.submit(crowd.run, n) for n in range(THREADS)]
        for each in done:
            each.result(110)
    meet_with_misfortune(crowd)
    assert_adds_up(crowd)
    # The faults did happen.
    assert crowd.counts["failed connects"] > 0
    assert database.server is None or crowd.counts["killed"] > 0
    crowd.tracked.engine.dispose()
    crowd.tracked.agree(out=0, idle=0)
