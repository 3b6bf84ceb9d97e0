"""Callbacks of a pool that count waits, connects, and what failed, and tell of it."""

from __future__ import annotations

import typing as t

from ..errors import PoolDeadlock, PoolTimeout
from ..pool import Attempt, Claim, PoolCallbacks, Recycle
from ..signals import pool_deadlock, pool_timeout
from .claims import ScopeClaim
from .connection_signals import say_failed
from .engine_pools import EnginePools
from .server_outage import ServerOutage
from .shown_pool import ShownPool
from .thread_marks import this_thread
from .thread_stacks import describe_activity


class CountingCallbacks(ShownPool, PoolCallbacks):
    """Hands on to ``figures`` what a pool tells, and sends the signals of what fails.

    :ivar outage: whether the server is away.
    """

    outage: ServerOutage
    pools: EnginePools

    def stopped_waiting(self, claim: Claim) -> None:
        """Note one waiter less."""
        self.figures.stopped_waiting(t.cast(ScopeClaim, claim))

    def waits_again(self, claim: Claim) -> None:
        """Note a waiter that was there before."""
        self.figures.waits_again(t.cast(ScopeClaim, claim))

    def timed_out(self, error: PoolTimeout) -> None:
        """Count a waiter that got nothing."""
        if isinstance(error, PoolDeadlock):
            line = describe_activity(this_thread.mark, self.info.root_path)
            self.figures.deadlocked(line)
        else:
            self.figures.count("timeouts")

    def failed(self, error: PoolTimeout) -> None:
        """Send the signal of a checkout that failed."""
        if pool_timeout.receivers or pool_deadlock.receivers:
            say_failed(self, error, self.pools.public(str(error)))

    def server_is_away(self, error: str, began_at: float) -> None:
        """Send the signal of an outage, once."""
        if not self.outage.is_on:
            text = self.pools.public(error)
            self.outage.met(self.facts.bind, self.app, text, began_at)

    def stopped_connecting(self, attempt: Attempt) -> None:
        """Note one less."""
        self.figures.stopped_connecting(attempt)

    def waited(self, seconds: float) -> None:
        """Note how long a checkout took; the file shows it with the checkout."""
        self.figures.usage.durations.wait.add(seconds)

    def got_none(self) -> None:
        """Count a checkout to which the server gave no connection."""
        self.figures.count("unavailable")

    def learned(
        self,
        recycle: Recycle,
        server_limit: float | None,
        learned_limit: float | None = None,
    ) -> None:
        """Note the recycle time in force."""
        self.figures.learned(recycle, server_limit, learned_limit)
