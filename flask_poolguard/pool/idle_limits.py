"""How long the connections of a pool may idle: derived, learned, or the user's own."""

from __future__ import annotations

import typing as t

from ..config import AUTO
from ..databases import IdleLimit, Loss
from ..log_lines import warn
from .idle_deaths import IdleDeaths
from .types import Policy, PoolCallbacks, Recycle

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable


# What the server itself explains teaches nothing about the way to it. Neither of these
# is its word: the line was closed without one, or the driver gave up waiting.
_UNEXPLAINED: t.Final = (Loss.UNKNOWN, Loss.NO_ANSWER)

# Replaced at five sixths of the limit: early enough for the checkout and its first
# statement, late enough not to reconnect without need (600 s gives 500 s).
SHARE_OF_LIMIT: t.Final = 5 / 6


def derive(
    server: IdleLimit, known_limit: float | None, learned_limit: float | None = None
) -> Recycle:
    """Derive the recycle time from the server's idle limit. The smallest limit counts.

    :param known_limit: ``POOLGUARD_IDLE_LIMIT`` in seconds.
    :param learned_limit: after which idle connections were seen to die, in seconds.
    """
    limit, source = server.seconds, server.source
    for other, name in (
        (known_limit, "POOLGUARD_IDLE_LIMIT"),
        (learned_limit, "idle connections die after"),
    ):
        if other is not None and (limit is None or other < limit):
            limit, source = other, f"{name} {other:g} s"
    if limit is None or limit <= 0:
        return Recycle(None, source)
    return Recycle(limit * SHARE_OF_LIMIT, f"{source} × 5/6")


class Idle(t.Protocol):
    """An idle connection, as far as it concerns this module."""

    def respect(self, limit: float) -> None:
        """Idle for less than a limit that was learned after it connected."""


class IdleLimits:
    """What the settings, the server and experience say.

    Any thread calls its methods, without a lock: every value is replaced as a whole,
    and the last one to speak is right. A pool hands it on to its successor.

    :ivar max_age: the user's own recycle time in seconds of age; -1 for none.
    """

    def __init__(self, policy: Policy, callbacks: PoolCallbacks) -> None:
        self._policy = policy
        self._callbacks = callbacks
        self._derived = Recycle(None, "not known before the first connection")
        self._server_limit: float | None = None
        self._deaths = IdleDeaths()
        self._is_in_doubt = False
        self._killed: int | None = None
        self._warned: dict[str, object] = {}
        self.max_age = -1.0 if policy.recycle == AUTO else policy.recycle

    @property
    def recycle(self) -> Recycle:
        """The recycle time in force and its source: derived, or the user's own."""
        if self._policy.recycle == AUTO:
            return self._derived
        age = self.max_age
        return Recycle(
            age if age > -1 else None, f"{self._policy.recycle_origin} = {age:g}"
        )

    @property
    def learned(self) -> float | None:
        """The seconds of idling after which connections were seen to die."""
        return self._deaths.limit

    def ask(self, limit: IdleLimit) -> Recycle:
        """Derive the recycle time of a new connection from what its server says."""
        recycle = derive(limit, self._policy.idle_limit, self.learned)
        if limit.seconds is not None and self.max_age >= limit.seconds:
            self.warn_once(
                "recycle_too_long",
                "%s = %g s of bind %r is not below the server's idle limit of %g s,"
                " so it cannot protect idle connections. Remove it (the guard then"
                " derives %g s) or set it below %g.",
                self._policy.recycle_origin,
                self.max_age,
                self._policy.name,
                limit.seconds,
                limit.seconds * SHARE_OF_LIMIT,
                limit.seconds,
            )
        self._note(recycle, limit.seconds)
        return recycle

    def survived(self, idle: float) -> None:
        """Note that a connection is alive after so many seconds of idling."""
        self._deaths.survived(idle)

    def died(self, idle: float, loss: Loss) -> None:
        """Note that a connection was found dead after so many seconds of idling."""
        if loss in _UNEXPLAINED:
            self._is_in_doubt = True
            self._deaths.died(idle)

    def explain(self, count_killed: Callable[[], int | None]) -> None:
        """Find out whether the deaths since the last time may have been kills.

        A server that ends an idle session says so, if at all, in a way that not every
        driver passes on: MariaDB just hangs up, psycopg2 and pg8000 lose the message.
        All of them count their kills.

        :param count_killed: asks the server; None is unknown. Only called after a
            death, because it costs a round trip.
        """
        if not self._is_in_doubt:
            return
        self._is_in_doubt = False  # first: one that dies meanwhile is asked for anew
        killed = count_killed()
        if killed is None:
            return
        if self._killed is not None and killed != self._killed:
            self._deaths.forget()
        self._killed = killed

    def conclude(self, is_away: bool, idle: Iterable[Idle]) -> None:
        """Learn from the deaths that were noted, once a later connection has told
        whether they may have been kills.

        :param is_away: whether the server takes no connections at present.
        :param idle: the connections that must keep to what was learned.
        """
        if is_away:
            self._deaths.server_is_away()
        if not self._is_in_doubt and self._deaths.conclude():
            self.warn_once(
                "idle_limit_learned",
                "Connections of bind %r die after about %.0f s of idling, before the"
                " limit that is known (%s): a firewall, NAT gateway, balancer or proxy"
                " on the way ends them. They are replaced sooner from now on; set"
                " POOLGUARD_IDLE_LIMIT = %.0f to have that from the start.",
                self._policy.name,
                self.learned,
                self.recycle.source,
                self.learned,
                subject=str(self.learned),
            )
        if self.learned is None:
            return
        for record in list(idle):
            record.respect(self.learned)
        recycle = derive(IdleLimit(None, ""), self._policy.idle_limit, self.learned)
        known = self._derived.seconds
        if recycle.seconds is not None and (known is None or recycle.seconds < known):
            self._note(recycle, self._server_limit)

    def warn_once(
        self, event: str, message: str, *args: object, subject: str = ""
    ) -> None:
        """Log a warning the first time that an event has happened to a subject."""
        # One operation, so that of several threads only one finds it new.
        mine = object()
        if self._warned.setdefault(f"{event} {subject}", mine) is mine:
            warn(event, message, *args, bind=self._policy.name)

    def _note(self, recycle: Recycle, server_limit: float | None) -> None:
        if (recycle, server_limit) != (self._derived, self._server_limit):
            self._derived, self._server_limit = recycle, server_limit
            self._callbacks.learned(self.recycle, server_limit, self.learned)
