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

    from ..pool import Served
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


class Returner:
    """A request that asks one pool again at once.

    :ivar pool: which one, by who is expected there.
    :ivar began_at: when it began, in monotonic seconds.
    :ivar since: when it gave a connection back for the first time while others waited.
    :ivar gave_at: when it did for the last time.
    :ivar queue: in which its connection is idle then.
    """

    __slots__ = ("began_at", "endpoint", "gave_at", "pool", "queue", "since")

    def __init__(
        self, pool: object, endpoint: str, began_at: float, since: float
    ) -> None:
        self.pool = pool
        self.endpoint = endpoint
        self.began_at = began_at
        self.since = self.gave_at = since
        self.queue: Served | None = None


class Scope:
    """An app context, or a response that still streams.

    :ivar checkouts: the connections taken for it that are still out.
    :ivar began_at: monotonic seconds.
    :ivar first_session: sessions with a lower number are older than the scope.
    :ivar mark: the thread that it began in; of a context, the last that pushed it.
    :ivar response: the WSGI call during which the context was pushed; None for one
        that was pushed outside of any, and for the scope of a response.
    :ivar callsite: where such a context was pushed.
    :ivar gave_to: the pool, by who is expected there, that it gave a connection back
        to while others waited for one; None if it never did.
    :ivar gave_at: when that was, in monotonic seconds.
    :ivar returner: set if it is known to ask again at once then.
    """

    __slots__ = (
        "__weakref__",
        "app",
        "began_at",
        "callsite",
        "checkouts",
        "ended",
        "first_session",
        "gave_at",
        "gave_to",
        "mark",
        "response",
        "returner",
    )

    app: Flask
    began_at: float
    first_session: int
    mark: MarkRef
    response: WSGIScope | None
    callsite: CallSite | None
    checkouts: set[Checkout]
    ended: bool
    gave_at: float
    gave_to: object
    returner: Returner | None

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

    # With every request, so without a super().__init__(): a call more for each scope.
    def __init__(
        self, context: AppContext, response: WSGIScope | None, mark: MarkRef
    ) -> None:
        self.app = context.app
        self.began_at = _clock()
        self.first_session = _next_session()
        self.mark = mark
        self.response = response
        self.callsite = None
        self.checkouts = set()
        self.ended = False
        self.gave_at, self.gave_to = 0.0, None
        self.returner = None
        self.context: AppContext | None = context
        self.number = id(context)
        self.requests = 0
        self.pushers: set[MarkRef] | None = None
        if response is None:
            self.callsite = find_app_callsite(2)
            self.pushers = set()
            self.pushed(mark)

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

    __slots__ = (
        "contexts",
        "endpoint",
        "keeps",
        "runner",
        "runners",
        "streams",
    )

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.began_at = _clock()
        self.first_session = _next_session()
        self.mark = this_thread.mark.ref
        self.response = None
        self.callsite = None
        self.checkouts = set()
        self.ended = False
        self.gave_at, self.gave_to = 0.0, None
        self.returner = None
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
