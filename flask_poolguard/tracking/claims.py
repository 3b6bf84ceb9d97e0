"""Claims: the requests, commands and tasks for which threads wait for a connection."""

from __future__ import annotations

import time

from .checkout import Checkout, PoolCheckouts
from .current_scope import current_scopes, under_way_since
from .endpoint import current_endpoint
from .thread_marks import this_thread

_monotonic = time.monotonic


class ScopeClaim:
    """A request, command or task that waits for a connection.

    :ivar began_at: monotonic seconds at which it began; outside of all, now.
    :ivar asked_at: monotonic seconds at which it began to wait; later by as much as it
        was busy with connecting meanwhile.
    :ivar scopes: within which it runs, the innermost first.
    :ivar has_any: it has connections already; while it waits it takes no more.
    :ivar waited: seconds, up to when it last stopped to wait.
    """

    __slots__ = (
        "asked_at",
        "began_at",
        "endpoint",
        "has_any",
        "mark",
        "scopes",
        "waited",
    )

    def __init__(self) -> None:
        self.asked_at = now = _monotonic()
        self.scopes = current_scopes()
        self.has_any = False
        for scope in self.scopes:
            if scope.checkouts:
                self.has_any = True
        self.began_at = under_way_since(self.scopes, now)
        self.mark = this_thread.mark.ref
        self.endpoint = current_endpoint()
        self.waited = 0.0

    def blocks(self, checkout: Checkout) -> bool:
        """Tell whether a connection cannot come back while this one waits.

        The same thread has it, for a request, command or task that it is still within.
        What another thread of the same request has can come back, and what a thread
        took outside of any may have been handed to another.
        """
        return checkout.mark is self.mark and checkout.scope in self.scopes

    def may_block(self, pool: PoolCheckouts) -> bool:
        """Tell, at little cost, whether it may have a connection of this pool."""
        return any(
            checkout.pool is pool
            for scope in self.scopes
            for checkout in list(scope.checkouts)
        )
