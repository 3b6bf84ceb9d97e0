"""An engine under guard, of which pool, tracker, state file and server are compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask import Flask
from sqlalchemy import URL, create_engine

from flask_poolguard import PoolGuard
from flask_poolguard.state.reader import read_workers
from flask_poolguard.state.status import PoolStatus
from flask_poolguard.tracking.pool_tracker import PoolTracker

if TYPE_CHECKING:
    from tests.conftest import Database


def shown(app: Flask, bind: str = "default") -> PoolStatus:
    """Return what another process sees of a pool of this one, after a round of the
    housekeeper's: who waits is written ten times a second at most.
    """
    for tracker in app.extensions["poolguard"].app_tracker.trackers:
        tracker.tend()
    search = read_workers(None, app.name, app.root_path)
    assert search.problems == ()
    (worker,) = search.workers
    assert worker.pid == os.getpid()
    return next(each for each in worker.pools if each.bind == bind)


def outs(pool: PoolStatus) -> list[bool]:
    """Return of each connection whether it is out, those first."""
    return [True] * len(pool.holders) + [False] * len(pool.idle_connections)


class Tracked:
    """An engine under guard, its tracker and its part of the state file."""

    def __init__(self, url: URL, **options: Any) -> None:
        self.app = Flask("tracked")
        self.engine = create_engine(url, **options)
        PoolGuard(self.app).register(self.engine, app=self.app)
        with self.app.app_context():
            pass

    @property
    def tracker(self) -> PoolTracker:
        """Return the tracker."""
        tracker: PoolTracker
        (tracker,) = self.app.extensions["poolguard"].app_tracker.trackers
        return tracker

    def agree(self, *, out: int, idle: int, detached: int = 0) -> PoolStatus:
        """Check that pool, tracker, file and server tell the same."""
        state = shown(self.app)
        assert (len(state.holders), len(state.idle_connections)) == (out, idle)
        assert len(self.tracker.out) == out
        assert self.engine.pool.checkedout() == out  # type: ignore[attr-defined] # a QueuePool's
        return state

    def agrees_with_server(self, database: Database, *, but: int = 0) -> None:
        """Check that the file lists the sessions that the server has."""
        if database.server is None:
            return
        listed = {each.server_id for each in shown(self.app).connections}
        name = database.url.database
        there = database.server.session_ids(database=name)
        assert listed <= there
        assert len(there) == len(listed) + but


@contextmanager
def one_connection(url: URL) -> Iterator[Tracked]:
    """Guard a pool of one connection, for which one may wait for ever; in the end it is
    back, and none waits.
    """
    tracked = Tracked(url, pool_size=1, max_overflow=0, pool_timeout=600)
    yield tracked
    tracked.agree(out=0, idle=tracked.engine.pool.checkedin())  # type: ignore[attr-defined] # a QueuePool's
    assert tracked.tracker.figures.waiting == 0
    tracked.engine.dispose()
