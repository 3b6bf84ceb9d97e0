"""This process's record of who holds which connection of a pool."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import typing as t
import weakref
from collections.abc import Mapping

from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..pool import CloseReason, InheritedConnection, Recycle, keep_from_finalising
from .callsite import describe_callsite, find_callsite
from .layout import COUNTS, LEAKS
from .page import PoolFacts, PoolPage
from .scope import (
    MERGED,
    ThreadMark,
    current_response,
    current_scope,
    pushed_contexts,
    request_var,
    this_thread,
)

if t.TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.orm import Session

    from ..databases import Database
    from .statefile import NoStateFile

_monotonic = time.monotonic

# Where a context keeps its request.
_REQUEST: t.Final = "_request" if MERGED else "request"

# A request that matches no route. Not its path: there is no end of paths, and each
# name takes room in the state file.
NO_ROUTE: t.Final = "(no route)"

# What a holding is called that belongs to no request and no command.
OUTSIDE: t.Final = "(outside any request)"


# An engine's dialect stays the same through dispose() and execution_options(). The
# ledger hangs on it, so that both go when the engine goes: a table of all ledgers
# would keep every engine alive, because a ledger knows its connections.
_ON_DIALECT: t.Final = "_poolguard_ledger"


def ledger_of(engine: Engine) -> PoolLedger | None:
    """Return the books of an engine's pool, None if it has no guard."""
    return engine.dialect.__dict__.get(_ON_DIALECT)


def keep_ledger(engine: Engine, ledger: PoolLedger) -> None:
    """Let a ledger be found by its engine."""
    engine.dialect.__dict__[_ON_DIALECT] = ledger


class Holding:
    """One connection that is out: where, since when, for whom."""

    __slots__ = (
        "_fairy",
        "endpoint",
        "filename",
        "is_listed",
        "ledger",
        "line",
        "mark",
        "record",
        "scope",
        "session",
        "taken_at",
    )

    def __init__(
        self,
        ledger: PoolLedger,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        mark: weakref.ref[ThreadMark],
    ) -> None:
        self.ledger = ledger
        self.record = record
        self._fairy = weakref.ref(fairy)
        self.mark = mark
        self.taken_at = _monotonic()
        self.is_listed = True  # in the state file, unless that has no slot left
        # Past this, took() and the pool's connect().
        self.filename, self.line = find_callsite(3)
        self.endpoint = current_endpoint()
        self.session: weakref.ref[Session] | None = None
        self.scope = scope = current_scope()
        if scope is not None:
            scope.holdings.add(self)

    def fairy(self) -> PoolProxiedConnection | None:
        """Return SQLAlchemy's proxy of the connection, None once it was closed."""
        fairy = self._fairy()
        return fairy if fairy is not None and fairy.is_valid else None

    def is_mine(self) -> bool:
        """Tell whether this thread took it, or one that has ended since."""
        mark = self.mark()
        return mark is None or mark is this_thread.mark

    def is_of(self, session: object) -> bool:
        """Tell whether this ORM session works on it."""
        return self.session is not None and self.session() is session

    def is_in_mid_query(self) -> bool:
        """Tell whether an answer is still to be read."""
        fairy = self.fairy()
        return fairy is not None and self.ledger.database.is_in_mid_query(
            fairy.dbapi_connection
        )

    def site(self) -> str:
        """Return ``file:line`` of the checkout."""
        return describe_callsite(self.filename, self.line, self.ledger.root_path)

    def end_session(self) -> None:
        """Roll back the ORM session that works on this connection, so that nobody
        inherits its state; one that cannot even do that is invalidated.

        Not closed: a session that an app keeps, one per thread for example, would
        lose its objects, which without the guard can be loaded again.
        """
        session = None if self.session is None else self.session()
        if session is not None:
            try:
                session.rollback()
            except Exception:
                session.invalidate()

    def orphan(self) -> None:
        """Make an inherited connection unusable in a child, without a word to the
        server.
        """
        fairy = self._fairy()
        keep_from_finalising((self, fairy, self.record.dbapi_connection))
        self.record.dbapi_connection = None  # type: ignore[misc] # declared wrongly
        if fairy is not None and fairy.is_valid:
            fairy.dbapi_connection = InheritedConnection(os.getppid())  # type: ignore[misc,assignment] # has what a child may call
        if self.scope is not None:
            self.scope.holdings.discard(self)


class PoolLedger:
    """The books of one bind's pool, and the observer of that pool.

    ``_lock`` protects the counters, the waiters and the order in which they are
    written to the state file (in memory, about half a microsecond). It is
    re-entrant because a garbage collection inside may return a connection.
    ``out`` is only ever changed by single operations of a dict.
    """

    def __init__(
        self,
        app: Flask,
        facts: PoolFacts,
        database: Database,
        on_leak: str,
        open_file: t.Callable[[], NoStateFile],
        recycle: Recycle,
    ) -> None:
        self._app = weakref.ref(app)
        self.root_path = app.root_path
        self.facts = facts
        self.database = database
        self.on_leak = on_leak
        self._open_file = open_file
        self._recycle = recycle
        self._server_limit: float | None = None
        # What the user set on the engine before it was guarded, by setting name.
        self.options: Mapping[str, t.Any] = {}
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self.out: dict[ConnectionPoolEntry, Holding] = {}
        # Left to live threads at the end of their scope.
        self.left_behind: set[Holding] = set()
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(COUNTS, 0)
        self._peak = 0
        self._leaks: dict[tuple[str, str], int] = {}
        self._waiting: dict[int, float] = {}
        self._tickets = itertools.count()
        self._page: PoolPage | None = None

    @property
    def app(self) -> Flask | None:
        """The app, None once it is gone."""
        return self._app()

    def figure(self, name: str) -> int:
        """Return one of the counters by its name in ``layout.COUNTS``."""
        return self._counts[name]

    @property
    def page(self) -> PoolPage:
        """This pool's part of the process's state file, made with the first event."""
        if self._page is None:
            with self._lock:
                if self._page is None:
                    self._page = PoolPage(self._open_file(), self.facts)
                    self._show_figures()
        return self._page

    # The pool's observer ---------------------------------------------------------

    def connected(self, record: ConnectionPoolEntry) -> None:
        """Count a new connection."""
        self._show_connected(record)
        self.count("connects")

    def took(self, record: ConnectionPoolEntry, fairy: PoolProxiedConnection) -> None:
        """Note who has it."""
        mark = this_thread.mark
        holding = Holding(self, record, fairy, mark.ref)
        if not self.facts.counted:
            before = self.out.get(record)
            if before is not None and before.fairy() is None:
                self.forget(before)  # nobody told of its return
            self.out[record] = holding
            return
        self.out[record] = holding
        page = self._page or self.page
        if not page.show_out(record, holding, mark.name):
            holding.is_listed = False
            self.count("slotless_out")
            self.count("slotless_checkouts")
        if len(self.out) > self._peak:
            with self._lock:
                self._peak = max(len(self.out), self._peak)
                self._counts["peak_checked_out"] = self._peak
                self._show_figures()

    def gave(self, record: ConnectionPoolEntry) -> None:
        """Note that it is back."""
        if not self.facts.counted:
            # One record for everybody: the scope's end sees which proxies are valid.
            return
        holding = self.out.pop(record, None)
        if holding is not None:
            if holding.scope is not None:
                holding.scope.holdings.discard(holding)
            if self.left_behind:
                self.left_behind.discard(holding)
        page = self._page or self.page
        if record.dbapi_connection is None:
            page.release(record)
        elif not page.show_idle(record):
            self._show_connected(record)  # there may be a free slot by now
            page.show_idle(record)
        if holding is not None and not holding.is_listed:
            self.count("slotless_out", -1)

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason | None) -> None:
        """Count a closed connection."""
        if record not in self.out:
            self.page.release(record)
        if reason is not None:
            self.count(reason)

    def began_waiting(self) -> int:
        """Note one more waiter."""
        ticket = next(self._tickets)
        with self._lock:
            self._waiting[ticket] = _monotonic()
        self.count("waiting")
        return ticket

    def stopped_waiting(self, ticket: object) -> None:
        """Note one waiter less."""
        with self._lock:
            self._waiting.pop(t.cast(int, ticket), None)
        self.count("waiting", -1)

    def timed_out(self) -> None:
        """Count a waiter that got nothing."""
        self.count("timeouts")

    def learned(self, recycle: Recycle, server_limit: float | None) -> None:
        """Note the recycle time in force."""
        with self._lock:
            self._recycle = recycle
            self._server_limit = server_limit
            self._show_figures()

    def forked(self) -> None:
        """Start new books in a child; the parent's go on in the parent.

        Several parts find out about a fork, each in its own time.
        """
        if self._pid == os.getpid():
            return
        if not self.facts.in_memory:
            for holding in [*self.out.values(), *self.left_behind]:
                holding.orphan()
        self._start()

    # Counting --------------------------------------------------------------------

    def count(self, name: str, by: int = 1) -> None:
        """Change a counter and show it."""
        with self._lock:
            self._counts[name] += by
            self._show_figures()

    def count_leak(self, holding: Holding) -> None:
        """Count a leak under its endpoint and line."""
        where = (holding.endpoint, holding.site())
        with self._lock:
            if where in self._leaks or len(self._leaks) < LEAKS:
                self._leaks[where] = self._leaks.get(where, 0) + 1
        self.count("leaks")

    def forget(self, holding: Holding) -> None:
        """Stop accounting for a holding without touching its connection."""
        self.left_behind.discard(holding)
        if holding.scope is not None:
            holding.scope.holdings.discard(holding)

    def _show_connected(self, record: ConnectionPoolEntry) -> None:
        server_id = self.database.server_id(record.dbapi_connection)
        self.page.show_connected(record, -1 if server_id is None else server_id)

    def _show_figures(self) -> None:
        """Write the block, if there is a page. Called under ``_lock``."""
        if self._page is not None:
            self._page.show_figures(
                self._counts.values(),
                self._leaks,
                min(self._waiting.values(), default=math.nan),
                self._recycle.seconds,
                self._recycle.source,
                self._server_limit,
            )


def current_endpoint() -> str:
    """Return the endpoint or command that runs now."""
    context = request_var.get(None)
    request = None if context is None else getattr(context, _REQUEST)
    if request is None and MERGED:
        # There, a context within a request's knows nothing of the request.
        requests = (getattr(each, _REQUEST, None) for each in pushed_contexts())
        request = next((each for each in requests if each is not None), None)
    if request is not None:
        endpoint: str = request.endpoint or NO_ROUTE
        return endpoint
    response = current_response()
    if response is not None and response.endpoint:
        return response.endpoint
    return command_name() or OUTSIDE


def command_name() -> str | None:
    """Return the running command, such as ``flask seed``."""
    import click

    found = click.get_current_context(silent=True)
    return None if found is None else found.command_path
