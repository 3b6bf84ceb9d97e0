"""Which scope is current in a thread, and which one a session or context belongs to."""

from __future__ import annotations

import contextvars
import typing as t
import weakref
from collections.abc import Iterator

from flask import globals as flask_globals
from flask.ctx import AppContext
from flask.globals import _cv_app

from .callsite import find_reconnecting
from .named_scope import current_named_scope, named_var
from .scope import ContextScope, Scope, WSGIScope, response_var
from .thread_marks import MarkRef, this_thread

if t.TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from .checkout import CheckoutScope

# Flask 3.2 merges the request context into the app context.
MERGED: t.Final = not hasattr(flask_globals, "_cv_request")
request_var: contextvars.ContextVar[t.Any] = (
    _cv_app if MERGED else flask_globals._cv_request
)

# Where an app context keeps its scope: on the context itself, since ``g`` is copied by
# others (Flask-Executor) into contexts of their own.
_ON_CONTEXT: t.Final = "_poolguard_scope"

# Contexts within contexts; more is a ring of contexts that were not popped in order.
_MAX_NESTED: t.Final = 100


def current_wsgi_scope() -> WSGIScope | None:
    """Return the response whose code runs here, None if there is none."""
    response = response_var.get()
    if response is None or response.runner is not this_thread.mark.ref:
        return None
    return response


def open_scope(context: AppContext) -> ContextScope:
    """Return the context's scope, a new one if it has none or that has ended.

    Flask pushes one and the same context again for ``stream_with_context``.
    """
    mark = this_thread.mark.ref
    earlier: ContextScope | None = context.__dict__.get(_ON_CONTEXT)
    if earlier is not None and earlier.context is context:
        if earlier.mark is not mark:
            earlier.pushed(mark)
        return earlier
    response = response_var.get()
    if response is not None and response.runner is not mark:
        response = None
    scope = ContextScope(context, response, mark)
    if earlier is not None and earlier.number == scope.number:
        scope.first_session = earlier.first_session
    context.__dict__[_ON_CONTEXT] = scope
    return scope


def scope_of(context: AppContext) -> ContextScope | None:
    """Return the context's scope if it has one that is open."""
    scope: ContextScope | None = context.__dict__.get(_ON_CONTEXT)
    if scope is None or scope.ended or scope.number != id(context):
        return None
    return scope


def pushed_by(context: AppContext) -> MarkRef | None:
    """Return which thread pushed a context last, None if that is not known."""
    scope: ContextScope | None = context.__dict__.get(_ON_CONTEXT)
    return None if scope is None else scope.mark


def home_of(session_number: int) -> Scope | None:
    """Return the scope that a session was made in: the innermost that is older.

    None for a session that is older than all of them: it is a thread's, a test's or a
    job's own.
    """
    for scope in current_scopes():
        if scope.first_session <= session_number:
            return scope
    return None


def pushed_contexts() -> Iterator[AppContext]:
    """Give the current app context, then the one around it, and so on."""
    context = _cv_app.get(None)
    for _ in range(_MAX_NESTED):
        if context is None:
            break
        yield context
        context = _around(context)


def _around(context: AppContext) -> AppContext | None:
    """Return the context within which a context was pushed.

    Only the private tokens know: ``_cv_tokens``, one per push, in Flask 3.0 and 3.1;
    ``_cv_token`` in 3.2.
    """
    tokens = getattr(context, "_cv_tokens", None)
    token = tokens[0] if tokens else getattr(context, "_cv_token", None)
    outer = getattr(token, "old_value", None)
    return outer if isinstance(outer, AppContext) else None


def current_scope() -> Scope | None:
    """Return what a connection taken now is taken for; None outside any scope.

    Of a context, a WSGI call and a named scope it is the one that began last.
    """
    if named_var.get() is None:
        # As a rule a context that was pushed during the current WSGI call, if any.
        context, response = _cv_app.get(None), response_var.get()
        if context is not None:
            own: ContextScope | None = context.__dict__.get(_ON_CONTEXT)
            if (
                own is not None
                and own.context is context
                and (response is None or own.response is response)
            ):
                return own
        return _scope_of_flask()
    scope = _scope_of_flask()
    named = current_named_scope()
    if named is not None and (scope is None or scope.began_at <= named.began_at):
        return named
    return scope


def _scope_of_flask() -> Scope | None:
    """Return the innermost app context or WSGI call.

    Of an app context and a WSGI call it is the one that began last: a context that was
    pushed before the call, and is shared by all requests, does not own what they take.
    """
    context = _cv_app.get(None)
    response = response_var.get()
    if context is not None:
        scope: ContextScope | None = context.__dict__.get(_ON_CONTEXT)
        if scope is not None and scope.context is not context:  # over, or a copy's
            is_over = scope.ended and scope.number == id(context)
            scope = open_scope(context) if is_over else None
        if scope is not None:
            if response is None or scope.response is response:
                return scope
            response = current_wsgi_scope()
            return scope if response is None or response.ended else response
    response = current_wsgi_scope()
    return response if response is not None and not response.ended else None


def current_scopes() -> list[Scope]:
    """Return all scopes within which this thread is, the innermost first."""
    found: list[Scope] = []
    response, context = current_wsgi_scope(), _cv_app.get(None)
    if response is not None and context is not None and named_var.get() is None:
        # As a rule a request within nothing else.
        own: ContextScope | None = context.__dict__.get(_ON_CONTEXT)
        if (
            own is not None
            and own.context is context
            and own.response is response
            and _around(context) is None
        ):
            return [own, response]
    for context in pushed_contexts():
        scope = scope_of(context)
        if scope is None:
            continue
        if response is not None and scope.response is not response:
            found.append(response)
            response = None
        found.append(scope)
    if response is not None:
        found.append(response)
    if named_var.get() is not None:
        _insert_named(found)
    return found


def _insert_named(found: list[Scope]) -> None:
    """Insert the open named scopes: each before the first scope that is older."""
    place, named = 0, current_named_scope()
    while named is not None:
        while place < len(found) and found[place].began_at > named.began_at:
            place += 1
        if not named.ended:
            found.insert(place, named)
        named = named.outer


# How many seconds of age count. Without a bound a task that runs for days, or a stream
# that stays open, would come before every request and could starve them all.
LONGEST_AGE: t.Final = 5.0


def under_way_since(scopes: list[Scope], now: float) -> float:
    """Return since when a request, command or task counts as under way, by its scopes;
    outside of all, now. In monotonic seconds.
    """
    began = now
    for scope in scopes:  # with every checkout that waits
        if scope.began_at < began:
            began = scope.began_at
    return max(began, now - LONGEST_AGE)


# On a Connection that lost its connection: whose it was.
_OWNER: t.Final = "_poolguard_scope"


def remember_owner(connection: Connection, scope: CheckoutScope | None) -> None:
    """Note whose a Connection is that is about to lose its driver's connection.

    It takes another one at its next use, which may be within an inner scope.
    """
    connection.__dict__[_OWNER] = (
        (lambda: None) if scope is None else weakref.ref(scope)
    )


def scope_of_reconnecting(current: CheckoutScope | None) -> CheckoutScope | None:
    """Return whose the connection is that a Connection takes after it lost one."""
    connection = find_reconnecting()
    owner = None if connection is None else connection.__dict__.get(_OWNER)
    if owner is None:
        return current
    scope: CheckoutScope | None = owner()
    return current if scope is not None and scope.ended else scope
