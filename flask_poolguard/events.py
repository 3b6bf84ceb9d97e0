"""What the guard's signals tell, beside a leak."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class FailedWait:
    """A checkout that was given no connection (``pool_timeout``, ``pool_deadlock``).

    :ivar bind: the pool's name.
    :ivar endpoint: endpoint, command or task that asked for it.
    :ivar site: ``file:line`` that asked for it.
    :ivar waited_seconds: how long it had waited.
    :ivar error: the name of the exception's class: ``"PoolTimeout"``,
        ``"TooManyWaiting"`` or ``"PoolDeadlock"``.
    :ivar text: the exception's own text, which names the holders.
    :ivar pid: of this process.
    """

    bind: str
    endpoint: str
    site: str
    waited_seconds: float
    error: str
    text: str
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, slots=True)
class HeldConnection:
    """A connection that is out for too long (``connection_held_long``).

    :ivar bind: the pool's name.
    :ivar endpoint: endpoint, command or task that took it.
    :ivar site: ``file:line`` that took it.
    :ivar held_seconds: how long it has been out.
    :ivar limit_seconds: ``POOLGUARD_HELD_WARNING``.
    :ivar now_at: ``file:line in function`` that its thread was at; None if unknown.
    :ivar pid: of this process.
    """

    bind: str
    endpoint: str
    site: str
    held_seconds: float
    limit_seconds: float
    now_at: str | None
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, slots=True)
class RecycledConnection:
    """A connection that was closed, to be replaced (``connection_recycled``).

    :ivar bind: the pool's name.
    :ivar reason: ``"time"``: it had idled, or lived, for as long as it may; or
        ``"asked"``: by ``guard.recycle()`` or ``flask pool recycle``.
    :ivar age_seconds: since it was opened.
    :ivar pid: of this process.
    """

    bind: str
    reason: str
    age_seconds: float
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, slots=True)
class DatabaseOutage:
    """An outage of a server, as this process meets it (``database_away``,
    ``database_back``).

    :ivar bind: the pool's name.
    :ivar error: class and first line of the error that connecting met first.
    :ivar since: when that attempt failed, in local time.
    :ivar away_seconds: since that attempt began; in all, once it is back.
    :ivar pid: of this process.
    """

    bind: str
    error: str
    since: datetime
    away_seconds: float
    pid: int = field(default_factory=os.getpid)
