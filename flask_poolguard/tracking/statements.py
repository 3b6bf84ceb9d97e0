"""What statements did to a connection that may be taken back.

A session whose statements only read loses nothing when it is ended, and may go on; one
that wrote may not lose that in silence. A server's session that has a lock is not
handed to another request.
"""

from __future__ import annotations

import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import PoolProxiedConnection

from .sql_effects import effect_of
from .ledger import ledger_of

# On a dialect, which an engine keeps for life: its engine is listened to already.
_LISTENED: t.Final = "_poolguard_statements"


def watch_statements(engine: Engine) -> None:
    """Note which connections of an engine have written, or have taken a lock."""
    if _LISTENED not in engine.dialect.__dict__:
        engine.dialect.__dict__[_LISTENED] = True
        event.listen(engine, "after_cursor_execute", _executed)


def _executed(
    connection: Connection,
    cursor: object,
    statement: t.Any,
    parameters: object,
    context: object,
    executemany: bool,
) -> None:
    # With every statement: the first lines must be all that a query costs.
    if not isinstance(statement, str):  # psycopg2's SQL, or bytes
        statement = str(statement)
    effect = effect_of(statement)
    if not effect:
        return
    ledger = ledger_of(connection.engine)
    holding = None if ledger is None else ledger.holding_of(_proxy_of(connection))
    if holding is not None:
        holding.effects |= effect


def _proxy_of(connection: Connection) -> PoolProxiedConnection | None:
    # To ask a Connection that was lost for it would make it connect anew.
    return connection._dbapi_connection
