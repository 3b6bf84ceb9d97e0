"""What a budget asks of the queues of its pools."""

from __future__ import annotations

import math
import typing as t

from ..pool import close_longest_idle

if t.TYPE_CHECKING:
    from ..pool import FairQueue, GuardedRecord

    Queue = FairQueue[GuardedRecord]


# A connection that was given back less than so many seconds ago is not idle: under load
# it is taken again at once, and would else go to and fro between processes, closed and
# opened each time.
IDLE: t.Final = 0.1


def idle_in(queues: list[Queue], now: float) -> int:
    """Count the connections that no thread has used for a moment.

    :param now: by the pools' clock, which tests let jump.
    """
    return sum(
        now - each.idle_since >= IDLE for queue in queues for each in list(queue.idle)
    )


def wants(queue: Queue) -> bool:
    """Tell whether a thread waits that one more connection would serve."""
    return bool(queue.waiting) and queue.opened < queue.limit


def waiting_since(queue: Queue) -> float:
    """Return since when the first in line waits; infinity for none."""
    try:
        claim: t.Any = queue.waiting[0][2].claim
    except IndexError:
        return math.inf
    return float(getattr(claim, "asked_at", claim.began_at))


def close_longest(queues: list[Queue], count: int) -> None:
    """Close so many connections, those that have been idle for longest."""
    for _ in range(count):
        if not close_longest_idle(queues):
            return
