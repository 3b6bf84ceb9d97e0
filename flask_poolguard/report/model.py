"""A report as frozen data; the names are those of its JSON."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ..budget import PlaceHolder
from ..databases import SessionState
from ..state.plain import INTERNAL, to_plain
from ..state.status import Worker

SCHEMA_VERSION: t.Final = 1

Level = t.Literal["info", "warning", "critical"]
# Worst first: requests fail now or data is at risk; it will fail under load, or at
# night; it could be better.
LEVELS: t.Final[tuple[Level, ...]] = ("critical", "warning", "info")


# Why a server could not be asked: it does not answer, it has no room, it refuses the
# login, or it took the connection and gave no answer in time.
Failure = t.Literal["away", "full", "login", "silent"]

Owner = t.Literal["worker", "process", "orphan", "other-host", "unknown"]


@dataclass(frozen=True, slots=True)
class Session:
    """One session of a server; None is unknown, or does not apply.

    :ivar owner: ``"worker"``, one of this report's; ``"process"``, another live one of
        this app on this host; ``"orphan"``, one of this host that is gone;
        ``"other-host"``; ``"unknown"`` where a proxy hides whose it is; None for
        all others.
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
    :ivar budget: ``POOLGUARD_BUDGET`` of the bind: how many connections the processes
        of this host may have together; None for none.
    :ivar budget_taken: how many places of it are taken.
    :ivar budget_holders: by which processes, those with the most first.
    :ivar budget_told: how the server's limits made the number of a budget that is
        ``"auto"``, or why they made none; "" for another.
    :ivar budget_file: the name of its file: binds with one name share it.
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
    budget: int | None = None
    budget_taken: int | None = None
    budget_holders: tuple[PlaceHolder, ...] = ()
    budget_told: str = ""
    budget_file: str = field(metadata=INTERNAL, default="")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth knowing, and what to do about it.

    :ivar code: also the heading of its section in ``docs/findings.md``.
    :ivar message: what was seen.
    :ivar fix: the line to change, or what to do.
    :ivar consequence: what it leads to.
    :ivar summary: cause, place and number in a few words; None for the message.
    """

    level: Level
    code: str
    message: str
    fix: str
    consequence: str | None = None
    summary: str | None = None

    @property
    def in_short(self) -> str:
        """What to say of it where there is room for one line."""
        return self.summary or self.message


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
    :ivar root_path: of its app.
    """

    schema_version: int
    taken_at: str
    app: str
    workers: tuple[Worker, ...]
    servers: tuple[Server, ...]
    findings: tuple[Finding, ...]
    host: str = field(metadata=INTERNAL)
    binds: tuple[BindSettings, ...] = field(metadata=INTERNAL)
    root_path: str = field(metadata=INTERNAL, default="")

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``flask pool status --json`` prints, before it is JSON."""
        return t.cast("dict[str, t.Any]", to_plain(self))
