"""One connection that is out, and what it was taken for."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import typing as t
import weakref

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..pool import keep_from_finalising, orphan
from .callsite import Taken, find_place, find_reconnecting
from .orm_transactions import end_transaction
from .scope import (
    MERGED,
    Scope,
    ThreadMark,
    current_response,
    current_scope,
    pushed_contexts,
    request_var,
    this_thread,
)
from .sql_effects import Effect
from .task_names import current_task_name, socketio_event_name

if t.TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from .pool_tracker import PoolTracker

_monotonic = time.monotonic

# Each look into an enumeration costs a checkout 0.1 µs (CPython 3.11).
_READS: t.Final = Effect.READS
_AGAIN: t.Final = Taken.AGAIN

# Where a context keeps its request.
_REQUEST: t.Final = "_request" if MERGED else "request"

# A request that matches no route. Not its path: there is no end of paths, and each
# name takes room in the state file.
NO_ROUTE: t.Final = "(no route)"

# In a record's ``info``: the transaction settings of its connection when it was opened.
SETTINGS: t.Final = "_poolguard_settings"

# The endpoint of a checkout that belongs to no request, task or command.
OUTSIDE: t.Final = "(outside any request)"


class Checkout:
    """One connection that is out: where, since when, for whom.

    :ivar place: the app's line that took it, and as what.
    :ivar scope: what it was taken for; None if nothing ends that, or it is kept.
    :ivar session: the ORM session that took it.
    :ivar is_kept: it outlives its scope on purpose (``guard.keep()``).
    :ivar effects: what the statements that ran on it did.
    """

    __slots__ = (
        "_fairy",
        "effects",
        "endpoint",
        "is_kept",
        "is_listed",
        "is_reported",
        "mark",
        "place",
        "record",
        "scope",
        "session",
        "taken_at",
        "tracker",
    )

    def __init__(
        self,
        tracker: PoolTracker,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        mark: weakref.ref[ThreadMark],
    ) -> None:
        self.tracker = tracker
        self.record = record
        self._fairy = weakref.ref(fairy)
        self.mark = mark
        self.taken_at = _monotonic()
        self.is_listed = True  # in the state file, unless that has no slot left
        self.is_reported = False  # as held for too long
        self.is_kept = False
        self.effects = _READS
        # Past this, took() and the pool's connect().
        self.place = place = find_place(3)
        self.endpoint = current_endpoint()
        self.session: weakref.ref[Session] | None = None
        self.scope = scope = current_scope()
        if place.taken is _AGAIN:
            self.scope = scope = _scope_of_reconnecting(scope)
        if scope is not None:
            scope.checkouts.add(self)

    def fairy(self) -> PoolProxiedConnection | None:
        """Return SQLAlchemy's proxy of the connection, None once it was closed."""
        fairy = self._fairy()
        return fairy if fairy is not None and fairy.is_valid else None

    def is_mine(self) -> bool:
        """Tell whether this thread took it, or one that has ended since."""
        mark = self.mark()
        return mark is None or mark is this_thread.mark

    def is_at_prompt(self) -> bool:
        """Tell whether it is used by hand (``flask shell``, IPython, ``python -i``):
        taken by the thread that reads what is typed.
        """
        mark = self.mark()
        return (
            hasattr(sys, "ps1")
            and mark is not None
            and mark.ident == threading.main_thread().ident
        )

    def is_of(self, session: object) -> bool:
        """Tell whether this ORM session works on it."""
        return self.session is not None and self.session() is session

    def is_in_mid_query(self) -> bool:
        """Tell whether an answer is still to be read."""
        fairy = self.fairy()
        return fairy is not None and self.tracker.database.is_in_mid_query(
            fairy.dbapi_connection
        )

    def site(self) -> str:
        """Return ``file:line`` of the checkout."""
        return self.place.describe(self.tracker.root_path)

    def is_bare(self) -> bool:
        """Tell whether it was taken outside of any request, command and task."""
        return self.endpoint is OUTSIDE

    def release(self) -> None:
        """Leave it to its owner: the end of no scope takes it back."""
        if self.scope is not None:
            self.scope.checkouts.discard(self)
            self.scope = None

    def keep(self) -> None:
        """Note that it outlives its scope on purpose, and show that."""
        self.release()
        self.tracker.left_behind.discard(self)
        self.is_kept = True
        self.tracker.show_kept(self)

    def orphan(self) -> None:
        """Make an inherited connection unusable in a child, without a word to the
        server. An ORM session that had it takes another one at its next use.
        """
        keep_from_finalising(self)
        orphan(self.record, self._fairy())
        self.release()
        session = None if self.session is None else self.session()
        if session is not None:
            with contextlib.suppress(Exception):  # a thread was in the middle of it
                end_transaction(session)


# On a Connection that lost its connection: whose it was.
_OWNER: t.Final = "_poolguard_scope"


def remember_owner(connection: Connection, checkout: Checkout) -> None:
    """Note whose a Connection is that is about to lose its driver's connection.

    It takes another one at its next use, which may be within an inner scope.
    """
    scope = checkout.scope
    connection.__dict__[_OWNER] = (
        (lambda: None) if scope is None else weakref.ref(scope)
    )


def _scope_of_reconnecting(current: Scope | None) -> Scope | None:
    connection = find_reconnecting()
    owner = None if connection is None else connection.__dict__.get(_OWNER)
    if owner is None:
        return current
    scope: Scope | None = owner()
    return current if scope is not None and scope.ended else scope


def current_endpoint() -> str:
    """Return the endpoint, background task or command that runs now.

    A task that runs within a request (Celery's eager mode) is part of the request.
    """
    context = request_var.get(None)
    request = None if context is None else getattr(context, _REQUEST)
    if request is None and MERGED:
        # There, a context within a request's knows nothing of the request.
        requests = (getattr(each, _REQUEST, None) for each in pushed_contexts())
        request = next((each for each in requests if each is not None), None)
    if request is not None:
        if "flask_socketio" in sys.modules:  # asked here: a call costs a checkout more
            event = socketio_event_name(request)
            if event:
                return event
        return request.endpoint or NO_ROUTE
    response = current_response()
    if response is not None and response.endpoint:
        return response.endpoint
    return current_task_name() or command_name() or OUTSIDE


def command_name() -> str | None:
    """Return the running command, such as ``flask seed``."""
    import click

    found = click.get_current_context(silent=True)
    return None if found is None else found.command_path
