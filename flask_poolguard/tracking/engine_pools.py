"""The engine that a tracker belongs to, and the pools that it has had."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from ..log_lines import warn
from ..masking import secrets_of
from ..pool import Obstacle, Renewable


class EnginePools:
    """An engine's pool, and those before it that still have connections out.

    ``Engine.dispose()`` gives the engine another pool. None is kept alive here.
    """

    def __init__(self) -> None:
        self._pools: weakref.WeakSet[Renewable] = weakref.WeakSet()
        self._engine: weakref.ref[Engine] | None = None
        self._in_use: weakref.ref[Pool] | Callable[[], None] = lambda: None

    @property
    def engine(self) -> Engine | None:
        """The engine, None if it is not known yet, or gone."""
        return None if self._engine is None else self._engine()

    def belong_to(self, engine: Engine) -> None:
        """Note whose they are, the first time, and which of them is in use."""
        if self._engine is None:
            self._engine = weakref.ref(engine)
        self._in_use = weakref.ref(engine.pool)

    def add(self, pool: Renewable) -> None:
        """Note one more."""
        self._pools.add(pool)

    def note_use(self, record: ConnectionPoolEntry) -> None:
        """Note that the pool that the engine has now has connected, for a thread."""
        engine = self.engine
        if engine is not None and not getattr(record, "is_ahead", False):
            self._in_use = weakref.ref(engine.pool)

    def public(self, text: str) -> str:
        """Return an error's text without what the engine keeps secret."""
        engine = self.engine
        return text if engine is None else secrets_of(engine).hide(text)

    def is_disposed(self) -> bool:
        """Tell whether the engine was disposed of, and has not connected since.

        The engine's own event for that would slow down each of its statements.
        """
        engine = self.engine
        return engine is not None and self._in_use() is not engine.pool

    def is_gone(self) -> bool:
        """Tell whether there was an engine, and it is gone."""
        return self._engine is not None and self._engine() is None

    def join_budget(self) -> None:
        """Keep one place of their budget for this process, which is a worker."""
        for pool in list(self._pools):
            pool.join_budget()

    def renew(self, bind: str) -> None:
        """Replace all connections, each as soon as it is not in use."""
        for pool in list(self._pools):
            try:
                pool.renew()
            except Exception:
                warn(
                    "recycle_failed",
                    "Closing the connections of bind %r failed; the next round of the"
                    " housekeeper goes on with it",
                    bind,
                    exc_info=True,
                    bind=bind,
                )

    def outdated(self) -> int:
        """Return how many connections are older than that, and in use."""
        return sum(pool.outdated() for pool in list(self._pools))

    def obstacle(self) -> Obstacle | None:
        """Return what has kept connections from being made for the longest time."""
        found = [each.obstacle() for each in list(self._pools)]
        return min(filter(None, found), key=lambda each: each.since, default=None)
