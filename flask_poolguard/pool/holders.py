"""What a pool asks about those who have its connections; a tracker answers."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import PoolTimeout
from .types import Claim, WaitingQueue


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


NO_HOLDERS: t.Final = Holders()
