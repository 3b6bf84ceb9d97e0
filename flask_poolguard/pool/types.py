"""Data and interfaces of the pool, for its other modules and for its tracker.

This module imports no other one of ``pool/``.
"""

from __future__ import annotations

import math
import random
import time
import typing as t
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..databases import ConnectFailure
from ..errors import PoolTimeout

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

# A connection's own recycle time lies within this share below the derived one.
JITTER: t.Final = 0.1


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of one pool; times in seconds.

    :ivar name: the bind's, for messages.
    :ivar recycle: ``"auto"``, seconds of age, or -1.
    :ivar recycle_origin: who set it, for messages.

    The others are the settings of the same names.
    """

    name: str = "default"
    recycle: float | t.Literal["auto"] = -1
    recycle_origin: str = "recycle"
    idle_limit: float | None = None
    max_idle: float | None = None
    max_age: float | None = None
    max_waiting: int | None = None
    connect_retry: float = 5.0
    ping_timeout: float = 2.0
    tcp_user_timeout: float = 90.0


@dataclass(frozen=True, slots=True)
class Recycle:
    """When to replace an idle connection.

    :ivar seconds: of idling; None for never.
    :ivar source: where the value comes from, for people.
    """

    seconds: float | None
    source: str

    def jittered(self) -> float | None:
        """Return this connection's own value, None for never."""
        return None if self.seconds is None else jittered(self.seconds)


def jittered(seconds: float) -> float:
    """Return a time that is up to a tenth shorter, so that connections that were opened
    together do not all expire together.
    """
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


@dataclass(eq=False, slots=True)
class AnonymousClaim:
    """The claim of a thread of which nothing else is known."""

    began_at: float


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


class Places:
    """Where a pool's slots get their places from, one before each is opened. Here there
    is no end of them.

    The first four are called under the lock of the pool's queue.

    :ivar owes: how many connections are to be closed when they come back.
    """

    owes = 0

    def belong_to(self, queue: t.Any) -> None:
        """A queue is there whose slots take these places."""

    def take(self) -> bool:
        """Take a place; False if there is none now. Who waits is served again when
        there is one.
        """
        return True

    def give(self) -> None:
        """Give back the place of a slot that has no connection any more."""

    def settle(self, opened: int) -> None:
        """Give back what no slot has, of which so many are open."""

    def pays(self) -> bool:
        """Tell whether a connection that comes back is to be closed, and count it."""
        return False

    def lend(self, connection: object) -> None:
        """A connection left the pool, and needs its place for as long as it lives."""

    def join(self) -> None:
        """Keep one place for this process, which is a worker, while it lives."""

    def borrow(self) -> bool:
        """Take a place for a connection that is no slot's; False if there is none."""
        return True

    def give_back(self) -> None:
        """Give back what was borrowed."""

    def refusal(self) -> str:
        """Return who has the places, if all are taken; else ""."""
        return ""


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

    def began_connecting(self, attempt: Attempt, out: int) -> None:
        """A connection is tested or opened for a thread.

        :param out: how many connections are out or being opened, with this one.
        """

    def stopped_connecting(self, attempt: Attempt) -> None:
        """It has one, or gets none. Not called if an asynchronous exception prevents
        it; the attempt is collected then.
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


class Returning:
    """Who asks a pool again right after a return. Here nothing is known of that."""

    def comes_back(self) -> float:
        """A thread gives a connection back while others wait for one: return when its
        request began if it is likely to ask again at once, else infinity.
        """
        return math.inf

    def expect(self, queue: WaitingQueue) -> None:
        """The connection of that thread is idle, and no other thread was woken. If it
        does not ask again, the queue is to be told to serve the others.
        """

    def came_back(self) -> float:
        """A thread asks while others wait: return when its request began if it was
        expected to ask at once, else infinity.
        """
        return math.inf


class Holders:
    """Who has the connections of a pool. Here nothing is known; a tracker knows.

    :ivar returners: who asks again at once.
    """

    returners = Returning()

    def find_deadlock(
        self,
        claim: Claim,
        waiting: Callable[[], Sequence[Claim]],
        opened: int,
        owns: Callable[[ConnectionPoolEntry], bool],
    ) -> tuple[Claim, PoolTimeout] | None:
        """A thread begins to wait, and no slot is left: return which is to give way.

        :param waiting: returns the claims of all that wait.
        :param opened: how many slots there are, all out.
        :param owns: tells whether a record is this pool's; those that are out of the
            pool that it replaced (``Engine.dispose``) are none of its slots.
        :returns: a claim among those and the error to raise there; None if a thread
            that does not wait can give a connection back.
        """
        return None

    def sessions_out(self) -> Sequence[int]:
        """Return the server's numbers of the sessions that are out."""
        return ()

    def held_seconds(self) -> Sequence[float]:
        """Return for how long each connection that is out has been out."""
        return ()

    def describe_holders(self, states: Mapping[int, str]) -> str:
        """Say who has the connections, for the error of a thread that got none.

        :param states: the server's word of what its sessions do, by its own number.
        """
        return ""


NO_CALLBACKS: t.Final = PoolCallbacks()
NO_HOLDERS: t.Final = Holders()
UNLIMITED: t.Final = Places()
