"""Pure arithmetic: how long a connection may idle before it is replaced."""

from __future__ import annotations

import random
import typing as t
from dataclasses import dataclass

from ..databases import IdleLimit

# Replaced at five sixths of the limit: early enough for the checkout and its first
# statement, late enough not to reconnect without need (600 s gives 500 s).
SHARE_OF_LIMIT: t.Final = 5 / 6

# Each connection's own limit lies within this share below the derived one.
JITTER: t.Final = 0.1


@dataclass(frozen=True, slots=True)
class Recycle:
    """Seconds of idling after which to replace a connection, None for never."""

    seconds: float | None
    source: str

    def jittered(self) -> float | None:
        """Return this connection's own value, up to a tenth sooner, so that
        connections opened together do not all expire together.
        """
        if self.seconds is None:
            return None
        return self.seconds * (1 - JITTER * random.random())  # noqa: S311 (spread)


def derive(
    server: IdleLimit, known_limit: float | None, learned_limit: float | None = None
) -> Recycle:
    """Derive the recycle time from the server's idle limit. The smallest limit counts.

    :param known_limit: ``POOLGUARD_IDLE_LIMIT`` in seconds.
    :param learned_limit: after which idle connections were seen to die, in seconds.
    """
    limit, source = server.seconds, server.source
    for other, name in (
        (known_limit, "POOLGUARD_IDLE_LIMIT"),
        (learned_limit, "idle connections die after"),
    ):
        if other is not None and (limit is None or other < limit):
            limit, source = other, f"{name} {other:g} s"
    if limit is None or limit <= 0:
        return Recycle(None, source)
    return Recycle(limit * SHARE_OF_LIMIT, f"{source} × 5/6")
