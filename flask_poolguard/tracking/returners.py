"""Requests that ask for a connection again right after they gave one back.

A request of several transactions gives its connection back after each, and asks again
some 50 µs later. To hand it to another thread in between costs two switches of threads
for each transaction, while the connection lies idle. So where a request's endpoint is
known to ask again at once, and the request is older than all who wait, the connection
waits for it: until it asks, until its scope ends, until another thread gives or takes
one, or for a tenth of a second, whichever is first. The order of service stays that of
age, and a request goes before others like this for half a second at most.
"""

from __future__ import annotations

import math
import time
import typing as t

from ..pool import housekeeper
from .current_scope import LONGEST_AGE, began_at, current_scope, current_scopes
from .endpoint import current_endpoint
from .scope import Returner, Scope

if t.TYPE_CHECKING:
    from ..pool import Served

_clock = time.monotonic

# A thread that goes on asks within a fraction of this, unless another one that computes
# is given Python's lock meanwhile: that one keeps it for 5 ms.
AT_ONCE: t.Final = 0.006

# Who has not asked after so many seconds does not come back: Python's lock keeps no
# thread waiting for as long, not even where many compute.
LATE: t.Final = 0.05

# For so many seconds after its first return a request may go before others that wait. A
# task that runs for long would keep them waiting for as long.
PRIVILEGE: t.Final = 0.5

# An endpoint that did not come back is not waited for again for so many seconds.
NOT_AGAIN: t.Final = 10.0

# Endpoints that are remembered; all are forgotten when there are more.
_MOST: t.Final = 1024


class Returners:
    """Who is expected to ask one pool again.

    All changes are single operations of a dict. Nothing here runs while no thread
    waits for a connection. A scope is expected once at a time, for one connection.

    :ivar expected: scopes that gave a connection back and have not asked again.
    """

    def __init__(self) -> None:
        self.expected: dict[Scope, Returner] = {}
        # Since when, in monotonic seconds, an endpoint is one of those.
        self._since: dict[str, float] = {}
        # The housekeeper was told to look.
        self._is_watched = False

    def comes_back(self) -> float:
        """Return since when the request of this thread counts as under way, if it is
        likely to ask again at once, else infinity. In monotonic seconds.

        Called when it gives a connection back while others wait for one.
        """
        scope = current_scope()
        if scope is None or scope.ended or scope in self.expected:
            return math.inf
        now = _clock()
        scope.gave_to, scope.gave_at = self, now
        returner = scope.returner
        if returner is None or returner.pool is not self:
            endpoint = current_endpoint()
            if now < self._since.get(endpoint, math.inf):
                return math.inf
            began = began_at(current_scopes(), now)
            returner = scope.returner = Returner(self, endpoint, began, now)
        if now - returner.since > PRIVILEGE:
            return math.inf
        return max(returner.began_at, now - LONGEST_AGE)

    def expect(self, queue: Served) -> None:
        """Expect the request of this thread.

        Called when its connection is idle, so that whoever serves the others finds it.
        """
        scope = current_scope()
        returner = None if scope is None else scope.returner
        if scope is None or returner is None:  # it ended in between
            queue.serve()
            return
        returner.queue, returner.gave_at = queue, scope.gave_at
        self.expected[scope] = returner
        if not self._is_watched:
            self._is_watched = True
            housekeeper.tend_soon(self)

    def came_back(self) -> float:
        """Return what :meth:`comes_back` did, if the request of this thread was
        expected, else infinity.

        Called when it asks for a connection while others wait for one.
        """
        scope = current_scope()
        if scope is None or scope.gave_to is not self:
            return math.inf
        now = _clock()
        returner = self.expected.pop(scope, None)
        if returner is not None:
            return max(returner.began_at, now - LONGEST_AGE)
        if now - scope.gave_at < AT_ONCE:
            if len(self._since) >= _MOST:
                self._since.clear()
            self._since.setdefault(current_endpoint(), now)
        return math.inf

    def ended(self, scope: Scope) -> None:
        """Hand over what waits for a scope that has come to its end."""
        returner = self.expected.pop(scope, None)
        if returner is not None and returner.queue is not None:
            returner.queue.serve()

    def tend(self) -> None:
        """Hand over what waits for those who did not come back; the housekeeper calls
        it soon after, and with each round.
        """
        self._is_watched = False
        now = _clock()
        for scope, returner in list(self.expected.items()):
            if now - returner.gave_at < AT_ONCE:
                self._is_watched = True
                housekeeper.tend_soon(self)
            elif self.expected.pop(scope, None) is not None:
                queue = returner.queue
                if queue is not None and queue.waiting:
                    if now - returner.gave_at >= LATE:
                        scope.returner = None
                        self._since[returner.endpoint] = now + NOT_AGAIN
                    queue.serve()
