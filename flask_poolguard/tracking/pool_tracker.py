"""Tracks one pool: its checkouts, waiters, counters, and what the state file shows."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import typing as t
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

from ..databases import transaction_settings
from ..errors import PoolTimeout
from ..pool import (
    Attempt,
    Claim,
    CloseReason,
    Holders,
    Obstacle,
    PoolCallbacks,
    Recycle,
    Renewable,
    find_troubles,
    housekeeper,
)
from ..state.layout import COUNTS, KEPT, LEAKS
from ..state.pool_section import PoolFacts, PoolSection
from ..state.usage import Usage
from ..state.writer import NoStateFile
from .callsite import Taken, find_place
from .checkout import SETTINGS, Checkout, CheckoutScope, PoolCheckouts, PoolInfo
from .deadlocks import ScopeClaim, describe_holders, find_deadlock
from .endpoint import current_endpoint
from .held_warnings import HeldWarnings
from .scope import current_scope, scope_of_reconnecting
from .thread_marks import ThreadMark, count_threads, deserted, live_marks, this_thread

if t.TYPE_CHECKING:
    from flask import Flask

    from ..databases import Database

logger = logging.getLogger("flask_poolguard")

_monotonic = time.monotonic
# Each look into an enumeration costs a checkout 0.1 µs (CPython 3.11).
_AGAIN: t.Final = Taken.AGAIN

# Seconds between two writes of who waits; a change in between is shown by the
# housekeeper's next round.
_OFTEN: t.Final = 0.1

# An engine's dialect stays the same through dispose() and execution_options(). The
# tracker hangs on it, so that both go when the engine goes: a table of all trackers
# would keep every engine alive, because a tracker knows its connections.
_ON_DIALECT: t.Final = "_poolguard_ledger"


def tracker_of(engine: Engine) -> PoolTracker | None:
    """Return the tracker of an engine's pool, None if it has no guard."""
    return engine.dialect.__dict__.get(_ON_DIALECT)


def attach_tracker(engine: Engine, tracker: PoolTracker) -> None:
    """Let a tracker be found by its engine, and know whether that is in use."""
    engine.dialect.__dict__[_ON_DIALECT] = tracker
    tracker.belong_to(engine)


class PoolTracker(PoolCheckouts, PoolCallbacks, Holders):
    """Who has which connection of one bind's pool; the callbacks of that pool.

    ``_lock`` protects the counters, the waiters and the order in which they are
    written to the state file (in memory, about half a microsecond). It is
    re-entrant because a garbage collection inside may return a connection.
    ``out`` is only ever changed by single operations of a dict. Its keys are the
    pool's records, or where all share one (``StaticPool``) the ``id`` of each proxy.

    :ivar is_hidden: its engine was unregistered: its connections are guarded as ever,
        but nothing of them is shown.
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
        super().__init__(
            PoolInfo(weakref.ref(app), app.root_path, database, facts, on_leak)
        )
        self._held_warnings = HeldWarnings(held_warning)
        self._open_file = open_file
        # Gives back what threads took that ended without popping their context.
        self.on_deserted: Callable[[], None] | None = None
        self._recycle = recycle
        self._server_limit: float | None = None
        self._learned_limit: float | None = None
        # What the user set on the engine before it was guarded, by setting name.
        self.options: Mapping[str, t.Any] = {}
        # The engine's pool, and those before it that still have connections out.
        self._pools: weakref.WeakSet[Renewable] = weakref.WeakSet()
        self._engine: weakref.ref[Engine] | None = None
        self.is_hidden = False
        self._pool_in_use: weakref.ref[Pool] | Callable[[], None] = lambda: None
        self._start()
        housekeeper.add(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self.out = {}
        self.left_behind = set()
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(COUNTS, 0)
        self._peak = 0
        self._leaks: dict[tuple[str, str], int] = {}
        self.usage = Usage()
        count_threads(self.usage)
        # A set, of which the values mean nothing.
        self._waiting: dict[ScopeClaim, None] = {}
        # Likewise. One that an asynchronous exception ended is collected, and gone.
        self._connecting: weakref.WeakKeyDictionary[Attempt, None]
        self._connecting = weakref.WeakKeyDictionary()
        self._obstacle: Obstacle | None = None
        self._queue_shown_at = -math.inf
        self._is_queue_stale = self._is_queue_shown = False
        self._section: PoolSection | None = None
        self._held_warnings.forget()

    @property
    def database(self) -> Database:
        """What is known of the server's family."""
        return self.info.database

    @property
    def facts(self) -> PoolFacts:
        """What does not change while the pool lives."""
        return self.info.facts

    def follow(self, on_leak: str, held_warning: float | None) -> None:
        """Follow settings that were changed."""
        self.info = replace(self.info, on_leak=on_leak)
        self._held_warnings.limit = held_warning

    @property
    def held_warning(self) -> float | None:
        """``POOLGUARD_HELD_WARNING`` in seconds; None for no warning."""
        return self._held_warnings.limit

    @property
    def waiting(self) -> int:
        """The number of threads that wait for a connection."""
        return len(self._waiting)

    def figure(self, name: str) -> int:
        """Return one of the counters by its name in ``layout.COUNTS``."""
        return self._counts[name]

    @property
    def section(self) -> PoolSection:
        """This pool's part of the process's state file, made with the first event."""
        if self._section is None:
            file = self._open_file()  # which may log
            with self._lock:
                if self._section is None:
                    if self.is_hidden:
                        file = NoStateFile()
                    self._section = PoolSection(file, self.facts, self._lost)
                    self._show_figures()
                    self._show_waiting(soon=False)
                    self._show_usage()
                    self._section.publish()
                return self._section
        return self._section

    # The engine ------------------------------------------------------------------

    def belong_to(self, engine: Engine) -> None:
        """Note which engine has the pool, without keeping it alive."""
        if self._engine is None:
            self._engine = weakref.ref(engine)
        self.uses(engine)

    def uses(self, engine: Engine) -> None:
        """Note which pool the engine has now; ``dispose()`` gives it another."""
        self._pool_in_use = weakref.ref(engine.pool)

    def is_disposed(self) -> bool:
        """Tell whether the engine was disposed of, and has not connected since.

        The engine's own event for that would slow down each of its statements.
        """
        engine = None if self._engine is None else self._engine()
        return engine is not None and self._pool_in_use() is not engine.pool

    def is_over(self) -> bool:
        """Tell whether the engine is gone, and nothing that it gave out is in use."""
        if self._engine is None or self._engine() is not None:
            return False
        return all(each.fairy() is None for each in list(self.out.values()))

    def hide(self) -> None:
        """Show no other process this pool any more."""
        self.is_hidden = True
        self._drop_section()

    def show_again(self, facts: PoolFacts) -> None:
        """Show a pool that was hidden.

        What is out has no slot in its new part of the file, and is only counted.
        """
        self.info = replace(self.info, facts=facts)
        with self._lock:
            for checkout in list(self.out.values()):
                if self.facts.counted and checkout.is_listed:
                    checkout.is_listed = False
                    self._counts["slotless_out"] += 1
        self.is_hidden = False
        self._drop_section()
        if self._counts["connects"]:  # else with the first event, as ever
            _ = self.section

    def _drop_section(self) -> None:
        with self._lock:
            section, self._section = self._section, None
        if section is not None:
            section.close()

    # Replacing all connections ---------------------------------------------------

    def renew(self, number: int) -> None:
        """Replace all connections, each as soon as it is not in use, and show that.

        Those of a database within the process are left alone: its data lives in them.

        :param number: of the request, as ``renewal.new_number`` makes them.
        """
        with self._lock:
            pools = [] if self.facts.in_memory else list(self._pools)
        for pool in pools:
            try:
                pool.renew()
            except Exception:
                logger.warning(
                    "Closing the connections of bind %r failed; the next round of the"
                    " housekeeper goes on with it",
                    self.facts.bind,
                    exc_info=True,
                )
        with self._lock:
            self.usage.renewed = max(number, self.usage.renewed)
            self.usage.outdated = self._count_outdated()
            self._show_usage()

    def _count_outdated(self) -> int:
        """Return how many connections are older than that. Called under ``_lock``."""
        if self.facts.in_memory:
            return 0
        return sum(pool.outdated() for pool in list(self._pools))

    # The pool's callbacks --------------------------------------------------------

    def began(self, pool: Renewable) -> None:
        """Note a pool of the engine."""
        with self._lock:
            self._pools.add(pool)

    def connected(self, record: ConnectionPoolEntry) -> None:
        """Count a new connection."""
        housekeeper.start()
        record.info[SETTINGS] = transaction_settings(record.dbapi_connection)
        engine = None if self._engine is None else self._engine()
        if engine is not None:
            self.uses(engine)
        self._show_connected(record)
        self.count("connects")

    def took(
        self,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        is_counted: bool = False,
    ) -> None:
        """Note who has it."""
        mark = this_thread.mark
        scope: CheckoutScope | None = current_scope()
        place = find_place(2)  # past this, and the pool's connect()
        if place.taken is _AGAIN:
            scope = scope_of_reconnecting(scope)
        checkout = Checkout(
            self, record, fairy, mark.ref, place, current_endpoint(), scope
        )
        if checkout.taken_at > housekeeper.overdue_at:
            housekeeper.catch_up()
        usage, out = self.usage, self.out
        # With the first checkout after each time that the usage was written.
        if usage.is_shown and "gevent" in sys.modules:
            self._look_for_troubles(record)
        if not self.info.facts.counted:
            self.forget_closed()  # no callback told of their return
            out[id(fairy)] = checkout
            return
        out[record] = checkout
        count = len(out)
        if scope is not None and len(scope.checkouts) > 1:
            nested = self._count_nested(scope, mark)
            if nested > usage.nesting:
                usage.nested(nested)
        elif not usage.nesting:
            usage.nested(1)
        if is_counted:
            usage.is_shown = False
        else:
            usage.took(count)
        section = self._section or self.section
        if not section.show_out(record, checkout, mark.name):
            checkout.is_listed = False
            self.count("slotless_out")
            self.count("slotless_checkouts")
        if count > self._peak:
            with self._lock:
                self._peak = max(count, self._peak)
                self._counts["peak_checked_out"] = self._peak
                self._show_figures()

    def _count_nested(self, scope: CheckoutScope, mark: ThreadMark) -> int:
        """Return how many of these connections one thread took for a scope.

        Parallel threads may share a scope, and none of them waits for what it has.
        """
        return sum(
            each.pool is self and each.mark is mark.ref
            for each in list(scope.checkouts)
        )

    def gave(self, record: ConnectionPoolEntry) -> None:
        """Note that it is back."""
        if not self.info.facts.counted:
            return  # one record for everybody: the proxies tell which are valid
        checkout = self.out.pop(record, None)
        if checkout is not None:
            if checkout.scope is not None:
                checkout.scope.checkouts.discard(checkout)
            if self.left_behind:
                self.left_behind.discard(checkout)
            if checkout.is_reported:
                self._held_warnings.came_back(checkout)
        section = self._section or self.section
        if record.dbapi_connection is None:
            section.release(record)
        elif not section.show_idle(record):
            self._show_connected(record)  # there may be a free slot by now
            section.show_idle(record)
        if checkout is not None and not checkout.is_listed:
            self.count("slotless_out", -1)

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason | None) -> None:
        """Count a closed connection; None if the reason is not known."""
        if record not in self.out:
            self.section.release(record)
        if reason is not None:
            self.count(reason)

    def _lost(self) -> None:
        """Count a connection that was collected with its record."""
        self.count("closed")

    def began_waiting(self, out: int) -> ScopeClaim:
        """Note one more waiter; its request, command or task counts."""
        if deserted and self.on_deserted is not None:
            self.on_deserted()
        claim, scope, nested = ScopeClaim(), current_scope(), 1
        if scope is not None:
            nested += self._count_nested(scope, this_thread.mark)
        try:
            with self._lock:
                self._waiting[claim] = None
                if nested > self.usage.nesting:
                    self.usage.nested(nested)
                # Those of a pool that this one replaced are out as well.
                self.usage.began_waiting(max(out, len(self.out)) + len(self._waiting))
                self._show_waiting()
        except BaseException:  # no code has the claim to say when that ends
            self._waiting.pop(claim, None)
            self._is_queue_stale = True
            raise
        return claim

    def stopped_waiting(self, claim: Claim) -> None:
        """Note one waiter less."""
        claim = t.cast(ScopeClaim, claim)
        with self._lock:
            if claim not in self._waiting:
                return
            self._is_queue_stale = True
            del self._waiting[claim]
            in_all = _monotonic() - claim.asked_at
            self.usage.waited_for(in_all - claim.waited, in_all)
            claim.waited = in_all
            self._show_waiting()

    def waits_again(self, claim: Claim) -> None:
        """Note a waiter that was there before."""
        claim = t.cast(ScopeClaim, claim)
        with self._lock:
            claim.asked_at = _monotonic() - claim.waited  # without the connect
            self._waiting[claim] = None
            self._show_waiting()

    def timed_out(self) -> None:
        """Count a waiter that got nothing."""
        self.count("timeouts")

    def began_connecting(self, attempt: Attempt, out: int) -> None:
        """Note one more for whom a connection is tested or opened."""
        _ = self._section or self.section
        with self._lock:
            self._connecting[attempt] = None
            if not attempt.is_counted:
                attempt.is_counted = True
                out = max(out, len(self.out) + len(self._connecting))
                self.usage.wanted(out + len(self._waiting))
            # Most are done long before anybody could look.
            self._is_queue_stale = True

    def stopped_connecting(self, attempt: Attempt) -> None:
        """Note one less."""
        with self._lock:
            self._connecting.pop(attempt, None)
            if self._is_queue_shown:
                self._show_waiting()

    def got_none(self) -> None:
        """Count a checkout to which the server gave no connection."""
        self.usage.is_shown = False
        self.count("unavailable")

    def find_deadlock(
        self,
        claim: Claim,
        waiting: Callable[[], Sequence[Claim]],
        opened: int,
        owns: Callable[[ConnectionPoolEntry], bool],
    ) -> tuple[Claim, PoolTimeout] | None:
        """Tell who is to give way, if everybody who has a connection waits."""
        claims = t.cast("Callable[[], Sequence[ScopeClaim]]", waiting)
        return find_deadlock(self, t.cast(ScopeClaim, claim), claims, opened, owns)

    def sessions_out(self) -> Sequence[int]:
        """Return the server's numbers of the sessions that are out."""
        ids = [
            self.database.server_id(record.dbapi_connection)
            for record in [each.record for each in list(self.out.values())]
        ]
        return [each for each in ids if each is not None]

    def held_seconds(self) -> Sequence[float]:
        """Return for how long each connection that is out has been out."""
        now = _monotonic()
        return [now - each.taken_at for each in list(self.out.values())]

    def describe_holders(self, states: Mapping[int, str]) -> str:
        """Say who has the connections, and what they do with them."""
        return describe_holders(self, states)

    def learned(
        self,
        recycle: Recycle,
        server_limit: float | None,
        learned_limit: float | None = None,
    ) -> None:
        """Note the recycle time in force."""
        with self._lock:
            self._recycle = recycle
            self._server_limit = server_limit
            self._learned_limit = learned_limit
            self._show_figures()

    def forked(self) -> None:
        """Start anew in a child; the parent's tracker goes on in the parent.

        Several parts find out about a fork, each in its own time.
        """
        if self._pid == os.getpid():
            return
        inherited = 0
        if not self.facts.in_memory:
            inherited = 0 if self._section is None else self._section.connections
            for checkout in [*self.out.values(), *self.left_behind]:
                checkout.orphan()
        self._start()
        self.usage.inherited = inherited

    # Without traffic --------------------------------------------------------------

    def tend(self) -> None:
        """Warn of connections that are out for too long, and show who waits now; the
        housekeeper calls it.
        """
        if self._is_queue_stale or self._obstacle != self._find_obstacle():
            with self._lock:
                self._show_waiting(soon=False)
        self._tend_usage()
        if not self.facts.counted:
            self.forget_closed()
        self._held_warnings.tend(self)

    # Counting --------------------------------------------------------------------

    def count(self, name: str, by: int = 1) -> None:
        """Change a counter and show it."""
        with self._lock:
            # Never below 0, which no file can show, if an exception came in between.
            self._counts[name] = max(self._counts[name] + by, 0)
            self._show_figures()

    def count_leak(self, checkout: Checkout) -> None:
        """Count a leak under its endpoint and line."""
        where = (checkout.endpoint, checkout.site())
        with self._lock:
            if where in self._leaks or len(self._leaks) < LEAKS:
                self._leaks[where] = self._leaks.get(where, 0) + 1
        self.count("leaks")

    def show_kept(self, checkout: Checkout) -> None:
        """Show that a connection outlives its scope on purpose."""
        if self.out.get(checkout.record) is checkout:
            mark = checkout.mark()
            self.section.show_out(
                checkout.record, checkout, b"" if mark is None else mark.name, KEPT
            )

    def _show_connected(self, record: ConnectionPoolEntry) -> None:
        server_id = self.database.server_id(record.dbapi_connection)
        self.section.show_connected(record, -1 if server_id is None else server_id)

    def _show_waiting(self, soon: bool = True) -> None:
        """Write the queue, if there is a section. Called under ``_lock``.

        A write lets another thread run, which costs a crowded process more than the
        write itself.

        :param soon: now if that was not done lately, else in the next round.
        """
        if self._section is not None:
            now, is_empty = _monotonic(), not (self._waiting or self._connecting)
            # What is over is shown to be at once, or it would seem to last for longer.
            is_soon = soon and not (is_empty and self._is_queue_shown)
            self._is_queue_stale = is_soon and now - self._queue_shown_at < _OFTEN
            if self._is_queue_stale:
                return
            self._queue_shown_at, self._is_queue_shown = now, not is_empty
            self._obstacle = self._find_obstacle()
            self._section.show_waiting(
                [each.asked_at for each in self._waiting],
                [each.began_at for each in list(self._connecting)],
                self._obstacle,
            )

    def _find_obstacle(self) -> Obstacle | None:
        """Return what has kept connections from being made for the longest time."""
        found = [each.obstacle() for each in list(self._pools)]
        return min(filter(None, found), key=lambda each: each.since, default=None)

    def _look_for_troubles(self, record: ConnectionPoolEntry) -> None:
        if not self.facts.is_async:
            found = self.usage.troubles | find_troubles(record.dbapi_connection)
            if found != self.usage.troubles:
                self.usage.troubles = found
                self.usage.is_shown = False

    def _tend_usage(self) -> None:
        usage = self.usage
        usage.saw_threads(len(live_marks))  # those that were there before it, too
        if usage.renewed:
            with self._lock:
                outdated = self._count_outdated()
                if outdated != usage.outdated:
                    usage.outdated = outdated
                    usage.is_shown = False
        if not usage.is_shown or usage.threads != usage.threads_shown:
            with self._lock:
                self._show_usage()

    def _show_usage(self) -> None:
        """Write the usage, if there is a section. Called under ``_lock``."""
        if self._section is not None:
            self.usage.is_shown = True
            self.usage.threads_shown = self.usage.threads
            self._section.show_usage(self.usage)

    def _show_figures(self) -> None:
        """Write the block, if there is a section. Called under ``_lock``."""
        if self._section is not None:
            self._section.show_figures(
                self._counts.values(),
                self._leaks,
                self._recycle.seconds,
                self._recycle.source,
                self._server_limit,
                self._learned_limit,
                self.held_warning,
            )
