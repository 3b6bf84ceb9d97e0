"""ORM sessions that a database extension keeps for an app context.

Flask-SQLAlchemy keeps ``db.session`` under ``id(app_ctx)``. A session that outlives
a failed teardown is inherited by whichever later context gets the same id, and its
uncommitted rows are committed there.
"""

from __future__ import annotations

import sys
import typing as t
import weakref
from contextlib import ExitStack

from flask.globals import _cv_app

from ..log_lines import warn
from ..masking import first_line
from .checkout import Checkout
from .endpoint import current_endpoint
from .orm_transactions import end_or_cut_off
from .scope import ContextScope

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.ctx import AppContext
    from sqlalchemy.orm import Session

# Flask-SQLAlchemy-Lite, and where it keeps the sessions of a context.
_LITE: t.Final = "flask_sqlalchemy_lite._extension"
_LITE_SESSIONS: t.Final = "_sqlalchemy_sessions"


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
    scope_function = getattr(registry, "scopefunc", None)
    if scope_function is not None:
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
    return scoped.registry


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
    with ExitStack() as stack:  # each, even if one of them raises
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


def end_all(context: AppContext) -> None:
    """End the extension's sessions of a context, as its own teardown function does."""
    with ExitStack() as stack:
        for session, registry in filed_under(context):
            _unfile(context, session, registry)
            stack.callback(session.close)


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
    warn(
        "session_not_closed",
        "The database session of %s could not be closed (%s). Its connection was"
        " dropped; what was not committed is lost.",
        endpoint,
        first_line(error),
        endpoint=endpoint,
    )
