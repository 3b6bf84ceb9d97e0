"""The error that a connection's old owner gets after the guard took it back.

A proxy whose connection was taken back is given a stand-in for the driver's connection,
which answers any use but ending it with an error that says what happened. A session
that lost something is marked, and raises the same error until it is rolled back or
closed.
"""

from __future__ import annotations

import time
import typing as t

from sqlalchemy import event

from ..errors import ConnectionReturned

if t.TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction
    from sqlalchemy.pool import PoolProxiedConnection

# On a session that lost what it had not committed.
_ON_SESSION: t.Final = "_poolguard_returned"

# As a note on errors that SQLAlchemy raises because of this one.
HOW_TO_KEEP: t.Final = (
    "To keep a connection or session beyond its scope on purpose, call"
    " guard.keep(connection), or connection.detach(), before the scope ends."
)


class Reclaimed:
    """That a connection was taken back: when, at the end of what, taken where.

    :ivar at: monotonic seconds.
    """

    __slots__ = ("_begins", "_goes_on", "at")

    def __init__(self, what: str, site: str, scope: str, done: str) -> None:
        self.at = time.monotonic()
        self._begins = (
            f"This {what} was taken back by Flask-PoolGuard at"
            f" {time.strftime('%H:%M:%S')}"
        )
        self._goes_on = (
            f", at the end of {scope}, because it was still open; it had been taken at"
            f" {site}. {done}."
        )

    def error(self) -> ConnectionReturned:
        """Return the error for the code that uses it now."""
        age = time.monotonic() - self.at
        return ConnectionReturned(
            f"{self._begins} ({age:.1f} s ago){self._goes_on} {HOW_TO_KEEP}"
        )


class ReturnedConnection:
    """Stands in a proxy for a driver's connection that was taken back.

    Ending it does nothing, so that a late ``close()`` or ``rollback()`` is harmless.
    """

    def __init__(self, reclaimed: Reclaimed) -> None:
        self._reclaimed = reclaimed

    def rollback(self) -> None:
        """Do nothing: it was rolled back or closed."""

    def close(self) -> None:
        """Do nothing: it belongs to its pool again, or was closed."""

    def __getattr__(self, name: str) -> t.NoReturn:
        if name.startswith("__"):  # a protocol that Python asks for, such as copying
            raise AttributeError(name)
        raise self._reclaimed.error()

    def __setattr__(self, name: str, value: object) -> None:
        if name != "_reclaimed":
            raise self._reclaimed.error()
        object.__setattr__(self, name, value)


def stand_in(fairy: PoolProxiedConnection, reclaimed: Reclaimed) -> None:
    """Let each further use of a proxy, which has no connection any more, raise."""
    fairy.dbapi_connection = ReturnedConnection(reclaimed)  # type: ignore[misc] # has what ending it calls


class Mark(t.NamedTuple):
    """What a session's next use is to be told.

    :ivar is_sure: it lost something; else it may have, and only a commit is told.
    """

    reclaimed: Reclaimed
    is_sure: bool


def mark_session(session: Session, reclaimed: Reclaimed, is_sure: bool = True) -> None:
    """Let each use of a session raise, until it is rolled back or closed.

    So that the session hears of either, it is given an empty transaction, such as it
    would be in if nothing had been taken from it.
    """
    if not session.in_transaction():
        session.begin()
    session.__dict__[_ON_SESSION] = Mark(reclaimed, is_sure)
    event.listen(session, "after_transaction_end", _ended)


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        unmark(session)


def mark_of(session: Session) -> Mark | None:
    """Return the mark of a session, None if it has none."""
    mark: Mark | None = session.__dict__.get(_ON_SESSION)
    return mark


def unmark(session: Session) -> None:
    """Let a session be used as ever."""
    session.__dict__.pop(_ON_SESSION, None)
