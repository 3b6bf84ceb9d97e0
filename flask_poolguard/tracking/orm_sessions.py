"""ORM sessions: to which scope each belongs, and which the database extension keeps.

Flask-SQLAlchemy keeps ``db.session`` under ``id(app_ctx)``. A session that outlives
a failed teardown is inherited by whichever later context gets the same id, and its
uncommitted rows are committed there.
"""

from __future__ import annotations

import logging
import sys
import typing as t
import weakref
from contextlib import ExitStack

from flask.globals import _cv_app
from sqlalchemy import event

from .checkout import OUTSIDE, Checkout
from .endpoint import current_endpoint
from .orm_transactions import end_or_cut_off
from .pool_tracker import tracker_of
from .returned import mark_of, unmark
from .scope import ContextScope, Scope, current_scopes, home_of, number_sessions

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.ctx import AppContext
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from .returned import Returned

logger = logging.getLogger("flask_poolguard")

# Where a session remembers whose it is: a function that returns the scope, None for a
# thread's, a test's or a job's own.
_OWNER: t.Final = "_poolguard_scope"
# Flask-SQLAlchemy-Lite, and where it keeps the sessions of a context.
_LITE: t.Final = "flask_sqlalchemy_lite._extension"
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
        event.listen(Session, "before_commit", _before_commit)


# Ownership ------------------------------------------------------------------------


def _nothing() -> None:
    """Stand for the scope of a session that belongs to none."""


def _kept() -> None:
    """Stand for the scope of a session that outlives its own on purpose."""


def keep_session(session: Session) -> None:
    """Let what a session takes from now on outlive its scope."""
    session.__dict__[_OWNER] = _kept


def _after_begin(
    session: Session, transaction: SessionTransaction, connection: Connection
) -> None:
    tracker = tracker_of(connection.engine)
    if tracker is None or not _took(transaction, connection):
        return
    checkout = tracker.checkout_of(connection.connection)
    if checkout is None or checkout.session is not None:
        return
    checkout.session = weakref.ref(session)
    _settle_owner(session, checkout)
    mark = mark_of(session)
    if mark is not None and mark.is_sure and not _is_used_anew(mark.returned):
        raise mark.returned.error()
    if mark is not None:
        unmark(session)


def _settle_owner(session: Session, checkout: Checkout) -> None:
    """Let a session's connection be of the scope that the session is of."""
    remembered = session.__dict__.get(_OWNER)
    if remembered is _kept:
        checkout.keep()
        return
    if remembered is None:
        owner = _owner_of(session)
        session.__dict__[_OWNER] = _nothing if owner is None else weakref.ref(owner)
    elif remembered is _nothing:
        owner = None
    else:
        owner = remembered()
        if owner is None or owner.ended:
            owner = t.cast("Scope | None", checkout.scope)
            session.__dict__[_OWNER] = _nothing if owner is None else weakref.ref(owner)
    if owner is checkout.scope:
        return
    if owner is None:
        checkout.release()
    else:
        # A session of an outer context that is used within an inner one: the inner
        # one's end must leave it alone.
        owner.adopt(checkout)


def _owner_of(session: Session) -> Scope | None:
    """Return the scope that a session was made in, or is filed under."""
    home = home_of(session.hash_key)
    if home is None or isinstance(home, ContextScope):
        return home
    # Made during a WSGI call that shares a context with others: what is filed under
    # that context (db.session) is the context's, as tests rely on.
    for scope in current_scopes():
        context = scope.context if isinstance(scope, ContextScope) else None
        if context is not None and any(
            filed.session is session for filed in filed_under(context)
        ):
            return scope
    return home


def _is_used_anew(mark: Returned) -> bool:
    """Tell whether a request, command or task that began later uses a session that was
    taken back: a scoped session that nothing removes goes from one to the next.
    """
    scopes = current_scopes()
    if not scopes or current_endpoint() is OUTSIDE:
        return False
    return scopes[-1].began_at > mark.at or _began_within(scopes, mark)


def _began_within(scopes: list[Scope], mark: Returned) -> bool:
    # Requests that share a context: the call is newer, the context is not.
    return scopes[0].began_at > mark.at and not isinstance(scopes[0], ContextScope)


def _before_commit(session: Session) -> None:
    mark = mark_of(session)
    if mark is None:
        return
    if mark.is_sure or not _is_used_anew(mark.returned):
        raise mark.returned.error()
    unmark(session)


def _took(transaction: SessionTransaction, connection: Connection) -> bool:
    """Tell whether a session took the connection itself; it may be bound to one that
    somebody else took, and closes.

    Private; the same in SQLAlchemy 2.0.31 and 2.1.9: per connection a tuple, the last
    of which says whether the session is to close it.
    """
    known = transaction._connections.get(connection)
    return known is not None and bool(known[3])


# What an extension keeps --------------------------------------------------------------


class Filed(t.NamedTuple):
    """A session that a database extension has filed under a context.

    :ivar registry: from whose scope it is taken, None for Lite's.
    """

    session: Session
    registry: t.Any


def filed_under(context: AppContext) -> list[Filed]:
    """Return the database extension's sessions of a context; no mocks, no others."""
    filed: list[Filed] = []
    registry = _registry_of(context.app)
    if registry is not None:
        scope_function = registry.scopefunc
        if getattr(scope_function, "__name__", "") == "_app_ctx_id":  # its own
            session = registry.registry.get(id(context))
        else:  # the app's; it can only be asked within the context
            session = _ask(registry) if _cv_app.get(None) is context else None
        if session is not None:
            filed.append(Filed(session, registry))
    # An attribute that ``g`` does not have takes it long to miss.
    if _LITE in sys.modules:
        sessions = getattr(context.g, _LITE_SESSIONS, None) or {}
        filed += [Filed(session, None) for session in sessions.values()]
    return filed


def _ask(registry: t.Any) -> t.Any:
    """Return the current session by an app's own scopefunc, None if there is none, or
    this context is not one that it can answer in.
    """
    try:
        return registry() if registry.has() else None
    except Exception:
        return None


def _registry_of(app: Flask) -> t.Any:
    """Return the registry of a Flask-SQLAlchemy's ``db.session``, None if that is none
    or the app has put something else in its place.
    """
    extension = app.extensions.get("sqlalchemy")
    if extension is None:
        return None
    # An attribute; to ask for Lite's property of that name would make a session.
    scoped = getattr(extension, "__dict__", {}).get("session")
    orm = sys.modules.get("sqlalchemy.orm")
    if scoped is None or orm is None or not isinstance(scoped, orm.scoped_session):
        return None
    registry = scoped.registry
    return registry if hasattr(registry, "scopefunc") else None


def would_remove(app: Flask) -> bool:
    """Tell whether the extension's own teardown function is to end its sessions.

    Not if it is off the app's list, or ``remove`` is replaced: what a test suite keeps
    alive on purpose stays alive.
    """
    extension: t.Any = app.extensions.get("sqlalchemy")
    functions = app.teardown_appcontext_funcs
    lite = sys.modules.get(_LITE)
    if lite is not None and lite._close_sessions in functions:
        return True
    if getattr(extension, "_teardown_session", None) not in functions:
        return False
    remove = getattr(getattr(extension, "session", None), "remove", None)
    code = getattr(remove, "__code__", None)
    return code is not None and code.co_filename.endswith("scoping.py")


def is_extensions_own(function: t.Any) -> bool:
    """Tell whether a teardown function is that of a database extension, unchanged."""
    lite = sys.modules.get(_LITE)
    if lite is not None and function is lite._close_sessions:
        return True
    plain = sys.modules.get("flask_sqlalchemy.extension")
    return (
        plain is not None
        and getattr(function, "__func__", None) is plain.SQLAlchemy._teardown_session
    )


def end_left_over(
    context: AppContext, scope: ContextScope, first_late: int, raised: bool
) -> tuple[str, bool] | None:
    """End the extension's sessions that its own teardown should have ended.

    :param first_late: number of the first session made after the teardown began.
    :param raised: a teardown function raised, so that later ones may not have run.
    :return: the endpoint that left one in the middle of a transaction, and whether it
        was made during the teardown; None if none was.
    """
    left = None
    is_to_remove = raised and would_remove(context.app)
    with ExitStack() as stack:  # whatever strikes on the way, such as a Timeout
        for session, registry in filed_under(context):
            number = session.hash_key
            is_late = number >= first_late
            own = [each for each in list(scope.checkouts) if each.is_of(session)]
            if number < scope.first_session or not (is_late or is_to_remove):
                for checkout in own:  # the app's own functions left it as it is
                    checkout.release()
                continue
            _unfile(context, session, registry)
            endpoint = own[0].endpoint if own else current_endpoint()
            if session.in_transaction():
                left = endpoint, is_late
            stack.callback(_close, session, own, endpoint)
    return left


def end_filed(context: AppContext) -> None:
    """End what the extension's sessions are in the middle of, of a context that nothing
    will ever pop.

    Their objects may be in use elsewhere: the sessions stay for as long as the context,
    whose ``id`` no other has until then.
    """
    with ExitStack() as stack:
        for session, registry in filed_under(context):
            if registry is not None:
                forget = weakref.finalize(
                    context, registry.registry.pop, id(context), None
                )
                forget.atexit = False
            if session.in_transaction():
                stack.callback(end_or_cut_off, session)


def _unfile(context: AppContext, session: Session, registry: t.Any) -> None:
    if registry is None:
        filed = getattr(context.g, _LITE_SESSIONS, {})
        for key in [key for key, value in filed.items() if value is session]:
            del filed[key]
    elif registry.registry.pop(id(context), None) is None:
        registry.clear()


def _close(session: t.Any, checkouts: list[Checkout], endpoint: str) -> None:
    try:
        if any(each.is_in_mid_query() for each in checkouts):
            # Closing would wait for, or misread, an answer that is still to come.
            session.invalidate()
        else:
            session.close()
    except BaseException as error:
        # Once for the session; its connection is dropped, the response unchanged.
        say_not_closed(endpoint, error)
        session.invalidate()
        if not isinstance(error, Exception):
            raise


def say_not_closed(endpoint: str, error: BaseException) -> None:
    """Log that closing a session raised, which the response does not show."""
    logger.warning(
        "The database session of %s could not be closed (%s: %s). Its connection"
        " was dropped; what was not committed is lost.",
        endpoint,
        type(error).__name__,
        str(error).partition("\n")[0],
    )
