"""The one shape of all that is known of a worker: its pools, and what they did.

A worker's tracker fills a :class:`PoolStatus`, its state file holds it, the reader
returns it, the rules judge it, and every surface shows it. To add a figure means: a
field here, with a default so that files of workers of an earlier release can be read;
what counts it in ``tracking/pool_figures.py``, and its line in ``status_of()`` of
``tracking/pool_status.py`` (in ``COUNTERS`` there, if it only grows); the column that
shows it. The version in ``file_format.MAGIC`` changes only with the bytes' layout.

What ``--json`` prints has the names of these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .histogram import Durations
from .history import History
from .plain import ELAPSING, FOUND_OUT, INTERNAL
from .process import Process


@dataclass(frozen=True, slots=True)
class Holder:
    """A connection that is out; None is unknown, or still being opened.

    :ivar kept: it outlives its scope on purpose (``guard.keep()``).
    :ivar server_id: the server's own number of the session; ``gone`` if it ended it.
    :ivar now: the app's line that runs now in the thread that took it, as ``file:line
        in function``; None also for less than a second.
    :ivar now_seconds: since that was seen.
    """

    held_seconds: float
    endpoint: str | None
    site: str | None
    thread: str | None
    server_id: int | None
    gone: bool = False
    kept: bool = False
    now: str | None = None
    now_seconds: float | None = None

    @property
    def is_being_opened(self) -> bool:
        """Tell whether no code has it yet."""
        return self.thread is None and self.endpoint is None


@dataclass(frozen=True, slots=True)
class IdleConnection:
    """A connection that waits in its pool; None is unknown."""

    idle_seconds: float
    server_id: int | None


@dataclass(frozen=True, slots=True)
class Closed:
    """How many connections left the pool, by reason; None is unknown.

    :ivar recycled: their time was up.
    :ivar idle: they were not needed.
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
    :ivar server_threads: with how many threads the worker's server serves requests;
        None if that is not known.
    :ivar inherited: connections that were open when the worker was forked.
    :ivar waits: checkouts that had to wait.
    :ivar demand: how often so many connections were out or wanted at a checkout; each
        number stands for those above the one before.
    :ivar blockers: a sum of :class:`flask_poolguard.pool.Blocker`.
    :ivar renewed: the number of the last request to replace all connections.
    :ivar outdated: connections that are older than that, and out.
    """

    nesting: int
    threads: int
    inherited: int
    waits: int
    waited_seconds: float
    longest_wait_seconds: float
    demand: Mapping[int, int]
    blockers: int = field(metadata=INTERNAL, default=0)
    renewed: int = field(metadata=INTERNAL, default=0)
    outdated: int = field(metadata=INTERNAL, default=0)
    server_threads: int | None = field(metadata=FOUND_OUT, default=None)

    @property
    def most_threads(self) -> int:
        """The most threads that could use the pool at once, as far as it is known."""
        return max(self.threads, self.server_threads or 0)


@dataclass(frozen=True, slots=True)
class LeakingLine:
    """How often an endpoint did not give back what it took at a line."""

    endpoint: str
    site: str
    count: int


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """How many threads have waited for a second or longer at a line of the app."""

    site: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """One pool of one worker; None is unknown.

    :ivar size: 0 for no limit, as in SQLAlchemy.
    :ivar max_overflow: -1 for no limit.
    :ivar has_auto_size, has_auto_overflow: whether these follow what is asked for.
    :ivar swings: how often a lowered size was raised again within the last hour.
    :ivar overflow: open connections above ``size``.
    :ivar waiting: threads that wait for others to give a connection back.
    :ivar connecting: threads for which a connection is tested or opened.
    :ivar longest_connect_seconds: the most that one of these took, if it failed too.
    :ivar obstacle: ``"away"``, ``"full"`` or ``"login"`` (it refuses that) if the
        server gave no connection to the thread that asked last, for
        ``obstacle_seconds`` now; None if it did.
    :ivar timeouts: checkouts for which no connection came back in time;
        ``unavailable``: that failed because the server gave none.
    :ivar refused_writes: statements that a server refused which may not write any more.
    :ivar deadlocks: of the ``timeouts``, those of threads that held a connection and
        wanted another, as all others that held one did; the last of them asked at
        ``deadlock_line``.
    :ivar timeout_seconds: ``pool_timeout`` of that worker; None also for no limit.
    :ivar held_warning_seconds: its ``held_warning``; None also for none.
    :ivar holders: longest first.
    :ivar idle_connections: those in the pool.
    :ivar server_limit_seconds: after which the server ends idle sessions.
    :ivar learned_limit_seconds: after which idle connections were found dead.
    :ivar is_counted: whether its checkouts can be told apart (not with a StaticPool).
    :ivar recycles_by_age: whether the user's own ``pool_recycle`` is in force.
    :ivar leaking_lines: which took what was not given back, as far as there is room.
    :ivar unlisted_out: connections that are out and have no slot in the file;
        ``unlisted_checkouts``: their checkouts; ``earlier_checkouts``: in older slots.
    :ivar waiting_lines: where threads wait, those with the most first.
    :ivar activities: what a thread does that has held a connection for a second or
        longer, by the number of the connection's slot; seen ``seen_seconds`` ago.
    :ivar budget_file: name of the file of its budget; "" for none.
    :ivar history: of the last hour; ``durations``: of all time.
    """

    bind: str
    url: str
    pool_class: str
    size: int | None
    max_overflow: int | None
    has_auto_size: bool = False
    has_auto_overflow: bool = False
    swings: int = 0
    checked_out: int | None = field(metadata=FOUND_OUT, default=None)
    idle: int | None = field(metadata=FOUND_OUT, default=None)
    overflow: int | None = field(metadata=FOUND_OUT, default=None)
    waiting: int | None
    oldest_wait_seconds: float | None = field(metadata=ELAPSING)
    connecting: int | None
    oldest_connect_seconds: float | None = field(metadata=ELAPSING)
    longest_connect_seconds: float | None = None
    obstacle: str | None
    obstacle_seconds: float | None = field(metadata=ELAPSING)
    longest_held_seconds: float | None = field(metadata=FOUND_OUT, default=None)
    recycle_seconds: float | None
    recycle_source: str | None
    peak_checked_out: int | None
    checkouts: int | None = field(metadata=FOUND_OUT, default=None)
    connects: int
    timeouts: int | None
    unavailable: int | None
    refused_writes: int = 0
    deadlocks: int = 0
    deadlock_line: str | None = None
    timeout_seconds: float | None
    held_warning_seconds: float | None
    leaks: int
    closed: Closed
    usage: Usage
    holders: tuple[Holder, ...] = field(metadata=FOUND_OUT, default=())
    idle_connections: tuple[IdleConnection, ...] = field(
        metadata=FOUND_OUT | INTERNAL, default=()
    )
    server_limit_seconds: float | None = field(metadata=INTERNAL)
    learned_limit_seconds: float | None = field(metadata=INTERNAL)
    is_counted: bool = field(metadata=INTERNAL)
    recycles_by_age: bool = field(metadata=INTERNAL)
    leaking_lines: tuple[LeakingLine, ...] = field(metadata=INTERNAL)
    unlisted_out: int = field(metadata=INTERNAL)
    unlisted_checkouts: int = field(metadata=INTERNAL)
    earlier_checkouts: int = field(metadata=INTERNAL, default=0)
    waiting_lines: tuple[WaitingLine, ...] = ()
    activities: Mapping[int, str] = field(metadata=INTERNAL, default_factory=dict)
    seen_seconds: float | None = field(metadata=INTERNAL | ELAPSING, default=None)
    budget_file: str = field(metadata=INTERNAL, default="")
    history: History = field(metadata=FOUND_OUT | INTERNAL, default_factory=History)
    durations: Durations = field(metadata=INTERNAL, default=Durations())

    @property
    def limit(self) -> int | None:
        """The most connections it can have; None without a limit, or unknown."""
        if not self.size or self.max_overflow is None or self.max_overflow < 0:
            return None
        return self.size + self.max_overflow

    @property
    def timed_out(self) -> int:
        """Checkouts for which no connection came back in time, as far as known."""
        return (self.timeouts or 0) - self.deadlocks

    @property
    def unserved(self) -> int | None:
        """How many threads have no connection yet."""
        return None if self.waiting is None else self.waiting + (self.connecting or 0)

    @property
    def holds_only_kept(self) -> bool:
        """Tell whether all that is out is kept on purpose, or nothing is out."""
        return sum(each.kept for each in self.holders) == self.checked_out

    @property
    def is_full(self) -> bool:
        """Tell whether all connections that it may have are out."""
        return self.limit is not None and (self.checked_out or 0) >= self.limit

    def is_long(self, held_seconds: float | None) -> bool:
        """Tell whether a connection is held for longer than ``held_warning`` allows."""
        limit = self.held_warning_seconds
        return limit is not None and (held_seconds or 0.0) >= limit

    @property
    def is_unlimited(self) -> bool:
        """Tell whether it is known to have no limit."""
        return self.size == 0 or self.max_overflow == -1

    @property
    def is_used(self) -> bool:
        """Tell whether anything has, or wants, a connection now."""
        return any((self.waiting, self.connecting, self.holders, self.unlisted_out))

    @property
    def connections(self) -> tuple[Holder | IdleConnection, ...]:
        """Those that are open, as far as they are listed."""
        return (*self.holders, *self.idle_connections)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A live process of the app.

    :ivar started_at: when it began to keep its state file, ISO 8601.
    :ivar updated_seconds_ago: since anything happened in its pools.
    :ivar stopped: by a signal (SIGSTOP) or a debugger, so that it does nothing.
    :ivar root_path: of its app: where it was started from.
    :ivar has_served: it has answered requests.
    :ivar is_started: a server has started it to answer some, which it has not yet.
    :ivar path: of its state file.
    :ivar read_at: when that was read, in monotonic seconds.
    """

    pid: int
    host: str
    started_at: str
    alive: bool
    updated_seconds_ago: float | None
    stopped: bool
    pools: tuple[PoolStatus, ...]
    process: Process = field(metadata=INTERNAL)
    root_path: str = ""
    has_served: bool = field(metadata=INTERNAL)
    is_started: bool = field(metadata=INTERNAL, default=False)
    path: str = field(metadata=INTERNAL)
    read_at: float = field(metadata=INTERNAL)
