"""Callbacks from a pool to its tracker; here, so that pool/ imports no tracking/."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..databases import ConnectFailure
from ..errors import PoolTimeout
from .fair_queue import Claim
from .recycle import Recycle

# Why a connection left the pool, as the report counts it.
CloseReason = t.Literal[
    "recycled",  # its time was up
    "idle",  # nobody needed it
    "dead",  # the server, or something on the way, had ended it
    "overflow",  # it came back and the pool was full
    "invalidated",  # the app, or a failover, declared it unusable
    "closed",  # the pool was disposed of, or the app closed it
    "detached",  # the app took it out of the pool
]


class Obstacle(t.NamedTuple):
    """What keeps new connections from being made, as this process met it.

    :ivar since: in monotonic seconds.
    """

    kind: ConnectFailure
    since: float


class Attempt:
    """One checkout for which a connection is tested or opened.

    :ivar began_at: in monotonic seconds.
    :ivar is_counted: how many connections it wants was counted already.
    """

    __slots__ = ("__weakref__", "began_at", "is_counted")

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.is_counted = False


class Renewable(t.Protocol):
    """A pool of which the connections can be replaced while it is in use."""

    def renew(self) -> None:
        """Replace all connections, each as soon as nobody has it."""

    def outdated(self) -> int:
        """Return how many connections are older than the last call, and in use."""

    def obstacle(self) -> Obstacle | None:
        """Return what keeps new connections from being made; None if nothing does."""


class PoolCallbacks(t.Protocol):
    """Called by the pool, in the thread that does the work, never under its lock."""

    def began(self, pool: Renewable) -> None:
        """A pool is there: the first one of an engine, or one that replaces it."""

    def connected(self, record: ConnectionPoolEntry) -> None:
        """A connection was opened for this record."""

    def took(
        self,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        is_counted: bool = False,
    ) -> None:
        """A connection was handed out.

        :param is_counted: it was told before that its thread wanted one.
        """

    def gave(self, record: ConnectionPoolEntry) -> None:
        """A record comes back; without a connection if that was lost.

        Told twice if something struck while it was told.
        """

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason) -> None:
        """The record's connection was closed, or taken out of the pool."""

    def began_waiting(self, out: int) -> Claim:
        """A thread begins to wait; says on whose behalf.

        :param out: how many connections are out or being opened.
        """

    def stopped_waiting(self, claim: Claim) -> None:
        """It waits no more: it got a slot, which may have to be connected, or none.

        Told twice if something struck while it was told.
        """

    def waits_again(self, claim: Claim) -> None:
        """It gave the slot back, because the server is full, and is in line again."""

    def timed_out(self) -> None:
        """It waited in vain."""

    def began_connecting(self, attempt: Attempt, out: int) -> None:
        """A connection is tested or opened for a thread.

        :param out: how many connections are out or being opened, with this one.
        """

    def stopped_connecting(self, attempt: Attempt) -> None:
        """It has one, or gets none. Not told if something struck; the attempt is
        collected then.
        """

    def got_none(self) -> None:
        """A checkout failed because the server gave no connection."""

    def find_deadlock(
        self,
        claim: Claim,
        waiting: Callable[[], Sequence[Claim]],
        opened: int,
        owns: Callable[[ConnectionPoolEntry], bool],
    ) -> tuple[Claim, PoolTimeout] | None:
        """Somebody began to wait, and no slot is left: tell who is to give way.

        :param waiting: gives the claims of all who wait.
        :param opened: how many slots there are, all out.
        :param owns: tells whether a record is this pool's; those that are out of the
            pool that it replaced (``Engine.dispose``) are none of its slots.
        :returns: a claim among those and what it is to be told, None if somebody who
            does not wait can give something back.
        """

    def sessions_out(self) -> Sequence[int]:
        """Return the server's numbers of the sessions that are out."""

    def held_seconds(self) -> Sequence[float]:
        """Return for how long each connection that is out has been out."""

    def describe_holders(self, states: Mapping[int, str]) -> str:
        """Say who has the connections, for the error of one who got none.

        :param states: what the server said that its sessions do, by its own number.
        """

    def learned(
        self,
        recycle: Recycle,
        server_limit: float | None,
        learned_limit: float | None,
    ) -> None:
        """The idle limit is known: the server's own, and what deaths have taught."""

    def forked(self) -> None:
        """This process is a child that inherited the pool."""


@dataclass(eq=False, slots=True)
class Asked:
    """The claim of somebody of whom nothing else is known."""

    began_at: float


class NullCallbacks:
    """Callbacks that do nothing."""

    def began(self, pool: Renewable) -> None:
        """Do nothing."""

    def connected(self, record: ConnectionPoolEntry) -> None:
        """Do nothing."""

    def took(
        self,
        record: ConnectionPoolEntry,
        fairy: PoolProxiedConnection,
        is_counted: bool = False,
    ) -> None:
        """Do nothing."""

    def gave(self, record: ConnectionPoolEntry) -> None:
        """Do nothing."""

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason) -> None:
        """Do nothing."""

    def began_waiting(self, out: int) -> Claim:
        """Return a claim that counts from now."""
        return Asked(time.monotonic())

    def stopped_waiting(self, claim: Claim) -> None:
        """Do nothing."""

    def waits_again(self, claim: Claim) -> None:
        """Do nothing."""

    def timed_out(self) -> None:
        """Do nothing."""

    def began_connecting(self, attempt: Attempt, out: int) -> None:
        """Do nothing."""

    def stopped_connecting(self, attempt: Attempt) -> None:
        """Do nothing."""

    def got_none(self) -> None:
        """Do nothing."""

    def find_deadlock(
        self,
        claim: Claim,
        waiting: Callable[[], Sequence[Claim]],
        opened: int,
        owns: Callable[[ConnectionPoolEntry], bool],
    ) -> tuple[Claim, PoolTimeout] | None:
        """Return None: who holds what is not known."""
        return None

    def sessions_out(self) -> Sequence[int]:
        """Return none: they are not known."""
        return ()

    def held_seconds(self) -> Sequence[float]:
        """Return none: they are not known."""
        return ()

    def describe_holders(self, states: Mapping[int, str]) -> str:
        """Return nothing: who holds what is not known."""
        return ""

    def learned(
        self,
        recycle: Recycle,
        server_limit: float | None,
        learned_limit: float | None,
    ) -> None:
        """Do nothing."""

    def forked(self) -> None:
        """Do nothing."""


NO_CALLBACKS: t.Final = NullCallbacks()
