"""What statements did to a connection that may be taken back.

A session whose statements only read loses nothing when it is ended, and may go on; one
that wrote may not lose that in silence. A server's session that has a lock is not
handed to another request.
"""

from __future__ import annotations

import typing as t

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from .ledger import ledger_of

# A longer query is taken for one that locks nothing for longer than its transaction.
_SHORT: t.Final = 100
# Of what takes a lock of the session, or lets it listen: PostgreSQL's
# pg_advisory_lock() and pg_try_advisory_lock(), MySQL's GET_LOCK().
_LOCKS: t.Final = ("ADVISORY_LOCK", "GET_LOCK")
_LISTENS: t.Final = ("LISTEN", "LOCK")
_READS: t.Final = ("SELECT", "SHOW", "SET", "EXPLAIN", "DESC", "USE", "VALUES")

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
    if statement.startswith("SELECT") and (
        len(statement) > _SHORT or "LOCK" not in statement.upper()
    ):
        return
    ledger = ledger_of(connection.engine)
    record = getattr(connection._dbapi_connection, "_connection_record", None)
    holding = None if ledger is None or record is None else ledger.out.get(record)
    if holding is None:
        return
    beginning = statement.lstrip(" \n\t(")[:10].upper()
    if beginning.startswith("SELECT"):
        beginning = statement.upper()
        holding.has_locked |= any(each in beginning for each in _LOCKS)
    elif beginning.startswith(_LISTENS):
        holding.has_locked = True
    elif not beginning.startswith(_READS):
        holding.has_written = True
