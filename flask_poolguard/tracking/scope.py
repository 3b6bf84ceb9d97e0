"""Scopes: the app contexts and WSGI calls that connections are taken for."""

from __future__ import annotations

import contextvars
import time
import typing as t
from collections.abc import Callable

from flask.ctx import AppContext

from .callsite import CallSite, find_app_callsite
from .thread_marks import MarkRef, this_thread

if t.TYPE_CHECKING:
    from flask import Flask

    from .checkout import Checkout

_clock = time.monotonic

_next_session: Callable[[], int] = int


def next_session() -> int:
    """Return a number that the sessions made so far are below; 0 without the ORM."""
    return _next_session()


def number_sessions(counter: Callable[[], int]) -> None:
    """Tell how the ORM, once it is in use, numbers the sessions that are made."""
    global _next_session
    _next_session = counter


class Expecting(t.Protocol):
    """Who is expected to ask one pool again."""

    def ended(self, returner: Returner) -> None:
        """Hand over what waits for a request that will not ask again."""


class Returner:
    """A request that has given a connection back while others waited for one.

    :ivar returners: those of its pool. Of one pool only: the time for which a request
        may go before others is that of all its returns.
    :ivar began_at: since when it is under way, in monotonic seconds; like ``endpoint``
        not asked for before it may matter.
    :ivar first_at: when it gave a connection back for the first time.
    :ivar gave_at: when it did for the last time.
    :ivar is_expected: a connection may be idle for it.
    """

    __slots__ = (
        "began_at",
        "endpoint",
        "first_at",
        "gave_at",
        "is_expected",
        "returners",
    )

    def __init__(self, returners: Expecting, first_at: float) -> None:
        self.returners = returners
        self.endpoint: str | None = None
        self.began_at: float | None = None
        self.first_at = self.gave_at = first_at
        self.is_expected = False

    def end(self) -> None:
        """Let no connection wait for it any more."""
        if self.is_expected:
            self.returners.ended(self)


class Scope:
    """An app context, a response that still streams, or a named block.

    Most requests need little of it, so what is not said otherwise has its first value
    on the class.

    :ivar app: None for a named block, which may use several.
    :ivar checkouts: the connections taken for it that are still out.
    :ivar began_at: monotonic seconds.
    :ivar first_session: sessions with a lower number are older than the scope.
    :ivar mark: the thread that it began in; of a context, the last that pushed it.
    :ivar response: the WSGI call during which the context was pushed; None for one
        that was pushed outside of any, and for the scope of a response.
    :ivar callsite: where such a context was pushed.
    :ivar returner: what is known of its returns; None if no other thread waited then.
    """

    response: WSGIScope | None = None
    callsite: CallSite | None = None
    returner: Returner | None = None
    ended = False

    def __init__(self, app: Flask | None, mark: MarkRef) -> None:
        self.app = app
        self.began_at = _clock()
        self.first_session = _next_session()
        self.mark = mark
        self.checkouts: set[Checkout] = set()

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

    requests = 0
    pushers: set[MarkRef] | None = None

    def __init__(
        self, context: AppContext, response: WSGIScope | None, mark: MarkRef
    ) -> None:
        # What Scope's does, without one more call for each request; likewise below.
        self.app = context.app
        self.began_at = _clock()
        self.first_session = _next_session()
        self.mark = mark
        self.checkouts = set()
        self.context: AppContext | None = context
        self.number = id(context)
        if response is None:
            self.callsite = find_app_callsite(2)
            self.pushers = set()
            self.pushed(mark)
        else:
            self.response = response

    def pushed(self, mark: MarkRef) -> None:
        """Note that this thread has pushed the context."""
        self.mark = mark
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

    streams: bool | None = None
    keeps = False
    endpoint: str | None = None

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.began_at = _clock()
        self.first_session = _next_session()
        self.mark = mark = this_thread.mark.ref
        self.checkouts = set()
        self.runner: MarkRef | None = mark
        self.runners: set[MarkRef] = {mark}
        self.contexts: list[AppContext] = []

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
