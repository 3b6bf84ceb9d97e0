"""How long a driver may take to connect: until the checkout's time is up at most."""

from __future__ import annotations

import math
import typing as t

_NAME: t.Final = "connect_timeout"

# Not below this, even if less is left: a server that is only busy answers within it,
# and one that was given too little time would be taken for one that is away.
SHORTEST: t.Final = 0.5

# By so much a limit in whole seconds may exceed the time that is left, so that what
# was set to whole seconds is not cut by one because a moment has gone by.
_TOLERANCE: t.Final = 0.05


class OurWholeSeconds(int):
    """A time limit among a driver's arguments that is not the user's.

    SQLAlchemy 2.0 passes the same dict again with the next connect.
    """


class OurSeconds(float):
    """The same for a driver that takes fractions."""


def whole_seconds(seconds: float, left: float, shortest: int) -> OurWholeSeconds:
    """Return a limit for a driver that takes whole seconds only.

    :param left: until the checkout's time is up.
    :param shortest: the smallest that the driver takes at its word.
    """
    limit = math.ceil(seconds)
    if left < limit:
        limit = math.floor(left + _TOLERANCE)
    return OurWholeSeconds(max(limit, shortest))


def forget_ours(arguments: dict[str, t.Any]) -> None:
    """Take away the limit that an earlier connect was given."""
    if isinstance(arguments.get(_NAME), OurWholeSeconds | OurSeconds):
        del arguments[_NAME]
