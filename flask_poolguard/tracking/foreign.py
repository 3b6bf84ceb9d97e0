"""Books for pools that keep their own class, through SQLAlchemy's pool events."""

from __future__ import annotations

import os
import typing as t
import weakref

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..pool import keep_from_finalising

if t.TYPE_CHECKING:
    from .ledger import PoolLedger

# SQLite keeps an in-memory database within its one connection; a child has a copy.
_MEMORY: t.Final = ("", ":memory:", None)

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def observe(engine: Engine, ledger: PoolLedger) -> None:
    """Keep a pool's books by its events, which survive ``engine.dispose()``."""

    def connect(connection: object, record: ConnectionPoolEntry) -> None:
        ledger.connected(record)

    def checkout(
        connection: object, record: ConnectionPoolEntry, fairy: PoolProxiedConnection
    ) -> None:
        ledger.took(record, fairy)

    def checkin(connection: object, record: ConnectionPoolEntry) -> None:
        ledger.gave(record)

    def close(connection: object, record: ConnectionPoolEntry) -> None:
        ledger.closed(record, None)

    def invalidate(
        connection: object, record: ConnectionPoolEntry, error: BaseException | None
    ) -> None:
        ledger.count("dead")

    for function in (connect, checkout, checkin, close, invalidate):
        event.listen(engine.pool, function.__name__, function)
    _engines.add(engine)


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        in_memory = engine.dialect.name == "sqlite" and engine.url.database in _MEMORY
        if not in_memory:
            keep_from_finalising(engine.pool)
            engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
