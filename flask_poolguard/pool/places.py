"""Places of a budget, one for each connection that a pool has open."""

from __future__ import annotations

import typing as t


class Places:
    """Where a pool's slots get their places from, one before each is opened. Here there
    is no end of them.

    The first five are called under the lock of the pool's queue.

    :ivar owes: how many connections are to be closed when they come back.
    """

    owes = 0

    @property
    def limit(self) -> int | None:
        """How many there are for all who share them; None for no end of them."""
        return None

    def belong_to(self, queue: t.Any) -> None:
        """A queue is there whose slots take these places."""

    def take(self) -> bool:
        """Take a place; False if there is none now. Who waits is served again when
        there is one.
        """
        return True

    def take_ahead(self) -> bool:
        """Take a place for a connection that no thread waits for; False if there is
        none to spare.
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


UNLIMITED: t.Final = Places()


def unlimited() -> Places:
    """Return places without end, for a pool that has no budget."""
    return UNLIMITED
