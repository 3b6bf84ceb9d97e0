"""ORM sessions: whose they are, and how to end them whatever happens.

Flask-SQLAlchemy keeps ``db.session`` under ``id(app_ctx)``. A session that outlives
a failed teardown is inherited by whichever later context gets the same id, and its
uncommitted rows are committed there.
"""

from __future__ import annotations

import logging
import sys
import typing as t
import weakref
from collections.abc import Callable
from contextlib import ExitStack

from flask.globals import _cv_app
from sqlalchemy import event

from .holding import Holding, current_endpoint
from .ledger import ledger_of
from .scope import home_of, number_sessions, scope_of

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.ctx import AppContext
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from .scope import Scope

logger = logging.getLogger("flask_poolguard")

# Where a session remembers the scope that it works for.
_OWNER: t.Final = "_poolguard_scope"
_LITE_SESSIONS: t.Final = "_sqlalchemy_sessions"

_listening = False


def listen() -> None:
    """Learn which session works on which connection, once SQLAlchemy's ORM is in use.

    A connection may be held by a session, so it only needs to be looked at when the
    ORM is loaded; importing it for apps without one would cost 40 ms.
    """
    global _listening
    if not _listening and "sqlalchemy.orm" in sys.modules:
        from sqlalchemy.orm import Session, session

        _listening = True
        # Private; the same in SQLAlchemy 2.0.31 and 2.1.9. A session keeps its number
        # as ``hash_key``, and nothing else tells when it was made.
        number_sessions(session._new_sessionid)
        event.listen(Session, "after_begin", _after_begin)


def _after_begin(
    session: Session, transaction: SessionTransaction, connection: Connection
) -> None:
    ledger = ledger_of(connection.engine)
    if ledger is None or not _took(transaction, connection):
        return
    record = getattr(connection.connection, "_connection_record", None)
    holding = None if record is None else ledger.out.get(record)
    if holding is None or holding.session is not None:
        return
    holding.session = weakref.ref(session)
    remembered: weakref.ref[Scope] | None = session.info.get(_OWNER)
    owner = None if remembered is None else remembered()
    if remembered is None:
        owner = home_of(session.hash_key)
    if owner is None or owner.ended:
        owner = holding.scope
    if owner is not None:
        session.info[_OWNER] = weakref.ref(owner)
        if holding.scope is not None and owner is not holding.scope:
            # A session of an outer context that is used within an inner one: the
            # inner context's end must leave it alone.
            owner.adopt(holding)


def _took(transaction: SessionTransaction, connection: Connection) -> bool:
    """Tell whether a session took the connection itself; it may be bound to one that
    somebody else took, and closes.

    Private; the same in SQLAlchemy 2.0.31 and 2.1.9: per connection a tuple, the last
    of which says whether the session is to close it.
    """
    known = transaction._connections.get(connection)
    return known is not None and bool(known[3])


def isolate_session_teardown(app: Flask) -> None:
    """Make the database extension's own teardown function unable to raise.

    Before Flask 3.2 the first function that raises keeps the later ones from
    running, and ``session.remove()`` raises when its connection was killed.
    """
    extension: t.Any = app.extensions.get("sqlalchemy")
    known: dict[t.Any, Callable[..., None]] = {}
    if hasattr(extension, "_teardown_session"):
        known[extension._teardown_session] = lambda exc: end_current(app)
    lite = sys.modules.get("flask_sqlalchemy_lite._extension")
    if lite is not None:
        known[lite._close_sessions] = lambda exc: end_current(app)
    functions = app.teardown_appcontext_funcs
    functions[:] = [known.get(function, function) for function in functions]


def end_current(app: Flask) -> None:
    """End the database extension's sessions of the current context."""
    context = _cv_app.get(None)
    if context is not None:
        end_sessions(app, context)


def has_sessions(context: AppContext) -> bool:
    """Tell whether the database extension has sessions of a context."""
    if _LITE_SESSIONS in context.g:
        return True
    registry = _registry_of(context.app)
    if registry is None:
        return False
    scope_function = getattr(registry, "scopefunc", None)
    if getattr(scope_function, "__name__", "") == "_app_ctx_id":  # the extension's own
        return id(context) in registry.registry
    # An app's own; it can only be asked within the context.
    return _cv_app.get(None) is context and bool(registry.has())


def _registry_of(app: Flask) -> t.Any:
    # Flask-SQLAlchemy's is an attribute; to ask for Lite's property would make one.
    scoped = getattr(app.extensions.get("sqlalchemy"), "__dict__", {}).get("session")
    return getattr(scoped, "registry", None)


def end_sessions(app: Flask, context: AppContext) -> str | None:
    """End the database extension's sessions of a context.

    :return: the endpoint that left one in the middle of a transaction, if any did.
    """
    sessions: list[t.Any] = []
    registry = _registry_of(app)
    if registry is not None:
        sessions += _take_from(registry, context)
    sessions += (context.g.pop(_LITE_SESSIONS, None) or {}).values()
    if not sessions:
        return None
    scope = scope_of(context)
    holdings = () if scope is None else list(scope.holdings)
    left = None
    with ExitStack() as stack:  # whatever strikes on the way, such as a Timeout
        for session in sessions:
            own = [each for each in holdings if each.is_of(session)]
            endpoint = own[0].endpoint if own else current_endpoint()
            if session.in_transaction():
                left = endpoint
            stack.callback(_end, session, own, endpoint)
    return left


def _take_from(registry: t.Any, context: AppContext) -> list[t.Any]:
    """Take a context's session out of Flask-SQLAlchemy's scoped registry."""
    by_key = getattr(registry, "registry", None)
    if isinstance(by_key, dict) and id(context) in by_key:
        return [by_key.pop(id(context))]
    # An app's own scopefunc; it can only be asked within the context.
    if _cv_app.get(None) is context and registry.has():
        session = registry()
        registry.clear()
        return [session]
    return []


def _end(session: t.Any, holdings: list[Holding], endpoint: str) -> None:
    try:
        if any(each.is_in_mid_query() for each in holdings):
            # Closing would wait for, or misread, an answer that is still to come.
            session.invalidate()
        else:
            session.close()
    except BaseException as error:
        # Once for the session; its connection is dropped, the response unchanged.
        logger.warning(
            "The database session of %s could not be closed (%s: %s). Its connection"
            " was dropped; what was not committed is lost.",
            endpoint,
            type(error).__name__,
            str(error).partition("\n")[0],
        )
        session.invalidate()
        if not isinstance(error, Exception):
            raise
