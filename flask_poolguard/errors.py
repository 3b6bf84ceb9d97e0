"""The exceptions and warnings of Flask-PoolGuard, and what a leak is."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from sqlalchemy import exc


class PoolGuardError(Exception):
    """Base of every error that Flask-PoolGuard raises itself."""


class ConfigError(PoolGuardError, ValueError):
    """A setting is unknown, has an impossible value, or contradicts another one."""


class SetupError(PoolGuardError, RuntimeError):
    """The extension was wired up in a way that cannot work."""


# What a leak's message advises, by what was taken and where.
WITH_BLOCK: t.Final = (
    "Use it in a with block, or close it in a finally clause, at that line; if it is to"
    " outlive its scope on purpose, say so with guard.keep(connection)."
)
CLOSE_SESSION: t.Final = (
    "Use the session in a with block; for a scoped_session call remove() in a function"
    " registered with @app.teardown_appcontext; if it is to outlive its scope on"
    " purpose, say so with guard.keep(session)."
)
KEEP_IT: t.Final = (
    "If it is to stay open on purpose (a lock, LISTEN, a test's transaction), say so"
    " with guard.keep(connection) or take it with connection.detach(); otherwise use it"
    " in a with block at that line."
)
POP_CONTEXT: t.Final = (
    "Its thread has ended and its app context was never popped: use"
    " `with app.app_context():`."
)


@dataclass(frozen=True, slots=True)
class Leak:
    """A connection that was still out when its scope ended.

    :ivar bind: the pool's name.
    :ivar endpoint: endpoint, command or task that took it.
    :ivar site: ``file:line`` that took it.
    :ivar held_seconds: how long it had been out.
    :ivar action: what the guard did: ``"returned"`` (rolled back first),
        ``"discarded"`` (closed) or ``"left"`` (an async driver's, which only its event
        loop can close, and one that others use as well).
    :ivar reason: why it was not returned; empty if it was.
    :ivar lost: what its ORM session had not committed, such as ``3 new, 1 changed``;
        empty if there was nothing, or no session.
    :ivar remedy: what to change, as a sentence.
    """

    bind: str
    endpoint: str
    site: str
    held_seconds: float
    action: str
    reason: str = ""
    lost: str = ""
    remedy: str = WITH_BLOCK

    def describe(self) -> str:
        """Return one line: what, where, and how to fix it."""
        done = {
            "returned": "it was rolled back and returned to its pool",
            "discarded": "it was closed"
            + (f", because {self.reason}" * bool(self.reason)),
            "left": f"it was left as it is, because {self.reason}",
        }[self.action]
        lost = (
            f" Lost with its session, not committed: {self.lost}." if self.lost else ""
        )
        return (
            f"{self.endpoint} did not give back a connection of bind {self.bind!r}"
            f" that it took at {self.site} {self.held_seconds:.3f} s ago; {done}.{lost}"
            f" {self.remedy}"
        )

    def summary(self) -> str:
        """Return what is the same for each leak of an endpoint at a line."""
        return (
            f"{self.endpoint} did not give back a connection of bind {self.bind!r}"
            f" that it took at {self.site}. {self.remedy}"
        )


class LeakWarning(UserWarning):
    """A connection was still out when its scope ended.

    Each leak is also a Python warning of this category, at the line that took the
    connection, once it is back. pytest shows it in its summary of warnings. A filter
    that makes it an error (pytest's ``-W error::flask_poolguard.LeakWarning``) lets the
    request fail with it. Python's own ``-W`` knows only categories that are built in,
    such as ``UserWarning``, of which this is one.

    Python shows a warning once per text and line, so the text tells neither times nor
    what was lost.

    :ivar leak: the :class:`~flask_poolguard.Leak`; None in a copy, such as one that
        pytest-xdist has sent from another process.
    """

    def __init__(self, message: str, leak: Leak | None = None) -> None:
        super().__init__(message)
        self.leak = leak


class LeakError(PoolGuardError, RuntimeError):
    """Connections were still out when their scope ended.

    Only raised with ``POOLGUARD_ON_LEAK="raise"``, after they are all back.

    :ivar leaks: one :class:`~flask_poolguard.Leak` per connection.
    """

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        self.leaks = leaks
        super().__init__("\n".join(leak.describe() for leak in leaks))


class ConnectionReturned(PoolGuardError, exc.InvalidRequestError):
    """A connection or session is used after the guard took it back.

    Its scope had ended before it was closed. Raised by the next use after that, and by
    a ``commit()``; from ``execute()`` it arrives as the cause (and ``orig``) of a
    :class:`sqlalchemy.exc.StatementError`. After a ``rollback()`` a session or
    connection can be used again, with another connection of the pool.
    """


class PoolTimeout(PoolGuardError, exc.TimeoutError):
    """No connection came free in time.

    A :class:`sqlalchemy.exc.TimeoutError`, so whatever handles that handles this.
    Its text says who holds the connections.

    :ivar waited_seconds: how long the checkout took until then.
    """

    waited_seconds = 0.0


class TooManyWaiting(PoolTimeout):
    """As many wait for a connection as ``POOLGUARD_MAX_WAITING`` allows."""


class PoolDeadlock(PoolTimeout):
    """Every connection of the pool is held by a request that waits for one more.

    Of those the youngest gets this error, at once; the others go on.
    """


class DatabaseUnavailable(PoolGuardError, exc.OperationalError):
    """The database could not be connected to for as long as it was tried.

    A :class:`sqlalchemy.exc.OperationalError`, so whatever handles that handles this;
    ``orig`` is the driver's last error. If the pool is the guard's, its text says since
    when, and how often it was tried; others try once.
    """
