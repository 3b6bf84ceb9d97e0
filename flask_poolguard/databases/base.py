"""The protocol of a server family, and the data that it returns."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
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
class ServerView:
    """What a server says of itself when asked; None is unknown.

    :ivar connections: sessions of all clients, without the one that asked.
    :ivar session_ids: ids of the sessions that this user may see, likewise.
    """

    product: str
    idle_limit: IdleLimit
    max_connections: int | None = None
    connections: int | None = None
    session_ids: frozenset[int] | None = field(default=None, repr=False)


class Database(t.Protocol):
    """A family of servers. All methods take a raw DB-API connection."""

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Ask the session for its own limit, leaving no transaction open."""

    def server_id(self, connection: Connection) -> int | None:
        """Return the server's number of this session, without asking the server."""

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Tell whether an answer is still to be read, so that a rollback would block
        or misread it. Asks the driver, never the server.
        """

    def view(self, connection: Connection) -> ServerView:
        """Ask the server about itself."""


@contextmanager
def cursor_of(connection: Connection) -> Iterator[t.Any]:
    """Give a cursor that is closed in any case."""
    with closing(connection.cursor()) as cursor:
        yield cursor
