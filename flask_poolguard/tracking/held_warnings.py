"""Warns of connections that are held for too long, and says when they are back."""

from __future__ import annotations

import time
from collections import deque

from ..log_lines import warn
from ..signals import connection_held_long
from .checkout import Checkout, PoolCheckouts
from .connection_signals import say_held
from .thread_stacks import describe_activity, format_stack

_monotonic = time.monotonic


class HeldWarnings:
    """What was said of one pool. Only the housekeeper says anything: a log handler may
    need a connection itself.

    :ivar limit: ``POOLGUARD_HELD_WARNING`` in seconds; None for no warning.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._back: deque[tuple[Checkout, float]] = deque()

    def came_back(self, checkout: Checkout) -> None:
        """Note the return of one that was warned of, to be said by the next round."""
        self._back.append((checkout, _monotonic()))

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self._back.clear()

    def tend(self, pool: PoolCheckouts) -> None:
        """Warn of each connection once; the housekeeper calls it."""
        if self.limit is None:
            return
        bind, now = pool.info.facts.bind, _monotonic()
        while self._back:
            _say_it_is_back(bind, *self._back.popleft())
        for checkout in list(pool.out.values()):
            held = now - checkout.taken_at
            is_said = checkout.is_reported or checkout.is_kept
            if held < self.limit or is_said or checkout.fairy() is None:
                continue
            if checkout.is_at_prompt():
                continue  # a warning would come between what is typed
            checkout.is_reported = True
            activity = describe_activity(checkout.mark(), pool.info.root_path)
            if connection_held_long.receivers:
                say_held(checkout, held, self.limit, activity)
            warn(
                "connection_held_long",
                "%s has held a connection of bind %r for %.0f s, since it took it at"
                " %s%s. Give it back before slow work that needs no database, or raise"
                " POOLGUARD_HELD_WARNING (now %g). Its thread is here:\n%s",
                checkout.endpoint,
                bind,
                held,
                checkout.site(),
                "" if activity is None else f"; now at {activity}",
                self.limit,
                format_stack(checkout.mark()) or "  (that is not known)",
                **checkout.facts(held),
            )


def _say_it_is_back(bind: str, checkout: Checkout, when: float) -> None:
    warn(
        "connection_back",
        "The connection of bind %r that %s took at %s is back after %.0f s.",
        bind,
        checkout.endpoint,
        checkout.site(),
        when - checkout.taken_at,
        **checkout.facts(when - checkout.taken_at),
    )
