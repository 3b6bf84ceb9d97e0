"""Notes what statements did to a connection that may be taken back.

A session whose statements only read loses nothing when it is ended, and may go on; one
that wrote may not lose that in silence. A server's session that has a lock is not
handed to another request.
"""

from __future__ import annotations

import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from . import sent_statements
from .pool_tracker import tracker_of
from .sql_effects import Effect, effect_of

if t.TYPE_CHECKING:
    from .checkout import Checkout

_READS: t.Final = Effect.READS

# On a dialect, which an engine keeps for life: its engine is listened to already.
_LISTENED: t.Final = "_poolguard_statements"


def watch_statements(engine: Engine) -> None:
    """Note which connections of an engine have written, or have taken a lock.

    Through the dialect's events: one of the engine's own would let SQLAlchemy look for
    listeners at a dozen places of each statement, for some 50 µs.
    """
    if _LISTENED not in engine.dialect.__dict__:
        engine.dialect.__dict__[_LISTENED] = True
        event.listen(engine, "do_execute", _executes, insert=True)
        event.listen(engine, "do_executemany", _executes, insert=True)
        event.listen(engine, "do_execute_no_params", _executes_plain, insert=True)


def _executes_plain(cursor: object, statement: t.Any, context: t.Any) -> None:
    _executes(cursor, statement, None, context)


def _executes(
    cursor: object, statement: t.Any, parameters: object, context: t.Any
) -> None:
    if not isinstance(statement, str):  # psycopg2's SQL, or bytes
        statement = str(statement)
    effect = effect_of(statement)
    if sent_statements.is_noted:
        sent_statements.note_sent(statement, _checkout_of(context))
    if effect is not _READS:
        checkout = _checkout_of(context)
        if checkout is not None:
            checkout.effects |= effect


def _checkout_of(context: t.Any) -> Checkout | None:
    connection: Connection = context.root_connection
    tracker = tracker_of(connection.engine)
    # To ask a Connection that was lost for its proxy would make it connect anew.
    proxy = connection._dbapi_connection
    return None if tracker is None else tracker.checkout_of(proxy)
