"""Tracks pools that keep their own class, through SQLAlchemy's pool events."""

from __future__ import annotations

import os
import typing as t
import weakref

from sqlalchemy import event, exc
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..pool import after_fork_in_child, keep_from_finalising
from ..urls import is_in_memory

if t.TYPE_CHECKING:
    from .pool_tracker import PoolTracker

# Which process opened a connection, and the watcher's generation when it began to; in
# the record's ``info``.
_PID: t.Final = "_poolguard_pid"
_GENERATION: t.Final = "_poolguard_generation"

# Which tracker knows a connection that is out; likewise.
_TRACKER: t.Final = "_poolguard_tracker"

# On a dialect, which an engine keeps for life.
_WATCHER: t.Final = "_poolguard_watcher"

_EVENTS: t.Final = ("connect", "checkout", "checkin", "detach", "close", "invalidate")

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def observe(engine: Engine, tracker: PoolTracker) -> None:
    """Track a pool by its events, which survive ``engine.dispose()``.

    An engine that several apps share, one after another, has one watcher for all.
    """
    watcher: _Watcher | None = engine.dialect.__dict__.get(_WATCHER)
    if watcher is None:
        watcher = engine.dialect.__dict__[_WATCHER] = _Watcher(tracker)
        watcher.listen(engine)
        _engines.add(engine)
    else:
        watcher.tell(tracker)


class _Watcher:
    """Tells a tracker what its pool does, and finds out about forks by the pid.

    ``_records`` changes by single operations of a set only.
    """

    def __init__(self, tracker: PoolTracker) -> None:
        self._tracker = tracker
        self._pid = os.getpid()
        self._generation = object()
        self._records: set[weakref.ref[ConnectionPoolEntry]] = set()
        tracker.began(self)

    def tell(self, tracker: PoolTracker) -> None:
        """Use another tracker from now on; what is out comes back to its own."""
        if tracker is not self._tracker:
            self._tracker = tracker
            tracker.began(self)

    def listen(self, engine: Engine) -> None:
        """Listen to the pool that the engine has now, and to those after it."""
        for name in _EVENTS:
            event.listen(engine.pool, name, getattr(self, name))
        event.listen(engine, "do_connect", self.do_connect)

    def renew(self) -> None:
        """Have every connection replaced when it is next taken from the pool."""
        self._generation = object()
        for reference in list(self._records):
            record = reference()
            if record is not None:
                record.invalidate(soft=True)

    def outdated(self) -> int:
        """Return how many connections are older than that, and out."""
        return sum(
            each.record.info.get(_GENERATION) is not self._generation
            for each in list(self._tracker.out.values())
        )

    def join_budget(self) -> None:
        """Do nothing: a pool that keeps its own class has no budget."""

    def obstacle(self) -> None:
        """Return None: what the pool meets when it connects is not known."""

    def do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        arguments: list[t.Any],
        keywords: dict[str, t.Any],
    ) -> None:
        if hasattr(record, "info"):  # who calls a pool's creator himself gives none
            record.info[_GENERATION] = self._generation

    def connect(self, connection: object, record: ConnectionPoolEntry) -> None:
        self._notice_fork()
        record.info[_PID] = self._pid
        self._records.add(weakref.ref(record, self._records.discard))
        # A connect by a creator of the app's own does not say when it begins.
        began = record.info.setdefault(_GENERATION, self._generation)
        if began is not self._generation:
            record.invalidate(soft=True)
        self._tracker.connected(record)

    def checkout(
        self,
        connection: object,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
    ) -> None:
        self._notice_fork()
        opened_by = record.info.setdefault(_PID, self._pid)
        if opened_by != self._pid and not self._tracker.facts.in_memory:
            # As SQLAlchemy's documentation says; it connects anew.
            keep_from_finalising(connection)
            fairy.dbapi_connection = record.dbapi_connection = None  # type: ignore[misc] # declared wrongly
            raise exc.DisconnectionError(f"Opened by process {opened_by}")
        record.info[_TRACKER] = tracker = self._tracker
        tracker.took(record, fairy)

    def checkin(self, connection: object, record: ConnectionPoolEntry) -> None:
        record.info.pop(_TRACKER, self._tracker).gave(record)

    def detach(self, connection: object, record: ConnectionPoolEntry) -> None:
        record.info.pop(_TRACKER, self._tracker).gave(record)  # without its connection

    def close(self, connection: object, record: ConnectionPoolEntry) -> None:
        self._tracker.closed(record, None)

    def invalidate(
        self,
        connection: object,
        record: ConnectionPoolEntry,
        error: BaseException | None,
    ) -> None:
        self._tracker.figures.count("dead")

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._tracker.forked()


@after_fork_in_child
def _after_fork_in_child() -> None:
    for engine in list(_engines):
        if not is_in_memory(engine.url):
            keep_from_finalising(engine.pool)
            engine.dispose(close=False)
