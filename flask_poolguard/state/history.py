"""What one pool met, minute by minute: a part of its status."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Totals:
    """What one pool counted since its worker began.

    :ivar checkouts: for which a connection was asked, whether there was one or not.
    :ivar timeouts: those of ``deadlocks`` among them.
    """

    checkouts: int = 0
    waits: int = 0
    timeouts: int = 0
    unavailable: int = 0
    refused_writes: int = 0
    deadlocks: int = 0
    leaks: int = 0


# What is counted: of these a minute has its own share.
COUNTED: t.Final = tuple(each.name for each in fields(Totals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute(Totals):
    """What one pool met within a minute of the clock.

    :ivar at: when it began, in seconds of Unix time.
    :ivar most_out: connections that were out at once, as looked at once a second; so is
        ``most_waiting``, of threads.
    :ivar first_failed_at: when the first of ``timeouts``, ``unavailable`` and
        ``refused_writes`` failed, in seconds of Unix time; None if there are none.
        Likewise ``last_failed_at``.
    :ivar first_waited_at: when the first wait began that a user may notice; None if
        there was none. Likewise ``last_waited_at``, when the last of them ended.
    """

    at: int
    most_out: int = 0
    most_waiting: int = 0
    longest_wait_seconds: float = 0.0
    first_failed_at: float | None = None
    last_failed_at: float | None = None
    first_waited_at: float | None = None
    last_waited_at: float | None = None

    @property
    def timed_out(self) -> int:
        """Checkouts for which no connection came back in time."""
        return self.timeouts - self.deadlocks


@dataclass(frozen=True, slots=True)
class History:
    """The minutes of the last hour in which anything happened, the oldest first."""

    minutes: tuple[Minute, ...] = ()
