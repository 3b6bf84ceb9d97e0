"""The protocol of a server family, and the data that it returns."""

from __future__ import annotations

import enum
import typing as t
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

# A DB-API connection as the driver made it (PEP 249); drivers share no base class.
Connection = t.Any


@dataclass(frozen=True, slots=True)
class IdleLimit:
    """How long the server lets a session idle.

    :ivar seconds: the limit, or None for no limit (or none that is known).
    :ivar source: the same in words, such as ``wait_timeout 600 s``.
    """

    seconds: float | None
    source: str


@dataclass(frozen=True, slots=True)
class ServerSession:
    """A client's session, as the server lists it; None is unknown to this user.

    :ivar state: "running a query", "idle in transaction" or "idle".
    :ivar seconds: how long it has been in that state.
    """

    id: int
    user: str | None
    database: str | None
    state: str | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """How many connections a user or a database may have, below the server's own limit.

    :ivar scope: whose connections count.
    :ivar name: of the user or database.
    :ivar used: how many count now, without the one that asks; None is unknown.
    :ivar remedy: what raises the limit.
    """

    scope: t.Literal["user", "database"]
    name: str
    limit: int
    used: int | None
    remedy: str


@dataclass(frozen=True, slots=True)
class ServerView:
    """What a server says of itself when asked; None is unknown.

    :ivar idle_limit: of a session like those of the pool.
    :ivar connections: sessions of all clients, without the one that asked.
    :ivar session_ids: ids of the sessions that this user may see, likewise.
    :ivar version: as numbers, such as (10, 11, 6).
    :ivar reserved: how many of ``max_connections`` this user may not have.
    :ivar user: as whom the server knows us.
    :ivar limits: of this user and database.
    :ivar sessions: those of ``session_ids``.
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
    session_ids: frozenset[int] | None = field(default=None, repr=False)
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

    @property
    def is_proxied(self) -> bool:
        """Tell whether somebody between client and server gave out the number."""
        if self.handshake_id is None or self.session_id is None:
            return False
        return not is_same_session(self.handshake_id, self.session_id)


def is_same_session(handshake_id: int, session_id: int) -> bool:
    """Tell whether a driver's and a server's number mean the same session.

    Handshakes carry 32 bits, which servers that run for long exceed.
    """
    return (handshake_id - session_id) % 2**32 == 0


def ids_of(sessions: Collection[ServerSession] | None) -> frozenset[int] | None:
    """Return the ids of sessions; None for unknown ones."""
    return None if sessions is None else frozenset(each.id for each in sessions)


class ConnectFailure(enum.Enum):
    """Why a connect failed that may succeed a little later."""

    AWAY = "away"  # nobody answers, or not as a server that is ready
    FULL = "full"  # the server answers, but has no room for one more connection


class Database(t.Protocol):
    """A family of servers. All methods take a raw DB-API connection, and an error as
    the driver raised it or as SQLAlchemy wrapped it.

    :ivar has_server: whether there is somebody at the other end who may hang up.
    """

    has_server: bool

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Ask the session for its own limit, leaving no transaction open."""

    def server_id(self, connection: Connection) -> int | None:
        """Return the server's number of this session, without asking the server."""

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Tell whether an answer is still to be read, so that a rollback would block
        or misread it. Asks the driver, never the server.
        """

    def fileno_of(self, connection: Connection) -> Callable[[], int] | None:
        """Return a cheap callable that gives the file descriptor of the connection's
        socket now; None if the driver has no socket that can be reached.

        It raises, or returns -1, once the driver has closed the socket.
        """

    def connect_failure(self, error: BaseException) -> ConnectFailure | None:
        """Tell whether a failed connect may pass by itself; None if it will not."""

    def means_lost(self, error: BaseException) -> bool:
        """Tell whether an error that SQLAlchemy may take for harmless means that the
        session is gone or out of step.
        """

    def means_read_only(self, error: BaseException, connection: Connection) -> bool:
        """Tell whether the server refused a write because it is read-only now, as
        after a failover, and not because the session's owner asked for that.
        """

    def session_states(
        self, connection: Connection, ids: Collection[int]
    ) -> dict[int, str]:
        """Ask the server what these sessions do: "running a query", "idle in
        transaction" or "idle". Leaves no transaction open.

        Sessions that it does not show (gone, or another user's) are left out.
        """

    def limit_connect(self, arguments: dict[str, t.Any], seconds: float) -> None:
        """Give the arguments of a driver's ``connect()`` a time limit, unless they
        have one.
        """

    def view(self, connection: Connection) -> ServerView:
        """Ask the server about itself."""


@contextmanager
def cursor_of(connection: Connection) -> Iterator[t.Any]:
    """Give a cursor that is closed in any case."""
    with closing(connection.cursor()) as cursor:
        yield cursor


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error, of which SQLAlchemy's DBAPIError wraps one."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error
