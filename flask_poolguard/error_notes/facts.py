"""What is known of a connection at the moment of an error; None is unknown."""

from __future__ import annotations

from dataclasses import dataclass

from ..databases import IdleLimit, Loss


@dataclass(frozen=True, slots=True)
class HolderFacts:
    """Who took the connection, where, and how long ago.

    :ivar thread: the name of the thread that took it, None if that has ended.
    :ivar is_by_other: that is not the thread that met the error.
    """

    endpoint: str
    site: str
    seconds: float
    thread: str | None
    is_by_other: bool


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How the process's other connections to the same server fare.

    :ivar quiet: idle ones that nothing has happened to.
    :ivar gone: idle ones that the server ended before their time was up, and those
        that were lost within the same two seconds.
    """

    quiet: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """A connection that was lost, or is out of step.

    :ivar site: ``file:line`` of the app's statement that met the error.
    :ivar thread: the name of the thread that met it.
    :ivar opened_by: the process that opened it, if not this one; which is ``pid``.
    :ivar users: other threads that are at work on it in this moment, each as
        ``thread NAME at file:line in function``.
    :ivar limit: of the server, as read when the connection was made.
    :ivar largest: bytes of the statement and the largest set of its parameters, where
        the server limits the size of packets, else 0.
    :ivar read_timeout: the driver's, in seconds, if the user set one.
    :ivar outage: what the pool's last connects met, if the server is away.
    """

    bind: str
    loss: Loss
    site: str
    thread: str
    pid: int
    held: HolderFacts | None = None
    opened_by: int | None = None
    users: tuple[str, ...] = ()
    limit: IdleLimit | None = None
    largest: int = 0
    read_timeout: float | None = None
    neighbours: Neighbours = Neighbours()
    outage: str | None = None

    def is_overdue(self) -> bool:
        """Tell whether it was held for longer than the server lets anything idle."""
        return self.was_idle_too_long() or self.was_idle_too_long_in_transaction()

    def was_idle_too_long(self) -> bool:
        """Tell whether it was held for longer than a session may idle."""
        limit, held = self.limit, self.held
        return (
            limit is not None
            and limit.seconds is not None
            and held is not None
            and held.seconds >= limit.seconds
        )

    def was_idle_too_long_in_transaction(self) -> bool:
        """Tell whether it was held for longer than a transaction may idle."""
        limit, held = self.limit, self.held
        return (
            limit is not None
            and limit.transaction_seconds is not None
            and held is not None
            and held.seconds >= limit.transaction_seconds
        )


@dataclass(frozen=True, slots=True)
class First:
    """The error that broke a transaction, which the app caught.

    :ivar text: its class and the first line of the driver's message.
    :ivar kind: the statement's first word, such as ``INSERT``, if it has one.
    :ivar site: ``file:line`` of the app's statement.
    :ivar at: monotonic seconds; None if it was not seen when it happened.
    :ivar note: the note that it carries, if any.
    """

    text: str
    kind: str | None
    site: str
    at: float | None = None
    note: str | None = None
