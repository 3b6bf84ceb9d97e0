"""Scopes: app contexts and WSGI calls, and which one is current."""

from __future__ import annotations

import contextvars
import time
import typing as t
import weakref
from collections.abc import Callable, Iterator

from flask import globals as flask_globals
from flask.ctx import AppContext
from flask.globals import _cv_app

from ..pool import after_fork_in_child
from .callsite import CallSite, find_app_callsite, find_reconnecting
from .thread_marks import MarkRef, this_thread

if t.TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.engine import Connection

    from .checkout import Checkout, CheckoutScope

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


_next_session: Callable[[], int] = int


def next_session() -> int:
    """Return a number that the sessions made so far are below; 0 without the ORM."""
    return _next_session()


def number_sessions(counter: Callable[[], int]) -> None:
    """Tell how the ORM, once it is in use, numbers the sessions that are made."""
    global _next_session
    _next_session = counter


class Scope:
    """An app context, or a response that still streams.

    :ivar checkouts: the connections taken for it that are still out.
    :ivar began_at: monotonic seconds.
    :ivar first_session: sessions with a lower number are older than the scope.
    :ivar mark: the thread that it began in; of a context, the last that pushed it.
    :ivar response: the WSGI call during which the context was pushed; None for one
        that was pushed outside of any, and for the scope of a response.
    :ivar callsite: where such a context was pushed.
    """

    __slots__ = (
        "__weakref__",
        "app",
        "began_at",
        "callsite",
        "checkouts",
        "ended",
        "first_session",
        "mark",
        "response",
    )

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.began_at = time.monotonic()
        self.first_session = _next_session()
        self.mark = this_thread.mark.ref
        self.response: WSGIScope | None = None
        self.callsite: CallSite | None = None
        self.checkouts: set[Checkout] = set()
        self.ended = False

    def end(self) -> None:
        """Note that it is over; what is taken from now on is not for it."""
        self.ended = True
        self.response = None

    def adopt(self, checkout: Checkout) -> None:
        """Take over a connection from whichever scope had it."""
        if checkout.scope is not None:
            checkout.scope.checkouts.discard(checkout)
        checkout.scope = self
        self.checkouts.add(checkout)


class ContextScope(Scope):
    """An app context, from its push to the end of its teardown.

    :ivar context: None once it has ended. Until then the context lives, so that its
        ``id``, under which Flask-SQLAlchemy files a session, is given to no other.
    :ivar number: that ``id``. A copy of the context's attributes has another.
    :ivar requests: WSGI calls that ran within it without a context of their own.
    :ivar pushers: the threads that pushed it outside of any WSGI call, None for one
        that was pushed within. It is deserted when all of them have ended.
    """

    __slots__ = ("context", "number", "pushers", "requests")

    def __init__(self, context: AppContext, response: WSGIScope | None) -> None:
        super().__init__(context.app)
        self.context: AppContext | None = context
        self.number = id(context)
        self.requests = 0
        self.response = response
        self.pushers: set[MarkRef] | None = None
        if response is None:
            self.callsite = find_app_callsite(2)
            self.pushers = set()
            self.pushed()

    def pushed(self) -> None:
        """Note that this thread has pushed the context."""
        self.mark = mark = this_thread.mark.ref
        if self.pushers is not None:
            self.pushers.add(mark)
            mark.scopes.add(self)

    def end(self) -> None:
        """Note that it is over, and let go of the context."""
        if self.pushers:
            for mark in list(self.pushers):
                mark.scopes.discard(self)
            self.pushers.clear()
        self.ended = True
        self.response = self.context = None


class WSGIScope(Scope):
    """A WSGI call and, when its response streams, the time until that is closed.

    :ivar runner: the thread that runs the app's code for it right now.
    :ivar runners: the threads that ran its code; none does when it ends, so what they
        took may be given back by whichever thread closes it.
    :ivar streams: what the response says of itself; None if none was seen.
    :ivar keeps: it may read from connections that the view opened.
    :ivar contexts: app contexts pushed during the call that have not ended. Held
        here, because an ``id`` that Flask-SQLAlchemy used as a key must not be given
        to another context before its session is gone.
    """

    __slots__ = (
        "contexts",
        "endpoint",
        "keeps",
        "runner",
        "runners",
        "streams",
    )

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        self.runner: MarkRef | None = None
        self.runners: set[MarkRef] = set()
        self.streams: bool | None = None
        self.keeps = False
        self.contexts: list[AppContext] = []
        self.endpoint: str | None = None

    def enter(self) -> tuple[WSGIScope | None, MarkRef | None]:
        """Begin to run code for it in this thread; return what to leave with."""
        before = response_var.get(), self.runner
        self.runner = this_thread.mark.ref
        self.runners.add(self.runner)
        response_var.set(self)
        return before

    def leave(self, before: tuple[WSGIScope | None, MarkRef | None]) -> None:
        """Go back to the response, if any, within which this one was entered."""
        outer, self.runner = before
        response_var.set(outer)


# The response whose code this thread or greenlet runs: during the WSGI call, each
# next() and close(). Threads that the app starts with a copied context inherit it.
response_var: contextvars.ContextVar[WSGIScope | None] = contextvars.ContextVar(
    "flask_poolguard.response", default=None
)


def current_wsgi_scope() -> WSGIScope | None:
    """Return the response whose code runs here, None if there is none."""
    response = response_var.get()
    if response is None or response.runner is not this_thread.mark.ref:
        return None
    return response


# In a child that was forked within a call: that call, which the parent answers.
_parents_call: WSGIScope | None = None


def serves(response: WSGIScope) -> bool:
    """Tell whether this process answers a call, and did not just inherit it."""
    return response is not _parents_call


@after_fork_in_child
def _note_parents_call() -> None:
    global _parents_call
    _parents_call = response_var.get()


def open_scope(context: AppContext) -> ContextScope:
    """Return the context's scope, a new one if it has none or that has ended.

    Flask pushes one and the same context again for ``stream_with_context``.
    """
    scope = scope_of(context)
    if scope is None:
        earlier: ContextScope | None = context.__dict__.get(_ON_CONTEXT)
        scope = ContextScope(context, current_wsgi_scope())
        if earlier is not None and earlier.number == scope.number:
            scope.first_session = earlier.first_session
        context.__dict__[_ON_CONTEXT] = scope
    elif scope.mark is not this_thread.mark.ref:
        scope.pushed()
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
    response = current_wsgi_scope()
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
    return found


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
