"""The figures of one pool: counts them, and writes them to the state file."""

from __future__ import annotations

import math
import threading
import time
import typing as t
import weakref
from collections.abc import Callable

from ..log_lines import warn
from ..pool import Attempt, Obstacle, Recycle, housekeeper
from ..state.history import History
from ..state.pool_region import PoolRegion
from ..state.status import PoolStatus
from .claims import ScopeClaim
from .pool_facts import PoolFacts
from .pool_history import PoolHistory
from .pool_status import COUNTERS, RunningLines, status_of, totals_of
from .thread_marks import count_threads, threads_alive
from .usage import UsageCounter

_monotonic = time.monotonic

# Seconds between two writes; what changes in between is shown after as long.
OFTEN: t.Final = 0.1

# Counters of checkouts, and statements, that failed.
_FAILURES: t.Final = ("timeouts", "unavailable", "refused_writes")

# As many lines are told apart that took what was not given back.
_MOST_LINES: t.Final = 16


class PoolFigures:
    """Counts what one pool does, and shows that in its region of the state file.

    ``lock`` protects the counters, the waiters, the region and the order in which they
    are written there. It is re-entrant because a garbage collection inside may return a
    connection. A write takes a tenth of a millisecond, so there are ten a second at
    most. What a checkout adds to ``usage`` waits for the housekeeper's next round.

    :param obstacle: returns what keeps new connections from being made.
    :ivar region: the part of the state file; None before the first event.

    The others are those of :class:`.pool_status.Figures`.
    """

    def __init__(
        self,
        facts: PoolFacts,
        recycle: Recycle,
        held_warning: float | None,
        obstacle: Callable[[], Obstacle | None],
    ) -> None:
        self.facts = facts
        self.recycle = recycle
        self.held_warning = held_warning
        self._find_obstacle = obstacle
        self.server_limit: float | None = None
        self.learned_limit: float | None = None
        self._is_too_long = self._is_said_to_be_too_long = False
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a forked child as well."""
        self.lock = threading.RLock()
        self.region: PoolRegion | None = None
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.peak = self.swings = 0
        self.longest_connect = 0.0
        self.leaking_lines: dict[tuple[str, str], int] = {}
        self.deadlock_line: str | None = None
        self.usage = UsageCounter()
        count_threads(self.usage)
        # A set, of which the values mean nothing.
        self._waiting: dict[ScopeClaim, None] = {}
        # Likewise. One that an asynchronous exception ended is collected, and gone.
        self._connecting = weakref.WeakKeyDictionary[Attempt, None]()
        self._obstacle: Obstacle | None = None
        self._written_at = -math.inf
        self._is_stale = self._shows_unserved = False
        self.running = RunningLines()
        self._history = PoolHistory()
        self._shown_history = History()

    # Counting --------------------------------------------------------------------

    def count(self, name: str, by: int = 1) -> None:
        """Change a counter."""
        with self.lock:
            # Never below 0, which no file can show, if an exception came in between.
            self.counts[name] = max(self.counts[name] + by, 0)
            if name in _FAILURES:
                self._history.failed()
            self.changed()

    def count_leak(self, endpoint: str, site: str) -> None:
        """Count a leak under its endpoint and line."""
        where = (endpoint, site)
        with self.lock:
            if where in self.leaking_lines or len(self.leaking_lines) < _MOST_LINES:
                self.leaking_lines[where] = self.leaking_lines.get(where, 0) + 1
            self.count("leaks")

    def deadlocked(self, line: str | None) -> None:
        """Count a thread that was refused a connection in a deadlock.

        :param line: at which it asked for it; None if that is not the app's own.
        """
        with self.lock:
            self.deadlock_line = line
            self.counts["deadlocks"] += 1
            self.count("timeouts")

    def saw_out(self, connections: int) -> None:
        """Note that so many connections are out at once."""
        if connections > self.peak:
            with self.lock:
                self.peak = max(connections, self.peak)
                self.changed()

    def learned(
        self, recycle: Recycle, server_limit: float | None, learned_limit: float | None
    ) -> None:
        """Note the recycle time in force."""
        with self.lock:
            self.recycle = recycle
            self.server_limit = server_limit
            self.learned_limit = learned_limit
            self.changed()

    # Who has no connection yet ----------------------------------------------------

    @property
    def waiting(self) -> int:
        """The number of threads that wait for a connection."""
        return len(self._waiting)

    def waiting_claims(self, until: float) -> list[ScopeClaim]:
        """Return the claims of those that began to wait then, in monotonic seconds, or
        before.
        """
        with self.lock:
            return [each for each in self._waiting if each.asked_at <= until]

    def began_waiting(self, waiter: ScopeClaim, out: int, nested: int) -> None:
        """Note one more that waits.

        :param out: how many connections are out or being opened.
        :param nested: how many it has, or wants, at once.
        """
        try:
            with self.lock:
                self._waiting[waiter] = None
                if nested > self.usage.nesting:
                    self.usage.nested(nested)
                self.usage.began_waiting(out + len(self._waiting))
                self.changed()
        except BaseException:  # no code has the claim to say when that ends
            self._waiting.pop(waiter, None)
            self._is_stale = True
            raise

    def stopped_waiting(self, waiter: ScopeClaim) -> None:
        """Note one less, unless it was noted before."""
        with self.lock:
            if waiter not in self._waiting:
                return
            self._is_stale = True
            del self._waiting[waiter]
            in_all = _monotonic() - waiter.asked_at
            self.usage.waited_for(in_all - waiter.waited, in_all)
            self._history.waited(in_all)
            waiter.waited = in_all
            self.changed()

    def waits_again(self, waiter: ScopeClaim) -> None:
        """Note one that waited before, and did not while it tried to connect."""
        with self.lock:
            waiter.asked_at = _monotonic() - waiter.waited
            self._waiting[waiter] = None
            self.changed()

    def began_connecting(self, attempt: Attempt, out: int, taken: int) -> None:
        """Note one more for which a connection is tested or opened.

        :param out: how many connections the pool has out or being opened, with this.
        :param taken: how many the engine has out, of whichever pool.
        """
        with self.lock:
            self._connecting[attempt] = None
            if not attempt.is_counted:
                attempt.is_counted = True
                out = max(out, taken + len(self._connecting))
                self.usage.wanted(out + len(self._waiting))
            # Most are done long before they could be seen.
            self._show_soon()

    def stopped_connecting(self, attempt: Attempt) -> None:
        """Note one less."""
        with self.lock:
            self._connecting.pop(attempt, None)
            took = _monotonic() - attempt.began_at
            self.longest_connect = max(took, self.longest_connect)
            if self._shows_unserved:
                self.changed()

    # Showing ---------------------------------------------------------------------

    def show_in(self, region: PoolRegion) -> None:
        """Show everything in a region from now on. Called under ``lock``."""
        self.region = region
        self._shown_history = History()
        self.write()
        self._written_at = -math.inf  # what is counted first is shown at once

    def changed(self) -> None:
        """Show what has changed: now, or soon. Called under ``lock``."""
        if self.region is None:
            return
        # What is over is shown to be at once, or it would seem to last for longer.
        is_over = self._shows_unserved and not (self._waiting or self._connecting)
        if is_over or _monotonic() - self._written_at >= OFTEN:
            self.write()
        elif not self._is_stale:
            self._show_soon()

    def _show_soon(self) -> None:
        if not self._is_stale:
            self._is_stale = True
            housekeeper.tend_soon(self)

    def note_lines(self, out: int, lines: RunningLines) -> None:
        """Note what goes on now; the next :meth:`tend` shows it.

        :param out: how many connections are out.
        """
        with self.lock:
            self._history.saw(out, len(self._waiting))
            if lines.has_any or self.running.has_any:
                self._is_stale = True
            self.running = lines

    def tend(self) -> None:
        """Show what is not shown yet; the housekeeper calls it."""
        self._tend_history()
        usage = self.usage
        usage.saw_threads(threads_alive())  # those that were there before it, too
        if (
            self._is_stale
            or usage.has_news()
            or self._obstacle != self._find_obstacle()
        ):
            with self.lock:
                self.write()
        # Not under the lock: a log handler may use the database.
        if self._is_too_long and not self._is_said_to_be_too_long:
            self._is_said_to_be_too_long = True
            warn(
                "pool_not_shown",
                "Other processes do not see the pool of bind %.40r: its name and URL"
                " are too long.",
                self.facts.bind,
                bind=self.facts.bind,
            )

    def _tend_history(self) -> None:
        with self.lock:
            totals = totals_of(self.counts, self.usage)
            history = History(self._history.minutes(totals))
            if history != self._shown_history and self.region is not None:
                self._shown_history = history
                self.region.show_history(history)

    def write(self) -> None:
        """Write all figures, if there is a region. Called under ``lock``."""
        region = self.region
        if region is None:
            return
        self._is_stale = False
        self._written_at = _monotonic()
        self._shows_unserved = bool(self._waiting or self._connecting)
        self.usage.note_shown()
        self._obstacle = self._find_obstacle()
        self._is_too_long = not region.show_status(self.status())

    def status(self) -> PoolStatus:
        """Return all figures but those that the slots tell. Called under ``lock``."""
        return status_of(
            self,
            [each.asked_at for each in self._waiting],
            [each.began_at for each in list(self._connecting)],
            self._find_obstacle(),
        )
