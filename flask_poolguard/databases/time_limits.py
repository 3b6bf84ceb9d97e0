"""How long a driver may take to connect: at most until the checkout times out."""

from __future__ import annotations

import math
import typing as t

# Not below this, even if less is left: a server that is only busy answers within it,
# and one that was given too little time would be taken for one that is away.
SHORTEST: t.Final = 0.5

# By so much a limit in whole seconds may exceed the time that is left, so that what
# was set to whole seconds is not cut by one because a moment has gone by.
_TOLERANCE: t.Final = 0.05


def whole_seconds(seconds: float, left: float, shortest: int) -> int:
    """Return a limit for a driver that takes whole seconds only.

    :param left: until the checkout's time is up.
    :param shortest: the smallest that the driver takes at its word.
    """
    limit = math.ceil(seconds)
    if left < limit:
        limit = math.floor(left + _TOLERANCE)
    return max(limit, shortest)
