"""Words the error of a thread that gets no connection."""

from __future__ import annotations

import math
import time
import typing as t

from ..error_notes import (
    Room,
    add_note,
    explain_away,
    explain_budget,
    explain_full,
    explain_timeout,
)
from ..errors import PoolTimeout, TooManyWaiting

if t.TYPE_CHECKING:
    from .connect_breaker import ConnectBreaker
    from .fair_queue import FairQueue
    from .holders import Holders
    from .session_probe import SessionProbe
    from .slot import GuardedRecord
    from .types import Policy

_clock = time.monotonic

# What is said of the holders is said for as many seconds: to look at all threads for
# each error of a storm would take three times as long as the rest of it.
SAID_FOR: t.Final = 0.1


class PoolOfHolders(t.Protocol):
    """A guarded pool, as far as its errors tell of it."""

    name: str
    policy: Policy
    holders: Holders
    _timeout: float

    def size(self) -> int:
        """Return ``pool_size``."""

    def overflow(self) -> int:
        """Return the open connections above that."""

    def room(self, waiting: int = 0) -> Room:
        """Return what this pool has and may have."""


class _Said(t.NamedTuple):
    """What errors say of the holders.

    :ivar until: monotonic seconds up to which that is true enough.
    :ivar note: "" if none has a connection.
    """

    until: float
    holders: str
    note: str


class Refusals:
    """Says who has the connections, and what the server says of more.

    ``_said`` is replaced as a whole, by any thread.
    """

    def __init__(
        self,
        pool: PoolOfHolders,
        queue: FairQueue[GuardedRecord],
        breaker: ConnectBreaker,
        session_probe: SessionProbe,
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._breaker = breaker
        self._session_probe = session_probe
        self._said = _Said(-math.inf, "", "")

    def timed_out(self) -> PoolTimeout:
        """Return the error of a thread for which none came free in time."""
        return self._noted(
            PoolTimeout(
                f"{self._limit_reached()}, connection timed out, timeout"
                f" {self._pool._timeout:.2f}{self._explain()}",
                code="3o7r",
            )
        )

    def too_many(self) -> PoolTimeout:
        """Return the error of a thread that may not even wait."""
        most = self._pool.policy.max_waiting
        return self._noted(
            TooManyWaiting(
                f"{self._limit_reached()}, and {most} wait already, as many as"
                f" POOLGUARD_MAX_WAITING allows{self._explain()}",
                code="3o7r",
            )
        )

    def _noted(self, error: PoolTimeout) -> PoolTimeout:
        pool = self._pool
        if self._breaker.is_full:
            add_note(error, explain_full(self._room()))
        elif self._breaker.is_away:
            add_note(error, explain_away(pool.name, pool.policy.connect_retry))
        else:
            note = self._look().note
            if note:
                add_note(error, note)
        return error

    def _limit_reached(self) -> str:
        pool, queue = self._pool, self._queue
        if queue.opened < queue.limit:  # the server's limit, or one being opened
            return queue.places.refusal() or (
                f"All {queue.opened} connections of the pool are in use"
            )
        return (
            f"QueuePool limit of size {pool.size()} overflow {pool.overflow()} reached"
        )

    def _explain(self) -> str:
        """Return who has the connections, and what is wrong with the server."""
        return self.server_says() + self._look().holders

    def _look(self) -> _Said:
        """Look at the holders, unless that was done a moment ago."""
        if _clock() >= self._said.until:
            pool, states = self._pool, self._session_probe.states()
            held, note = pool.holders.held_seconds(), ""
            queue = self._queue
            if queue.opened < queue.limit and queue.places.refusal():
                note = explain_budget(self._room())
            elif held:
                note = explain_timeout(self._room(), pool._timeout, held)
            holders = pool.holders.describe_holders(states)
            self._said = _Said(_clock() + SAID_FOR, holders, note)
        return self._said

    def _room(self) -> Room:
        return self._pool.room(len(self._queue.waiting))

    def server_says(self) -> str:
        """Return why the server gives no more connections; "" if it does."""
        outage = self._breaker.outage
        return f". The server refuses more: {outage}" if outage else ""
