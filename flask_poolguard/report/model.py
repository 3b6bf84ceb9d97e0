"""A report as frozen data; the names are those of its JSON."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass

from ..databases import SessionState

SCHEMA_VERSION: t.Final = 1

Level = t.Literal["info", "warning", "critical"]
# Worst first: requests fail now or data is at risk; it will fail under load, or at
# night; it could be better.
LEVELS: t.Final[tuple[Level, ...]] = ("critical", "warning", "info")

# Fields that only the table for people shows.
NOT_IN_JSON: t.Final = {"json": False}


@dataclass(frozen=True, slots=True)
class Holder:
    """A connection that is out; None is unknown, or still being opened.

    :ivar kept: it outlives its scope on purpose (``guard.keep()``).
    :ivar server_id: the server's own number of the session.
    :ivar gone: whether the server has ended it.
    """

    held_seconds: float
    endpoint: str | None
    site: str | None
    thread: str | None
    server_id: int | None
    gone: bool = False
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """How many connections left the pool, by reason; None is unknown.

    :ivar recycled: their time was up.
    :ivar idle: nobody needed them.
    :ivar dead: the server, or something on the way, had ended them.
    :ivar overflow: they came back and the pool was full.
    :ivar invalidated: the app, or a failover, declared them unusable.
    :ivar closed: the pool was disposed of, or the app closed them.
    :ivar detached: the app took them out of the pool.
    """

    recycled: int | None
    idle: int | None
    dead: int
    overflow: int | None
    invalidated: int | None = None
    closed: int | None = None
    detached: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one pool was asked for since its worker started.

    :ivar nesting: the most connections that one thread had or wanted at once for the
        same request or command.
    :ivar threads: the most threads that lived at once and could have used the pool.
    :ivar inherited: connections that were open when the worker was forked.
    :ivar waits: checkouts that had to wait.
    :ivar demand: how often so many connections were out or wanted at a checkout; each
        number stands for those above the one before.
    """

    nesting: int
    threads: int
    inherited: int
    waits: int
    waited_seconds: float
    longest_wait_seconds: float
    demand: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One pool of one worker; None is unknown.

    :ivar size: 0 for no limit, as in SQLAlchemy.
    :ivar max_overflow: -1 for no limit.
    :ivar overflow: open connections above ``size``.
    :ivar waiting: threads that wait for others to give a connection back.
    :ivar connecting: threads for which a connection is tested or opened.
    :ivar obstacle: ``"away"`` or ``"full"`` if the server gave no connection to whoever
        asked last, for ``obstacle_seconds`` now; None if it did.
    :ivar timeouts: checkouts for which no connection came back in time.
    :ivar unavailable: checkouts that failed because the server gave no connection.
    :ivar timeout_seconds: ``pool_timeout`` of that worker; None also for no limit.
    :ivar held_warning_seconds: its ``held_warning``; None also for none.
    :ivar holders: longest first.
    """

    bind: str
    url: str
    pool_class: str
    size: int | None
    max_overflow: int | None
    checked_out: int | None
    idle: int | None
    overflow: int | None
    waiting: int | None
    oldest_wait_seconds: float | None
    connecting: int | None
    oldest_connect_seconds: float | None
    obstacle: str | None
    obstacle_seconds: float | None
    longest_held_seconds: float | None
    recycle_seconds: float | None
    recycle_source: str | None
    peak_checked_out: int | None
    checkouts: int | None
    connects: int
    timeouts: int | None
    unavailable: int | None
    timeout_seconds: float | None
    held_warning_seconds: float | None
    leaks: int
    closed: Closed
    usage: Usage
    holders: tuple[Holder, ...]

    @property
    def limit(self) -> int | None:
        """The most connections it can have; None without a limit, or unknown."""
        if not self.size or self.max_overflow is None or self.max_overflow < 0:
            return None
        return self.size + self.max_overflow

    @property
    def unserved(self) -> int | None:
        """How many threads have no connection yet; None is unknown."""
        return None if self.waiting is None else self.waiting + (self.connecting or 0)

    @property
    def holds_only_kept(self) -> bool:
        """Tell whether all that is out is kept on purpose, or nothing is out."""
        kept = [each for each in self.holders if each.kept]
        return len(kept) == self.checked_out

    @property
    def is_unlimited(self) -> bool:
        """Tell whether it is known to have no limit."""
        return self.size == 0 or self.max_overflow == -1


@dataclass(frozen=True, slots=True)
class Worker:
    """A live process of the app.

    :ivar started_at: when it began to keep its state file, ISO 8601.
    :ivar updated_seconds_ago: since anything happened in its pools.
    :ivar stopped: by a signal (SIGSTOP) or a debugger, so that it does nothing.
    """

    pid: int
    host: str
    started_at: str
    alive: bool
    updated_seconds_ago: float | None
    stopped: bool
    pools: tuple[PoolStatus, ...]


# Why a server could not be asked: nobody is there, it has no room, it refuses the
# login, or it took the connection and gave no answer in time.
Failure = t.Literal["away", "full", "login", "silent"]

Owner = t.Literal["worker", "process", "orphan", "other-host", "unknown"]


@dataclass(frozen=True, slots=True)
class Session:
    """One session of a server; None is unknown, or does not apply.

    :ivar owner: ``"worker"``, one of this report's; ``"process"``, another live one of
        this app on this host; ``"orphan"``, one of this host that is gone;
        ``"other-host"``; ``"unknown"`` where a proxy hides whose it is; None for
        everybody else.
    :ivar host: of the owner, as are ``pid`` and, for a worker's, ``bind``.
    :ivar endpoint: which holds it now, as it took it at ``site``.
    :ivar kept: on purpose.
    :ivar label: what the client calls itself; "" if it does not.
    :ivar statement: what it runs, or ran last in its open transaction.
    """

    id: int
    owner: Owner | None
    host: str | None
    pid: int | None
    bind: str | None
    endpoint: str | None
    site: str | None
    held_seconds: float | None
    kept: bool | None
    state: SessionState | None
    state_seconds: float | None
    age_seconds: float | None
    statement: str | None
    label: str | None
    user: str | None
    database: str | None
    client: str | None


@dataclass(frozen=True, slots=True)
class Server:
    """What a bind's server said when it was asked; None is unknown.

    :ivar connections: of all clients, without those that asked for this report.
    :ivar ours: how many of them the live workers' pools hold, of all binds that lead
        to this server.
    :ivar reserved: how many of ``max_connections`` are not for this app's user.
    :ivar sessions: all that the users of its binds may see; None if not asked for.
    :ivar sessions_hidden: what of them cannot be seen, and why.
    :ivar failure: why it could not be asked; None if it could, or was not to be.
    """

    bind: str
    product: str | None
    reachable: bool | None
    idle_timeout_seconds: float | None
    max_connections: int | None
    connections: int | None
    ours: int | None
    reserved: int | None = None
    sessions: tuple[Session, ...] | None = None
    sessions_hidden: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth knowing, and what to do about it.

    :ivar code: also the heading of its section in ``docs/findings.md``.
    :ivar message: what was seen.
    :ivar fix: the line to change, or what to do.
    :ivar consequence: what it leads to.
    """

    level: Level
    code: str
    message: str
    fix: str
    consequence: str | None = None


@dataclass(frozen=True, slots=True)
class BindSetting:
    """A setting in force for a bind, and who set it."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class BindSettings:
    """How this process would set up a bind's pool."""

    bind: str
    url: str
    pool_class: str
    settings: tuple[BindSetting, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The pools of an app's workers on this host, and their servers.

    :ivar taken_at: ISO 8601.
    :ivar host: the host that was looked at.
    :ivar binds: the settings of the process that made the report.
    """

    schema_version: int
    taken_at: str
    app: str
    workers: tuple[Worker, ...]
    servers: tuple[Server, ...]
    findings: tuple[Finding, ...]
    host: str = field(metadata=NOT_IN_JSON)
    binds: tuple[BindSettings, ...] = field(metadata=NOT_IN_JSON)

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``flask pool status --json`` prints, before it is JSON."""
        return t.cast("dict[str, t.Any]", to_plain(self))


def to_plain(value: t.Any) -> t.Any:
    """Return frozen data as what JSON has."""
    if is_dataclass(value):
        return {
            each.name: to_plain(getattr(value, each.name))
            for each in fields(value)
            if each.metadata.get("json", True)
        }
    if isinstance(value, Mapping):
        return {str(name): to_plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [to_plain(each) for each in value]
    return value
