"""This process's record of who holds which connection of a pool."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import typing as t
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

from ..databases import transaction_settings
from ..errors import PoolTimeout
from ..pool import (
    Attempt,
    Claim,
    CloseReason,
    Obstacle,
    Recycle,
    Renewable,
    housekeeper,
)
from ..state.layout import COUNTS, KEPT, LEAKS
from ..state.pool_block import PoolFacts, PoolPage
from ..state.usage import Usage
from ..state.writer import NoStateFile
from .checkout import SETTINGS, Holding
from .deadlocks import ScopeClaim, describe_holders, find_deadlock
from .greenlet_blockers import find_troubles
from .scope import (
    Scope,
    ThreadMark,
    count_threads,
    current_scope,
    deserted,
    live_marks,
    this_thread,
)
from .thread_stacks import format_stack

if t.TYPE_CHECKING:
    from flask import Flask

    from ..databases import Database

logger = logging.getLogger("flask_poolguard")

_monotonic = time.monotonic

# Seconds between two writes of who waits; a change in between is shown by the
# housekeeper's next round.
_OFTEN: t.Final = 0.1

# An engine's dialect stays the same through dispose() and execution_options(). The
# ledger hangs on it, so that both go when the engine goes: a table of all ledgers
# would keep every engine alive, because a ledger knows its connections.
_ON_DIALECT: t.Final = "_poolguard_ledger"


def ledger_of(engine: Engine) -> PoolLedger | None:
    """Return the books of an engine's pool, None if it has no guard."""
    return engine.dialect.__dict__.get(_ON_DIALECT)


def keep_ledger(engine: Engine, ledger: PoolLedger) -> None:
    """Let a ledger be found by its engine, and know whether that is in use."""
    engine.dialect.__dict__[_ON_DIALECT] = ledger
    ledger.belong_to(engine)


class PoolLedger:
    """The books of one bind's pool, and the observer of that pool.

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
        self._app = weakref.ref(app)
        self.root_path = app.root_path
        self.facts = facts
        self.database = database
        self.on_leak = on_leak
        self.held_warning = held_warning
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
        self.out: dict[ConnectionPoolEntry | int, Holding] = {}
        # Left to live threads at the end of their scope.
        self.left_behind: set[Holding] = set()
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(COUNTS, 0)
        self._peak = 0
        self._leaks: dict[tuple[str, str], int] = {}
        self.usage = Usage()
        count_threads(self.usage)
        # A set, of which the values mean nothing.
        self._waiting: dict[ScopeClaim, None] = {}
        # Likewise. Whoever was struck down in the middle is collected, and gone here.
        self._connecting: weakref.WeakKeyDictionary[Attempt, None]
        self._connecting = weakref.WeakKeyDictionary()
        self._obstacle: Obstacle | None = None
        self._queue_shown_at = -math.inf
        self._is_queue_stale = self._is_queue_shown = False
        self._page: PoolPage | None = None
        # Reported as held for too long, and when they came back.
        self._back: deque[tuple[Holding, float]] = deque()

    @property
    def app(self) -> Flask | None:
        """The app, None once it is gone."""
        return self._app()

    @property
    def waiting(self) -> int:
        """The number of those who wait for a connection."""
        return len(self._waiting)

    def figure(self, name: str) -> int:
        """Return one of the counters by its name in ``layout.COUNTS``."""
        return self._counts[name]

    @property
    def page(self) -> PoolPage:
        """This pool's part of the process's state file, made with the first event."""
        if self._page is None:
            file = self._open_file()  # which may log
            with self._lock:
                if self._page is None:
                    if self.is_hidden:
                        file = NoStateFile()
                    self._page = PoolPage(file, self.facts, self._lost)
                    self._show_figures()
                    self._show_waiting(soon=False)
                    self._show_usage()
                    self._page.publish()
                return self._page
        return self._page

    # The engine ------------------------------------------------------------------

    def belong_to(self, engine: Engine) -> None:
        """Note whose pool these are the books of, without keeping it alive."""
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
        self._drop_page()

    def show_again(self, facts: PoolFacts) -> None:
        """Show a pool that was hidden.

        What is out has no slot in its new part of the file, and is only counted.
        """
        self.facts = facts
        with self._lock:
            for holding in list(self.out.values()):
                if self.facts.counted and holding.is_listed:
                    holding.is_listed = False
                    self._counts["slotless_out"] += 1
        self.is_hidden = False
        self._drop_page()
        if self._counts["connects"]:  # else with the first event, as ever
            _ = self.page

    def _drop_page(self) -> None:
        with self._lock:
            page, self._page = self._page, None
        if page is not None:
            page.close()

    # Replacing all connections ---------------------------------------------------

    def renew(self, number: int) -> None:
        """Replace all connections, each as soon as nobody has it, and show that.

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

    # The pool's observer ---------------------------------------------------------

    def began(self, pool: Renewable) -> None:
        """Note whose connections are kept in these books."""
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
        holding = Holding(self, record, fairy, mark.ref)
        if holding.taken_at > housekeeper.overdue_at:
            housekeeper.catch_up()
        usage, out = self.usage, self.out
        # With the first checkout after each time that the usage was written.
        if usage.is_shown and "gevent" in sys.modules:
            self._look_for_troubles(record)
        if not self.facts.counted:
            self._forget_closed()  # nobody told of their return
            out[id(fairy)] = holding
            return
        out[record] = holding
        count, scope = len(out), holding.scope
        if scope is not None and len(scope.holdings) > 1:
            nested = self._count_nested(scope, mark)
            if nested > usage.nesting:
                usage.nested(nested)
        elif not usage.nesting:
            usage.nested(1)
        if is_counted:
            usage.is_shown = False
        else:
            usage.took(count)
        page = self._page or self.page
        if not page.show_out(record, holding, mark.name):
            holding.is_listed = False
            self.count("slotless_out")
            self.count("slotless_checkouts")
        if count > self._peak:
            with self._lock:
                self._peak = max(count, self._peak)
                self._counts["peak_checked_out"] = self._peak
                self._show_figures()

    def _count_nested(self, scope: Scope, mark: ThreadMark) -> int:
        """Return how many of these connections one thread took for a scope.

        Parallel threads may share a scope, and none of them waits for what it has.
        """
        return sum(
            each.ledger is self and each.mark is mark.ref
            for each in list(scope.holdings)
        )

    def gave(self, record: ConnectionPoolEntry) -> None:
        """Note that it is back."""
        if not self.facts.counted:
            return  # one record for everybody: the proxies tell which are valid
        holding = self.out.pop(record, None)
        if holding is not None:
            if holding.scope is not None:
                holding.scope.holdings.discard(holding)
            if self.left_behind:
                self.left_behind.discard(holding)
            if holding.is_reported:
                # Said by the next round: a log handler may need this very slot.
                self._back.append((holding, _monotonic()))
        page = self._page or self.page
        if record.dbapi_connection is None:
            page.release(record)
        elif not page.show_idle(record):
            self._show_connected(record)  # there may be a free slot by now
            page.show_idle(record)
        if holding is not None and not holding.is_listed:
            self.count("slotless_out", -1)

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason | None) -> None:
        """Count a closed connection; None if the reason is not known."""
        if record not in self.out:
            self.page.release(record)
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
        except BaseException:  # nobody has the claim to say when that ends
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
        _ = self._page or self.page
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
        """Start new books in a child; the parent's go on in the parent.

        Several parts find out about a fork, each in its own time.
        """
        if self._pid == os.getpid():
            return
        inherited = 0
        if not self.facts.in_memory:
            inherited = 0 if self._page is None else self._page.connections
            for holding in [*self.out.values(), *self.left_behind]:
                holding.orphan()
        self._start()
        self.usage.inherited = inherited

    # Held for too long -----------------------------------------------------------

    def tend(self) -> None:
        """Warn of connections that are out for too long, and show who waits now; the
        housekeeper calls it.
        """
        if self._is_queue_stale or self._obstacle != self._find_obstacle():
            with self._lock:
                self._show_waiting(soon=False)
        self._tend_usage()
        if not self.facts.counted:
            self._forget_closed()
        limit, now = self.held_warning, _monotonic()
        if limit is None:
            return
        while self._back:
            self._say_it_is_back(*self._back.popleft())
        for holding in list(self.out.values()):
            held = now - holding.taken_at
            is_said = holding.is_reported or holding.is_kept
            if held < limit or is_said or holding.fairy() is None:
                continue
            if holding.is_at_prompt():
                continue  # a warning would come between what is typed
            holding.is_reported = True
            logger.warning(
                "%s has held a connection of bind %r for %.0f s, since it took it at"
                " %s. Give it back before slow work that needs no database, or raise"
                " POOLGUARD_HELD_WARNING (now %g). Its thread is here:\n%s",
                holding.endpoint,
                self.facts.bind,
                held,
                holding.site(),
                limit,
                format_stack(holding.mark()) or "  (that is not known)",
            )

    def _forget_closed(self) -> None:
        """Forget what was given back unseen, as it is where all share a connection:
        it would keep the pool alive, and the engine with it.
        """
        for key, holding in list(self.out.items()):
            if holding.fairy() is None and self.out.get(key) is holding:
                self.out.pop(key, None)
                self.forget(holding)

    def _say_it_is_back(self, holding: Holding, when: float) -> None:
        logger.warning(
            "The connection of bind %r that %s took at %s is back after %.0f s.",
            self.facts.bind,
            holding.endpoint,
            holding.site(),
            when - holding.taken_at,
        )

    def holding_of(self, proxy: PoolProxiedConnection | None) -> Holding | None:
        """Return what is known of a proxy of one of the pool's connections."""
        record = getattr(proxy, "_connection_record", None)
        if record is None:  # it was closed, or detached
            return None
        return self.out.get(record if self.facts.counted else id(proxy))

    def is_shared(self, holding: Holding) -> bool:
        """Tell whether others use the very same driver's connection, as they do where
        a pool has one for all, or one for all in a thread.
        """
        proxy = holding.fairy()
        # Private; the same in SQLAlchemy 2.0.31 and 2.1.9.
        if proxy is not None and getattr(proxy, "_counter", 1) > 1:
            return True
        return not self.facts.counted and any(
            each is not holding and each.fairy() is not None
            for each in list(self.out.values())
            if each.record is holding.record
        )

    # Counting --------------------------------------------------------------------

    def count(self, name: str, by: int = 1) -> None:
        """Change a counter and show it."""
        with self._lock:
            # Never below 0, which no file can show, if something struck in between.
            self._counts[name] = max(self._counts[name] + by, 0)
            self._show_figures()

    def count_leak(self, holding: Holding) -> None:
        """Count a leak under its endpoint and line."""
        where = (holding.endpoint, holding.site())
        with self._lock:
            if where in self._leaks or len(self._leaks) < LEAKS:
                self._leaks[where] = self._leaks.get(where, 0) + 1
        self.count("leaks")

    def show_kept(self, holding: Holding) -> None:
        """Show that a connection outlives its scope on purpose."""
        if self.out.get(holding.record) is holding:
            mark = holding.mark()
            self.page.show_out(
                holding.record, holding, b"" if mark is None else mark.name, KEPT
            )

    def forget(self, holding: Holding) -> None:
        """Stop accounting for a holding without touching its connection."""
        self.left_behind.discard(holding)
        holding.release()

    def _show_connected(self, record: ConnectionPoolEntry) -> None:
        server_id = self.database.server_id(record.dbapi_connection)
        self.page.show_connected(record, -1 if server_id is None else server_id)

    def _show_waiting(self, soon: bool = True) -> None:
        """Write the queue, if there is a page. Called under ``_lock``.

        A write lets another thread run, which costs a crowded process more than the
        write itself.

        :param soon: now if that was not done lately, else in the next round.
        """
        if self._page is not None:
            now, is_empty = _monotonic(), not (self._waiting or self._connecting)
            # What is over is shown to be at once, or it would seem to last for longer.
            is_soon = soon and not (is_empty and self._is_queue_shown)
            self._is_queue_stale = is_soon and now - self._queue_shown_at < _OFTEN
            if self._is_queue_stale:
                return
            self._queue_shown_at, self._is_queue_shown = now, not is_empty
            self._obstacle = self._find_obstacle()
            self._page.show_waiting(
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
        """Write the usage, if there is a page. Called under ``_lock``."""
        if self._page is not None:
            self.usage.is_shown = True
            self.usage.threads_shown = self.usage.threads
            self._page.show_usage(self.usage)

    def _show_figures(self) -> None:
        """Write the block, if there is a page. Called under ``_lock``."""
        if self._page is not None:
            self._page.show_figures(
                self._counts.values(),
                self._leaks,
                self._recycle.seconds,
                self._recycle.source,
                self._server_limit,
                self._learned_limit,
                self.held_warning,
            )
