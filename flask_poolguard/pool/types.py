"""Data and interfaces of the pool, for its other modules and for its tracker.

This module imports no other one of ``pool/``.
"""

from __future__ import annotations

import random
import time
import typing as t
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..databases import ConnectFailure
from ..errors import PoolTimeout
from ..masking import first_line

# Why a connection left the pool, as the report counts it.
CloseReason = t.Literal[
    "recycled",  # its time was up
    "idle",  # it was not needed
    "dead",  # the server, or something on the way, had ended it
    "overflow",  # it came back and the pool was full
    "invalidated",  # the app, or a failover, declared it unusable
    "closed",  # the pool was disposed of, or the app closed it
    "detached",  # the app took it out of the pool
]

# What a record's judgement is called that can be handed out.
FIT: t.Final = "fit"

# A connection's own recycle time lies within this share below the derived one.
JITTER: t.Final = 0.1


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of one pool; times in seconds.

    :ivar name: the bind's, for messages.
    :ivar recycle: ``"auto"``, seconds of age, or -1.
    :ivar recycle_origin: who set it, for messages.

    :ivar has_auto_sizes: whether its sizes follow what is asked for, for messages.
    :ivar describe: returns a line on a driver's error, without the engine's secrets.

    The others are the settings of the same names.
    """

    name: str = "default"
    recycle: float | t.Literal["auto"] = -1
    recycle_origin: str = "recycle"
    idle_limit: float | None = None
    max_idle: float | None = None
    min_idle: int = 0
    max_age: float | None = None
    max_waiting: int | None = None
    connect_retry: float = 5.0
    ping_timeout: float = 2.0
    tcp_user_timeout: float = 90.0
    has_auto_sizes: bool = False
    describe: Callable[[BaseException], str] = field(default=first_line, compare=False)


@dataclass(frozen=True, slots=True)
class Recycle:
    """When to replace an idle connection.

    :ivar seconds: of idling; None for never.
    :ivar source: where the value comes from, for people.
    """

    seconds: float | None
    source: str


def jittered(seconds: float | None) -> float | None:
    """Return one connection's own time, up to a tenth shorter, so that those opened
    together do not all expire together; None stays None, for never.
    """
    if seconds is None:
        return None
    return seconds * (1 - JITTER * random.random())  # noqa: S311 (spread)


class Obstacle(t.NamedTuple):
    """What keeps new connections from being made, as this process met it.

    :ivar since: in monotonic seconds.
    """

    kind: ConnectFailure
    since: float


class Claim(t.Protocol):
    """The request, command or task for which a thread waits."""

    @property
    def began_at(self) -> float:
        """Monotonic seconds; the oldest is served first."""

    @property
    def has_any(self) -> bool:
        """Whether it has a connection, of whichever pool: others may wait for it."""


@dataclass(eq=False, slots=True)
class AnonymousClaim:
    """The claim of a thread of which nothing else is known."""

    began_at: float
    has_any: bool = True


class Attempt:
    """One checkout for which a connection is tested or opened.

    :ivar began_at: in monotonic seconds; waiting in the queue moves it on.
    :ivar is_counted: its demand for a connection was counted already.
    """

    __slots__ = ("__weakref__", "began_at", "is_counted")

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.is_counted = False


class Queued(t.Protocol):
    """A slot of a pool, as the queue sees it.

    :ivar returns: how often it came back to the queue.
    """

    returns: int

    @property
    def dbapi_connection(self) -> t.Any:
        """Its connection, None if it has none."""


class WaitingQueue(t.Protocol):
    """Where threads wait for a connection."""

    waiting: t.Any

    def serve(self) -> None:
        """Hand over what can be handed over."""


class Renewable(t.Protocol):
    """A pool of which the connections can be replaced while it is in use."""

    def renew(self) -> None:
        """Replace all connections, each as soon as it is not in use."""

    def outdated(self) -> int:
        """Return how many connections are older than the last call, and in use."""

    def join_budget(self) -> None:
        """Keep one place of the pool's budget, if any, for this process: a worker."""

    def obstacle(self) -> Obstacle | None:
        """Return what keeps new connections from being made; None if nothing does."""


class PoolCallbacks:
    """What a pool tells its tracker, which overrides these methods. They do nothing.

    A pool calls them in the thread that does the work, never under its lock.
    """

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
        """A connection was checked out.

        :param is_counted: its demand was counted before, by an attempt or a wait.
        """

    def gave(self, record: ConnectionPoolEntry) -> None:
        """A record was checked in; without a connection if that was lost.

        May be called twice if an asynchronous exception interrupts it; must be
        idempotent.
        """

    def closed(self, record: ConnectionPoolEntry, reason: CloseReason) -> None:
        """The record's connection was closed, or taken out of the pool."""

    def began_waiting(self, out: int) -> Claim:
        """A thread begins to wait; return its claim.

        :param out: how many connections are out or being opened.
        """
        return AnonymousClaim(time.monotonic())

    def stopped_waiting(self, claim: Claim) -> None:
        """It waits no more: it got a slot, which may have to be connected, or none.

        May be called twice if an asynchronous exception interrupts it; must be
        idempotent.
        """

    def waits_again(self, claim: Claim) -> None:
        """It gave the slot back, because the server is full, and is queued again."""

    def timed_out(self, error: PoolTimeout) -> None:
        """It got no slot: in time, because too many waited, or in a deadlock.

        :param error: which is raised.
        """

    def failed(self, error: PoolTimeout) -> None:
        """A checkout fails with this error, in this thread, and has nothing of the
        pool's any more. Called last: an app's code may run.
        """

    def server_is_away(self, error: str, began_at: float) -> None:
        """An attempt to connect found the server away; called for each of them.

        :param error: in words.
        :param began_at: monotonic seconds.
        """

    def began_connecting(self, attempt: Attempt, out: int) -> None:
        """A connection is tested or opened for a thread.

        :param out: how many connections are out or being opened, with this one.
        """

    def stopped_connecting(self, attempt: Attempt) -> None:
        """It has one, or gets none. Not called if an asynchronous exception prevents
        it; the attempt is collected then.
        """

    def waited(self, seconds: float) -> None:
        """A checkout that had to wait or to connect gets a connection.

        :param seconds: since it asked for one.
        """

    def got_none(self) -> None:
        """A checkout failed because the server gave no connection."""

    def learned(
        self,
        recycle: Recycle,
        server_limit: float | None,
        learned_limit: float | None,
    ) -> None:
        """The idle limit is known: the server's own, and what deaths have taught."""

    def forked(self) -> None:
        """This process is a child that inherited the pool."""


NO_CALLBACKS: t.Final = PoolCallbacks()
