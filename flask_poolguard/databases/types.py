"""What a database server tells, as data, and helpers of the server families."""

from __future__ import annotations

import enum
import typing as t
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

# A DB-API connection as the driver made it (PEP 249); drivers share no base class.
Connection = t.Any


@dataclass(frozen=True, slots=True)
class IdleLimit:
    """How long the server lets a session idle.

    :ivar seconds: the limit, or None for no limit (or none that is known).
    :ivar source: the same in words, such as ``wait_timeout 600 s``.
    :ivar transaction_seconds: the limit of a session that idles within a transaction,
        None likewise.
    """

    seconds: float | None
    source: str
    transaction_seconds: float | None = None


# What a server session does, in the words of PostgreSQL, for all servers.
SessionState = t.Literal["active", "idle", "idle in transaction"]


@dataclass(frozen=True, slots=True)
class ServerSession:
    """One session of a client, as its server shows it; None is unknown.

    :ivar label: what the client calls itself, ``""`` if it does not.
    :ivar client: address and port it connected from, or ``"local"``.
    :ivar state_seconds: since it has been in this state.
    :ivar age_seconds: since it connected.
    :ivar statement: what it runs, or ran last in its open transaction, on one line
        and cut off; None if there is none, or it was not asked for.
    """

    id: int
    label: str | None
    user: str | None
    database: str | None
    client: str | None
    state: SessionState | None
    state_seconds: float | None
    age_seconds: float | None
    statement: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """How many connections a server, a user or a database may have.

    :ivar scope: whose connections count.
    :ivar name: of the user or database, "" of the server.
    :ivar used: how many count now, without the one that asks; None is unknown.
    :ivar remedy: what raises the limit.
    """

    scope: t.Literal["server", "user", "database"]
    name: str
    limit: int
    used: int | None
    remedy: str


@dataclass(frozen=True, slots=True)
class ServerView:
    """What a server says of itself when asked; None is unknown.

    :ivar idle_limit: of a session like those of the pool.
    :ivar connections: sessions of all clients, without the one that asked.
    :ivar version: as numbers, such as (10, 11, 6).
    :ivar reserved: how many of ``max_connections`` this user may not have.
    :ivar user: as whom the server knows us.
    :ivar limits: of this user and database.
    :ivar sessions: those that this user may see, without the one that asked. Of MySQL
        and MariaDB without labels and transactions, which take further statements.
    :ivar session_ids: their ids.
    :ivar counters: what the server counts since it started, by the server's names.
    :ivar is_interactive: whether the session's idle limit is ``interactive_timeout``.
    :ivar usual_idle_seconds: the server's ``wait_timeout`` for other new sessions.
    :ivar idle_in_transaction_limit: how long a transaction may be left alone.
    :ivar is_encrypted: whether this session is.
    :ivar handshake_id: the session's number as the driver was told it.
    :ivar session_id: its number as the server that runs the statements calls it.
    """

    product: str
    idle_limit: IdleLimit
    max_connections: int | None = None
    connections: int | None = None
    version: tuple[int, ...] | None = None
    reserved: int | None = None
    user: str | None = None
    limits: tuple[ConnectionLimit, ...] = ()
    sessions: tuple[ServerSession, ...] | None = field(default=None, repr=False)
    counters: Mapping[str, int] | None = None
    is_interactive: bool | None = None
    usual_idle_seconds: float | None = None
    idle_in_transaction_limit: IdleLimit | None = None
    is_encrypted: bool | None = None
    handshake_id: int | None = None
    session_id: int | None = None
    session_ids: frozenset[int] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = self.sessions
        ids = None if known is None else frozenset(each.id for each in known)
        object.__setattr__(self, "session_ids", ids)

    @property
    def is_proxied(self) -> bool:
        """Tell whether a pooler between client and server gave out the number."""
        if self.handshake_id is None or self.session_id is None:
            return False
        return not is_same_session(self.handshake_id, self.session_id)

    @property
    def has_drivers_numbers(self) -> bool:
        """Tell whether the server is known to number sessions as drivers are told."""
        return self.handshake_id is not None and self.handshake_id == self.session_id


def is_same_session(handshake_id: int, session_id: int) -> bool:
    """Tell whether a driver's and a server's number mean the same session.

    Handshakes carry 32 bits, which servers that run for long exceed.
    """
    return (handshake_id - session_id) % 2**32 == 0


@dataclass(frozen=True, slots=True)
class Hidden:
    """What cannot be seen of a server's sessions.

    :ivar reason: why, or the statement by which an administrator lets it be seen.
    """

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} ({self.reason})"


@dataclass(frozen=True, slots=True)
class SessionList:
    """The sessions of a server that a user may see.

    :ivar hidden: what cannot be seen of them.
    """

    sessions: tuple[ServerSession, ...] = ()
    hidden: tuple[Hidden, ...] = ()


def merge_sessions(
    lists: Sequence[SessionList], *, without: Collection[int]
) -> SessionList:
    """Return what several users together see of one server.

    What one of them can see is not hidden.

    :param without: ids of sessions to leave out.
    """
    sessions: dict[int, ServerSession] = {}
    for each in lists:
        for session in each.sessions:
            known = sessions.get(session.id)
            if known is None or _gaps(session) < _gaps(known):
                sessions[session.id] = session
    hidden = [
        one
        for one in lists[0].hidden
        if all(one.what in [other.what for other in each.hidden] for each in lists)
    ]
    found = (sessions[number] for number in sorted(sessions) if number not in without)
    return SessionList(tuple(found), tuple(hidden))


def _gaps(session: ServerSession) -> int:
    return [session.state, session.label].count(None)


# As much of a statement as a line of a report has room for.
LONGEST_STATEMENT: t.Final = 80


def shorten_statement(sql: str | None) -> str | None:
    """Return a statement on one line, cut off, without control characters."""
    if not sql:
        return None
    line = " ".join(sql.split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    if len(line) > LONGEST_STATEMENT:
        line = f"{line[: LONGEST_STATEMENT - 1]}…"
    return line


class ConnectFailure(enum.Enum):
    """Why a connect failed. The first two may pass while a thread waits."""

    AWAY = "away"  # no answer, or not that of a server that is ready
    FULL = "full"  # the server answers, but has no room for one more connection
    LOGIN = "login"  # the server does not let this user in


class Loss(enum.Enum):
    """Why a session ended or is of no use, as far as an error alone tells."""

    IDLE = "it idled for longer than the server allows"
    IDLE_IN_TRANSACTION = "its transaction idled for longer than the server allows"
    LONG_TRANSACTION = "its transaction took longer than the server allows"
    KILLED = "another client ended this session"
    TERMINATED = "another client ended this session, or the server was shut down"
    SHUT_DOWN = "the server shut down or crashed"
    TOO_BIG = "a packet was bigger than max_allowed_packet"
    NO_ANSWER = "the driver's own time limit for an answer was up"
    OUT_OF_STEP = "answers and questions do not fit together"
    UNKNOWN = "the line was closed without a word"


@contextmanager
def cursor_of(connection: Connection) -> Iterator[t.Any]:
    """Give a cursor that is closed in any case."""
    with closing(connection.cursor()) as cursor:
        yield cursor


# How drivers call what decides when a transaction begins, and what it may do. Read from
# the driver's own memory: none of them asks the server.
_SETTINGS: t.Final = ("autocommit", "isolation_level", "readonly", "deferrable")


def transaction_settings(connection: Connection) -> tuple[object, ...]:
    """Return a connection's autocommit and isolation settings, as its driver has them.

    Only good for comparing two moments; None where the driver does not tell.
    """
    found = [getattr(connection, name, None) for name in _SETTINGS]
    ask = getattr(connection, "get_autocommit", None)  # PyMySQL, mysqlclient
    return (*(None if callable(each) else each for each in found), ask and ask())


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error, of which SQLAlchemy's DBAPIError wraps one."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error
