"""Opens the idle connections that an app's pools are to have, where the app serves."""

from __future__ import annotations

import functools
import typing as t

from ..pool import GuardedPool, filling_thread, housekeeper
from .context_cleanup import ContextCleanup
from .listener_context import listener_context
from .pool_tracker import PoolTracker, tracker_of

if t.TYPE_CHECKING:
    from .app_tracker import AppTracker


class IdleFilling:
    """Fills the pools of one app, in a process that serves it.

    The housekeeper starts the thread for that, which goes on by itself.
    """

    def __init__(self, app_tracker: AppTracker) -> None:
        self._app_tracker = app_tracker
        self._cleanup = ContextCleanup(app_tracker)
        filling_thread.add(self)
        housekeeper.add(self, may_hang=True)

    def tend(self) -> None:
        """Start the thread if there is a pool to fill; the housekeeper calls it."""
        found = map(self._pool_of, self._app_tracker.trackers)
        if any(pool is not None for pool in found):
            filling_thread.start()

    def fill(self) -> None:
        """Open what is missing; the thread calls it."""
        for tracker in self._app_tracker.trackers:
            # Anew before each: it may have been disposed of meanwhile.
            while (pool := self._pool_of(tracker)) is not None:
                app = tracker.app
                if app is None or not pool.idle_filler.is_due():
                    break
                if not pool.idle_filler.open_one(
                    functools.partial(listener_context, app, self._cleanup)
                ):
                    break

    def _pool_of(self, tracker: PoolTracker) -> GuardedPool | None:
        """Return the pool that is to be filled, None if there is none.

        Not after ``Engine.dispose()`` until the engine is used again: code that closes
        all connections wants none. An engine that several apps share is filled for the
        newest one, whose tracker it has.
        """
        engine = tracker.pools.engine
        if engine is None or not self._app_tracker.is_serving or tracker.is_hidden:
            return None
        pool = engine.pool  # first: dispose() may replace it at any moment
        if not isinstance(pool, GuardedPool) or not pool.policy.min_idle:
            return None
        if tracker_of(engine) is not tracker or tracker.pools.is_disposed():
            return None
        pool.idle_filler.begin()
        return pool
