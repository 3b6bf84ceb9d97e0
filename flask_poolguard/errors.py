"""The exceptions that Flask-PoolGuard raises, and what a leak is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import exc


class PoolGuardError(Exception):
    """Base of every error that Flask-PoolGuard raises itself."""


class ConfigError(PoolGuardError, ValueError):
    """A setting is unknown, has an impossible value, or contradicts another one."""


class SetupError(PoolGuardError, RuntimeError):
    """The extension was wired up in a way that cannot work."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A connection that was still out when its scope ended.

    :ivar bind: the pool's name.
    :ivar endpoint: endpoint or command that took it.
    :ivar site: ``file:line`` that took it.
    :ivar held_seconds: how long it had been out.
    :ivar action: what the guard did: ``"returned"``, ``"discarded"`` or
        ``"left"`` (async drivers, which can only be closed by their event loop).
    """

    bind: str
    endpoint: str
    site: str
    held_seconds: float
    action: str

    def describe(self) -> str:
        """Return one line: what, where, and how to fix it."""
        done = {
            "returned": "it was rolled back and returned to its pool",
            "discarded": "it was closed",
            "left": "an async driver's connection cannot be returned from here",
        }[self.action]
        return (
            f"{self.endpoint} did not give back a connection of bind {self.bind!r}"
            f" that it took at {self.site} {self.held_seconds:.3f} s ago; {done}."
            " Use it in a with block, or close it in a finally clause, at that line."
        )


class LeakError(PoolGuardError, RuntimeError):
    """Connections were still out when their scope ended.

    Only raised with ``POOLGUARD_ON_LEAK="raise"``, after they are all back.

    :ivar leaks: one :class:`~flask_poolguard.Leak` per connection.
    """

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        self.leaks = leaks
        super().__init__("\n".join(leak.describe() for leak in leaks))


class PoolTimeout(PoolGuardError, exc.TimeoutError):
    """No connection came free in time.

    A :class:`sqlalchemy.exc.TimeoutError`, so whatever handles that handles this.
    Its text says who holds the connections.
    """


class TooManyWaiting(PoolTimeout):
    """As many wait for a connection as ``POOLGUARD_MAX_WAITING`` allows."""


class PoolDeadlock(PoolTimeout):
    """Every connection of the pool is held by somebody who waits for one more.

    Of those the youngest gets this error, at once; the others go on.
    """


class DatabaseUnavailable(PoolGuardError, exc.OperationalError):
    """The database could not be connected to for as long as it was tried.

    A :class:`sqlalchemy.exc.OperationalError`, so whatever handles that handles this;
    ``orig`` is the driver's last error. If the pool is the guard's, its text says since
    when, and how often it was tried; others try once.
    """
