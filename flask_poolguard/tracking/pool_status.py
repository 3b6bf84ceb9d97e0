"""The figures of one pool in the shapes that other processes see."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..pool import CloseReason
from ..state.history import Totals
from ..state.status import Closed, LeakingLine, PoolStatus, WaitingLine

if t.TYPE_CHECKING:
    from ..pool import Obstacle, Recycle
    from .pool_facts import PoolFacts
    from .usage import UsageCounter

_monotonic = time.monotonic

COUNTERS: t.Final = (
    "connects",
    "timeouts",
    "unavailable",
    "refused_writes",
    "deadlocks",
    "leaks",
    # Closed connections, by reason.
    *t.get_args(CloseReason),
    # Of connections for which the state file has no slot.
    "unlisted_out",
    "unlisted_checkouts",
    # Those that were counted in parts of the state file that were given up.
    "earlier_checkouts",
)


@dataclass(frozen=True, slots=True)
class RunningLines:
    """Which lines ran at one moment where connections are held, or waited for.

    :ivar activities: see :class:`PoolStatus`, as ``waiting_lines``.
    :ivar at: monotonic seconds.
    """

    activities: Mapping[int, str] = field(default_factory=dict)
    waiting_lines: tuple[WaitingLine, ...] = ()
    at: float = 0.0

    @property
    def has_any(self) -> bool:
        """Tell whether there is a line to show."""
        return bool(self.activities or self.waiting_lines)


class Figures(t.Protocol):
    """What :class:`.pool_figures.PoolFigures` has counted and learned.

    :ivar recycle: the recycle time in force.
    :ivar server_limit: after so many seconds the server ends idle sessions.
    :ivar learned_limit: after so many seconds idle connections were found dead.
    :ivar held_warning: ``POOLGUARD_HELD_WARNING`` in seconds; None for no warning.
    :ivar peak: the most connections that were out at once.
    :ivar swings: how often an automatic size was raised after it had been lowered.
    :ivar longest_connect: seconds that the longest test or connect took.
    :ivar leaking_lines: how many leaks each endpoint and line has.
    :ivar deadlock_line: where the last deadlock was.
    :ivar running: which lines ran when that was last looked at.
    """

    facts: PoolFacts
    recycle: Recycle
    held_warning: float | None
    server_limit: float | None
    learned_limit: float | None
    counts: dict[str, int]
    peak: int
    swings: int
    longest_connect: float
    leaking_lines: dict[tuple[str, str], int]
    deadlock_line: str | None
    usage: UsageCounter
    running: RunningLines


def status_of(
    figures: Figures,
    waiting: Collection[float],
    connecting: Collection[float],
    obstacle: Obstacle | None,
) -> PoolStatus:
    """Return all figures but those that the slots tell.

    :param waiting: since when each thread waits, in monotonic seconds.
    :param connecting: since when each thread connects, likewise.
    :param obstacle: what keeps new connections from being made.
    """
    facts, counts = figures.facts, figures.counts
    is_guarded = facts.is_guarded
    return PoolStatus(
        bind=facts.bind,
        url=facts.url,
        pool_class=facts.pool_class,
        size=facts.size,
        max_overflow=facts.max_overflow,
        has_auto_size=facts.has_auto_size,
        has_auto_overflow=facts.has_auto_overflow,
        swings=figures.swings,
        waiting=len(waiting) if facts.tells_waiting else None,
        oldest_wait_seconds=_oldest(waiting),
        connecting=len(connecting) if is_guarded else None,
        oldest_connect_seconds=_oldest(connecting),
        longest_connect_seconds=(
            round(figures.longest_connect, 3) if is_guarded else None
        ),
        obstacle=None if obstacle is None else obstacle.kind.value,
        obstacle_seconds=_oldest(() if obstacle is None else (obstacle.since,)),
        recycle_seconds=figures.recycle.seconds,
        recycle_source=figures.recycle.source or None,
        peak_checked_out=figures.peak if facts.counted else None,
        connects=counts["connects"],
        timeouts=counts["timeouts"] if facts.tells_waiting else None,
        unavailable=counts["unavailable"] if is_guarded else None,
        refused_writes=counts["refused_writes"],
        deadlocks=counts["deadlocks"],
        deadlock_line=figures.deadlock_line,
        timeout_seconds=facts.pool_timeout,
        held_warning_seconds=figures.held_warning,
        leaks=counts["leaks"],
        closed=_closed(facts, counts),
        usage=figures.usage.status(),
        durations=figures.usage.durations.status(
            sum(figures.usage.demand), is_guarded=is_guarded, is_counted=facts.counted
        ),
        server_limit_seconds=figures.server_limit,
        learned_limit_seconds=figures.learned_limit,
        is_counted=facts.counted,
        recycles_by_age=facts.age_based,
        budget_file=facts.budget_file,
        leaking_lines=tuple(
            LeakingLine(endpoint, site, count)
            for (endpoint, site), count in figures.leaking_lines.items()
        ),
        unlisted_out=counts["unlisted_out"],
        unlisted_checkouts=counts["unlisted_checkouts"],
        earlier_checkouts=counts["earlier_checkouts"],
        waiting_lines=figures.running.waiting_lines,
        activities=figures.running.activities,
        seen_seconds=_oldest(
            (figures.running.at,) if figures.running.activities else ()
        ),
    )


def _closed(facts: PoolFacts, counts: Mapping[str, int]) -> Closed:
    known, is_guarded = facts.tells_closing, facts.is_guarded
    return Closed(
        recycled=counts["recycled"] if known else None,
        idle=counts["idle"] if known else None,
        dead=counts["dead"],
        overflow=counts["overflow"] if known else None,
        invalidated=counts["invalidated"] if is_guarded else None,
        closed=counts["closed"] if is_guarded else None,
        detached=counts["detached"] if is_guarded else None,
    )


def totals_of(counts: Mapping[str, int], usage: UsageCounter) -> Totals:
    """Return what the history compares with the end of the last minute."""
    return Totals(
        checkouts=sum(usage.demand),
        waits=usage.waits,
        timeouts=counts["timeouts"],
        unavailable=counts["unavailable"],
        refused_writes=counts["refused_writes"],
        deadlocks=counts["deadlocks"],
        leaks=counts["leaks"],
    )


def _oldest(since: Collection[float]) -> float | None:
    """Return the seconds since the earliest of these moments, None without any."""
    first = min(since, default=None)
    return None if first is None else max(_monotonic() - first, 0.0)
