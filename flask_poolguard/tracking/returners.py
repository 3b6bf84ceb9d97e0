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

from ..pool import Returning, housekeeper
from .checkout import OUTSIDE
from .current_scope import current_scope, current_scopes, under_way_since
from .endpoint import current_endpoint
from .scope import Returner

if t.TYPE_CHECKING:
    from ..pool import WaitingQueue

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


class Returners(Returning):
    """Who is expected to ask one pool again.

    All changes are single operations of a dict. Nothing here runs while no thread
    waits for a connection.

    :ivar expected: who gave a connection back and has not asked again, and in which
        queue it is idle. Each for one connection at a time.
    """

    def __init__(self) -> None:
        self.expected: dict[Returner, WaitingQueue] = {}
        # From when on, in monotonic seconds, an endpoint is known to ask again at once.
        self._known_from: dict[str, float] = {}
        # The housekeeper was told to look.
        self._is_watched = False

    def comes_back(self) -> float:
        """Return since when the request of this thread is under way, in monotonic
        seconds, if it is likely to ask again at once, else infinity.
        """
        scope = current_scope()
        if scope is None or scope.ended:
            return math.inf
        now, returner = _clock(), scope.returner
        if returner is None:
            returner = scope.returner = Returner(self, now)
        elif returner.returners is not self or returner in self.expected:
            return math.inf
        returner.gave_at = now
        if not self._known_from or now - returner.first_at > PRIVILEGE:
            return math.inf
        if now < self._known_from.get(_endpoint_of(returner), math.inf):
            return math.inf
        return _beginning_of(returner, now)

    def expect(self, queue: WaitingQueue) -> None:
        """Expect the request of this thread, which :meth:`comes_back` was told of.

        Called once its connection is idle: a call that serves the others finds it.
        """
        scope = current_scope()
        if scope is None or scope.returner is None:
            queue.serve()
            return
        scope.returner.is_expected = True
        self.expected[scope.returner] = queue
        if not self._is_watched:
            self._is_watched = True
            housekeeper.tend_soon(self)

    def came_back(self) -> float:
        """Return what :meth:`comes_back` did if the request of this thread was
        expected, else infinity.
        """
        scope = current_scope()
        returner = None if scope is None else scope.returner
        if returner is None or returner.returners is not self:
            return math.inf
        now = _clock()
        if self.expected.pop(returner, None) is not None:
            return _beginning_of(returner, now)
        if now - returner.gave_at < AT_ONCE:
            if len(self._known_from) >= _MOST:
                self._known_from.clear()
            self._known_from.setdefault(_endpoint_of(returner), now)
        return math.inf

    def ended(self, returner: Returner) -> None:
        """Hand over what waits for a request that will not ask again."""
        queue = self.expected.pop(returner, None)
        if queue is not None:
            queue.serve()

    def tend(self) -> None:
        """Hand over what waits for those who did not come back; the housekeeper calls
        it soon after, and with each round.
        """
        self._is_watched = False
        now = _clock()
        for returner, queue in list(self.expected.items()):
            if now - returner.gave_at < AT_ONCE:
                self._is_watched = True
                housekeeper.tend_soon(self)
                continue
            if now - returner.gave_at >= LATE and queue.waiting:
                # It was asked for when the request began to be expected.
                self._known_from[returner.endpoint or OUTSIDE] = now + NOT_AGAIN
            self.ended(returner)


def _endpoint_of(returner: Returner) -> str:
    """Return the endpoint of the request that runs here, which *returner* is of."""
    if returner.endpoint is None:
        returner.endpoint = current_endpoint()
    return returner.endpoint


def _beginning_of(returner: Returner, now: float) -> float:
    """Return since when the request that runs here, which *returner* is of, is under
    way, in monotonic seconds.
    """
    if returner.began_at is None:
        returner.began_at = under_way_since(current_scopes(), now)
    return returner.began_at
