"""Ends server sessions from outside of the pool, by the app's own account."""

from __future__ import annotations

import select
import time
import typing as t
from contextlib import closing, suppress

from ..pool import UnpooledEntry
from .listeners import not_asked

if t.TYPE_CHECKING:
    from ..databases import Database
    from ..engines import Guarded

# Seconds that a server may take to hang up. MariaDB and PostgreSQL take milliseconds.
_HANGS_UP_WITHIN: t.Final = 10.0


def idle_connections(guarded: Guarded) -> list[t.Any]:
    """Return the driver's connections that are idle in a pool."""
    # Private, as in pool/fair_pool.py; other pools of SQLAlchemy's have a queue there.
    queue: t.Any = getattr(guarded.engine.pool, "_pool", None)
    idle: t.Iterable[t.Any] = getattr(queue, "idle", None) or ()
    return _open(idle or getattr(queue, "queue", ()))


def out_connections(guarded: Guarded) -> list[t.Any]:
    """Return the driver's connections that are in use."""
    return _open(each.record for each in guarded.tracker.out.values())


def kill(guarded: Guarded, connections: list[t.Any]) -> None:
    """End the sessions of connections; return once the server has hung up.

    :raises Exception: what the driver raises if the account may not do that.
    """
    database = guarded.tracker.database
    alive = [each for each in connections if not _has_hung_up(database, each, 0.0)]
    ids = [database.server_id(each) for each in alive]
    if not any(ids):
        return
    # As report/servers.py: with all that applies to a connect, without the pool.
    with not_asked():
        own = guarded.engine.pool._invoke_creator(UnpooledEntry())
    with closing(own):
        cursor = own.cursor()
        for number in filter(None, ids):
            cursor.execute(database.kill_statement(number))
        cursor.close()
    until = time.monotonic() + _HANGS_UP_WITHIN
    for each in alive:
        _has_hung_up(database, each, max(until - time.monotonic(), 0.0))


def _open(records: t.Iterable[t.Any]) -> list[t.Any]:
    found = [each.dbapi_connection for each in list(records)]
    return [each for each in found if each is not None]


def _has_hung_up(database: Database, connection: t.Any, seconds: float) -> bool:
    """Wait until there is something to read from the server: its goodbye."""
    fileno = database.fileno_of(connection)
    if fileno is None:
        return False
    with suppress(OSError, ValueError, TypeError):  # closed by its user meanwhile
        poll = select.poll()
        poll.register(fileno(), select.POLLIN | select.POLLHUP)
        return bool(poll.poll(seconds * 1000))
    return True
