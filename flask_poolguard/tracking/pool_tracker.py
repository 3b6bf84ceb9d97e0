"""Tracks one pool: who has its connections, who waits, and what was counted."""

from __future__ import annotations

import os
import sys
import time
import typing as t
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace

from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..databases import transaction_settings
from ..pool import Attempt, CloseReason, Recycle, Renewable, housekeeper
from ..signals import connection_recycled
from ..state.histogram import SHORTEST
from ..state.writer import NoStateFile
from .callsite import TakenAs, find_callsite
from .checkout import SETTINGS, Checkout, CheckoutScope, PoolInfo
from .claims import ScopeClaim
from .connection_signals import say_recycled
from .counting_callbacks import CountingCallbacks
from .current_scope import current_scope, scope_of_reconnecting
from .endpoint import current_endpoint
from .engine_pools import EnginePools
from .held_warnings import HeldWarnings
from .pool_facts import PoolFacts
from .pool_figures import PoolFigures
from .returners import Returners
from .running_lines import note_running_lines
from .server_outage import ServerOutage
from .sized_pool import SizedPool
from .thread_marks import deserted, this_thread

if t.TYPE_CHECKING:
    from flask import Flask

    from ..databases import Database

_monotonic = time.monotonic

# Each look into an enumeration costs a checkout 0.1 µs (CPython 3.11).
_AGAIN: t.Final = TakenAs.AGAIN

# An engine's dialect stays the same through dispose() and execution_options(), and goes
# with it: a table of trackers, which know connections, would keep all engines alive.
_ON_DIALECT: t.Final = "_poolguard_tracker"


def tracker_of(engine: Engine) -> PoolTracker | None:
    """Return the tracker of an engine's pool, None if it has no guard."""
    return engine.dialect.__dict__.get(_ON_DIALECT)


def attach_tracker(engine: Engine, tracker: PoolTracker) -> None:
    """Let a tracker be found by its engine, and know whether that is in use."""
    engine.dialect.__dict__[_ON_DIALECT] = tracker
    tracker.pools.belong_to(engine)


class PoolTracker(SizedPool, CountingCallbacks):
    """Who has which connection of one bind's pool; the callbacks of that pool.

    What is counted is protected by the lock of ``figures``.

    :ivar on_deserted: gives back what ended threads took without popping a context.
    :ivar state_dir: ``POOLGUARD_STATE_DIR``.
    :ivar options: what the user set on the engine before it was guarded, by setting.
    """

    def __init__(
        self,
        app: Flask,
        facts: PoolFacts,
        database: Database,
        on_leak: str,
        open_file: t.Callable[[], NoStateFile],
        recycle: Recycle,
        held_warning: float | None = None,
    ) -> None:
        self.pools = EnginePools()
        super().__init__(
            PoolInfo(weakref.ref(app), app.root_path, database, facts, on_leak),
            PoolFigures(facts, recycle, held_warning, self.pools.obstacle),
            open_file,
        )
        self._held_warnings = HeldWarnings(held_warning)
        self.on_deserted: Callable[[], None] | None = None
        self.options: Mapping[str, t.Any] = {}
        self.state_dir: str | None = None
        self._start()
        housekeeper.add(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self.out = {}
        self.left_behind = set()
        self.usage = self.figures.usage
        self._uses = self.usage.durations.use
        self.returners: Returners = Returners()
        self._held_warnings.forget()
        self.outage = ServerOutage()

    def follow(self, on_leak: str, held_warning: float | None) -> None:
        """Follow settings that were changed."""
        self.info = replace(self.info, on_leak=on_leak)
        self._held_warnings.limit = self.figures.held_warning = held_warning

    # The engine ------------------------------------------------------------------

    def is_over(self) -> bool:
        """Tell whether the engine is gone, and nothing that it gave out is in use."""
        return self.pools.is_gone() and all(
            each.fairy() is None for each in list(self.out.values())
        )

    def renew(self, number: int) -> None:
        """Replace all connections, each as soon as it is not in use, and show that.

        Those of a database within the process are left alone: its data lives in them.

        :param number: of the request, as ``recycle_requests.new_number`` makes them.
        """
        if not self.facts.in_memory:
            self.pools.renew(self.facts.bind)
        with self.figures.lock:
            self.usage.renewed = max(number, self.usage.renewed)
            self.usage.outdated = self._count_outdated()
            self.figures.write()

    def _count_outdated(self) -> int:
        return 0 if self.facts.in_memory else self.pools.outdated()

    # The pool's callbacks --------------------------------------------------------

    def began(self, pool: Renewable) -> None:
        """Note a pool of the engine."""
        self.pools.add(pool)

    def connected(self, record: ConnectionPoolEntry) -> None:
        """Count a new connection."""
        housekeeper.start()
        if self.outage.is_on:
            self.outage.is_over(self.app)
        record.info[SETTINGS] = transaction_settings(record.dbapi_connection)
        self.pools.note_use(record)
        self._show_connected(record)
        with self.figures.lock:
            seconds = getattr(record, "connect_seconds", None)
            if seconds is not None:
                self.usage.durations.create.add(seconds)
            self.figures.count("connects")

    def took(
        self,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        is_counted: bool = False,
    ) -> None:
        """Note who has it."""
        mark = this_thread.mark
        scope: CheckoutScope | None = current_scope()
        callsite = find_callsite(2)  # past this, and the pool's connect()
        if callsite.taken_as is _AGAIN:
            scope = scope_of_reconnecting(scope)
        checkout = Checkout(
            self, record, fairy, mark.ref, callsite, current_endpoint(), scope
        )
        if checkout.taken_at > housekeeper.overdue_at:
            housekeeper.catch_up()
        usage, figures, out = self.usage, self.figures, self.out
        # With the first checkout after each time that the usage was written.
        if usage.is_shown and "gevent" in sys.modules and not self.facts.is_async:
            usage.look_for_blockers(record.dbapi_connection)
        if not self.info.facts.counted:
            self.forget_closed()  # no callback told of their return
            out[id(fairy)] = checkout
            return
        out[record] = checkout
        count = len(out)
        if scope is not None and len(scope.checkouts) > 1:
            nested = self.count_nested(scope, mark)
            if nested > usage.nesting:
                usage.nested(nested)
        elif not usage.nesting:
            usage.nested(1)
        if is_counted:
            usage.is_shown = False
        else:
            usage.took(count + figures.waiting)
        region = figures.region or self.region
        if not region.show_out(record, checkout, mark.name):
            checkout.is_listed = False
            figures.count("unlisted_out")
            figures.count("unlisted_checkouts")
        if count > figures.peak:
            figures.saw_out(count)

    def gave(self, record: ConnectionPoolEntry) -> None:
        """Note that it is back."""
        if not self.info.facts.counted:
            return  # one record for all: the proxies tell which are valid
        checkout, now = self.out.pop(record, None), _monotonic()
        if checkout is not None:
            uses, held = self._uses, now - checkout.taken_at
            if held <= SHORTEST:  # a call less, on the fast path
                uses.counts[0] += 1
                uses.seconds += held
            else:
                uses.add(held)
            if checkout.scope is not None:
                checkout.scope.checkouts.discard(checkout)
            if self.left_behind:
                self.left_behind.discard(checkout)
            if checkout.is_reported:
                self._held_warnings.came_back(checkout)
        region = self.figures.region or self.region
        if record.dbapi_connection is None:
            region.release(record)
        elif not region.show_idle(record, now):
            self._show_connected(record)  # there may be a free slot by now
            region.show_idle(record, now)
        if checkout is not None and not checkout.is_listed:
            self.figures.count("unlisted_out", -1)

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason | None) -> None:
        """Count a closed connection; None if the reason is not known."""
        if record not in self.out:
            self.region.release(record)
        if reason is not None:
            self.figures.count(reason)
            if connection_recycled.receivers:
                say_recycled(self, record, reason)

    def began_waiting(self, out: int) -> ScopeClaim:
        """Note one more waiter; its request, command or task counts."""
        if deserted and self.on_deserted is not None:
            self.on_deserted()
        claim, scope, nested = ScopeClaim(), current_scope(), 1
        if scope is not None and scope.checkouts:
            nested += self.count_nested(scope, this_thread.mark)
        # Those of a pool that this one replaced are out as well.
        self.figures.began_waiting(claim, max(out, len(self.out)), nested)
        return claim

    def began_connecting(self, attempt: Attempt, out: int) -> None:
        """Note one more for which a connection is tested or opened."""
        housekeeper.start()
        _ = self.figures.region or self.region
        self.figures.began_connecting(attempt, out, len(self.out))

    def forked(self) -> None:
        """Start anew in a child: several parts find that out, each in its own time."""
        if self._pid == os.getpid():
            return
        inherited = 0
        if not self.facts.in_memory:
            region = self.figures.region
            inherited = 0 if region is None else region.connections
            for checkout in [*self.out.values(), *self.left_behind]:
                checkout.orphan()
        self.figures.reset()
        self._start()
        self.usage.inherited = inherited
        self.start_sizes(None)

    def tend(self) -> None:
        """Warn of what is due, and show it; the housekeeper calls it."""
        self.returners.tend()
        if self.usage.renewed:
            self.usage.saw_outdated(self._count_outdated())
        note_running_lines(self, self.figures)
        self.figures.tend()
        self.tend_sizes()
        if not self.facts.counted:
            self.forget_closed()
        self._held_warnings.tend(self)
