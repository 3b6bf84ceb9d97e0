"""Rolls back connections that were garbage-collected, where a pool would not.

SQLAlchemy puts a connection back when its proxy is collected. With
``pool_reset_on_return`` off its transaction then stays open for the next user to
commit; with ``"commit"`` it is committed there and then.
"""

from __future__ import annotations

import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.pool.base import PoolResetState, reset_rollback

# On a dialect, which an engine keeps for life: its pools are listened to already.
_LISTENED: t.Final = "_poolguard_dropping"


def roll_back_dropped(engine: Engine) -> None:
    """Roll back what is collected, if the engine's pool does not do so itself.

    What is closed in time is reset as the pool says. Listeners go from a pool to the
    one that takes its place.
    """
    if engine.dialect.is_async or engine.pool._reset_on_return is reset_rollback:
        return
    if _LISTENED in engine.dialect.__dict__:
        return
    engine.dialect.__dict__[_LISTENED] = True
    dialect = engine.dialect

    def reset(
        connection: t.Any, record: ConnectionPoolEntry, state: PoolResetState
    ) -> None:
        # Private; the same in SQLAlchemy 2.0.31 and 2.1.9: a dead reference to the
        # proxy means that it was collected, and not closed.
        reference = getattr(record, "fairy_ref", None)
        if reference is not None and reference() is None:
            dialect.do_rollback(connection)

    event.listen(engine.pool, "reset", reset, insert=True)
