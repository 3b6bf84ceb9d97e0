"""One slot of a pool: a record and whether its connection is fit to be handed out.

SQLAlchemy has no hook between taking a record from the queue and handing its
connection out, so the pool judges the records that it hands over.
"""

from __future__ import annotations

import math
import time
import typing as t

from ..databases import IdleLimit, Loss
from .idle_limits import derive
from .liveness import (
    PING_AFTER,
    PING_BLINDLY_AFTER,
    answers_within,
    failure_of_ping,
    keep_alive,
    watch,
)
from .record import PoolOfRecords, PoolRecord
from .types import FIT, jittered

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from ..databases import Database
    from .idle_limits import IdleLimits
    from .types import CloseReason, Policy, Recycle


class PoolOfSlots(PoolOfRecords, t.Protocol):
    """A guarded pool, as far as its slots need it."""

    policy: Policy
    limits: IdleLimits
    database: Database
    name: str
    _pre_ping: bool
    _invalidate_time: float

    def clock(self) -> float:
        """Return monotonic seconds."""

    def refill(self, record: GuardedRecord) -> None:
        """Replace a lost connection."""


class GuardedRecord(PoolRecord):
    """A record that knows its own connection's limit and idle time.

    :ivar is_counted: the tracker has counted this caller already, who had to wait.
    :ivar waited_seconds: how long, for its turn or for the connection.
    :ivar is_found_fit: the pool has just found it fit.
    :ivar returns: how often it came back. While that stays the same, its
        holder still has to give it back.
    :ivar recycle: derived for this connection; None until the server was asked.
    :ivar limit: what the server said of this connection; None likewise.
    :ivar idle_since: monotonic time of the last return to the pool.
    :ivar proved_at: monotonic time of the last answer that is known to have come
        from the server (a view may take a connection and never use it).
    """

    __slots__ = (
        "_expires_at",
        "_fileno",
        "_idle_allowed",
        "_number",
        "_poll",
        "_quiet_for",
        "_silence",
        "_unproved_at",
        "idle_since",
        "is_counted",
        "is_found_fit",
        "limit",
        "proved_at",
        "recycle",
        "returns",
        "waited_seconds",
    )

    _pool: PoolOfSlots

    def __init__(self, pool: PoolOfSlots) -> None:
        self.is_counted = self.is_found_fit = False
        self.waited_seconds = 0.0
        self.returns, self._number = 0, -1
        self.recycle: Recycle | None = None
        self.limit: IdleLimit | None = None
        self._idle_allowed: float | None = None
        self._fileno: Callable[[], int] | None = None
        self._poll: Callable[[int], t.Any] | None = None
        # Bounds for is_fit(), in seconds of idling and as a monotonic time.
        self._quiet_for = self._unproved_at = self._silence = 0.0
        self._expires_at = math.inf  # monotonic, by POOLGUARD_MAX_AGE
        self.idle_since = self.proved_at = 0.0
        super().__init__(pool)

    # With every checkout -----------------------------------------------------------

    def is_fit(self) -> bool:
        """Tell whether it has a connection to hand out without further questions."""
        pool, started = self._pool, self.starttime
        if (
            self.dbapi_connection is None
            or self.generation is not pool.generation
            or pool._invalidate_time > started
            or self._soft_invalidate_time > started
            or -1 < pool.limits.max_age < time.time() - started
        ):
            return False
        now = pool.clock()
        if now >= self._unproved_at or now - self.idle_since >= self._quiet_for:
            return False
        if self._poll is None:
            return True
        try:
            return self._fileno() == self._number and not self._poll(0)  # type: ignore[misc] # set with _poll
        except Exception:  # the driver's way to say that it is closed
            return False

    def get_connection(self) -> t.Any:
        """Return the connection; a new one if it was lost since the pool gave it."""
        if self.is_found_fit:
            self.is_found_fit = False
        elif self._is_hard_or_soft_invalidated():
            self._pool.refill(self)
        return self.dbapi_connection

    # Fitness -----------------------------------------------------------------------

    def fitness(self, is_asked_for: bool = True) -> CloseReason | t.Literal["fit"]:
        """Return why to replace the connection, ``"fit"`` if it can be handed out.

        :param is_asked_for: whether it is to be handed out now. If not, the server is
            asked only if it has spoken: a ping is a sign of life that keeps the
            server from ending what is not needed.

        An asynchronous exception (``gevent.Timeout``) leaves a connection that is
        in the middle of a question; the caller closes it.
        """
        pool, now = self._pool, self._pool.clock()
        over = self.is_over()
        if over is not None:
            return over
        idle, allowed = now - self.idle_since, self._idle_allowed
        # One that came back lately may not have been used, and the server counts from
        # the last statement. One ping per limit settles it.
        unproved = allowed is not None and now - self.proved_at >= allowed
        silent = idle >= self._silence
        spoken = self.has_spoken()
        if spoken or (is_asked_for and (unproved or silent or pool._pre_ping)):
            loss = self._ping(may_raise=is_asked_for and pool._pre_ping)
            if loss is not None:
                pool.limits.died(idle, loss)
                return "dead"
            self.proved_at = self._pool.clock()
            # SQLAlchemy's pre_ping spares a connection that is fresh, and knows no
            # limit of time.
            self.fresh = is_asked_for
            if spoken:
                self._watch()  # the driver may have another socket
            self._set_bounds()
        return FIT

    def is_over(self) -> CloseReason | None:
        """Return why the connection's time is up, None if it is not."""
        pool = self._pool
        if self._is_hard_or_soft_invalidated():
            dead = pool._invalidate_time > self.starttime
            return "dead" if dead else "invalidated"
        if self.is_outdated():
            return "invalidated"
        if -1 < pool.limits.max_age < time.time() - self.starttime:
            return "recycled"
        now, allowed = pool.clock(), self._idle_allowed
        is_idle = allowed is not None and now - self.idle_since >= allowed
        return "recycled" if is_idle or now >= self._expires_at else None

    def has_spoken(self) -> bool:
        """Tell whether the server sent something or hung up without being asked."""
        if self._poll is None or self._fileno is None:
            return False
        try:
            return self._fileno() != self._number or bool(self._poll(0))
        except Exception:  # the driver's way to say that it is closed
            return True

    def is_quiet(self) -> bool | None:
        """Tell whether nothing happened to it; None for unknown, or its time is up."""
        if self._poll is None or self.is_over() is not None:
            return None
        return not self.has_spoken()

    def _ping(self, may_raise: bool) -> Loss | None:
        """Return why the server does not answer, None if it does."""
        pool, connection = self._pool, self.dbapi_connection
        failure: Exception | None = None

        def ping() -> bool:
            nonlocal failure
            failure = failure_of_ping(pool._dialect, connection)
            return failure is None

        try:
            if answers_within(ping, self._fileno, pool.policy.ping_timeout):
                return None
        except Exception as error:
            if may_raise:  # as SQLAlchemy's pre_ping: an error that is no disconnect
                raise
            pool.logger.info("Ping of %r failed: %s", connection, error)
            failure = error
        return Loss.UNKNOWN if failure is None else pool.database.why_lost(failure)

    # Opening -----------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and read the limit on this connection, after all connect listeners.

        :raises Exception: what the driver, or a listener, raised; nothing is left
            open then.
        """
        self.recycle = self.limit = None
        super().open()
        try:
            self._watch()  # first: the bounds depend on whether there is a socket
            self._learn_limit()
        except BaseException:
            self.close_because("dead")
            raise
        if self._fileno is not None:
            keep_alive(self._number, self._pool.policy.tcp_user_timeout)

    def _let_go(self) -> None:
        super()._let_go()
        self._poll = self._fileno = None

    def _watch(self) -> None:
        self._fileno = self._pool.database.fileno_of(self.dbapi_connection)
        found = watch(self._fileno)
        self._number, self._poll = found if found is not None else (-1, None)

    # Limits ------------------------------------------------------------------------

    def _learn_limit(self) -> None:
        self.limit = limit = self._ask_for_limit()
        self.recycle = self._pool.limits.ask(limit)
        self._idle_allowed = jittered(self.recycle.seconds)
        self._pool.limits.explain(self._count_killed)
        self.idle_since = self.proved_at = now = self._pool.clock()
        most = jittered(self._pool.policy.max_age)
        self._expires_at = math.inf if most is None else now + most
        self._set_bounds()

    def _count_killed(self) -> int | None:
        pool = self._pool
        try:
            return pool.database.killed_sessions(self.dbapi_connection)
        except Exception as error:
            if self.is_lost(error):
                raise
            told = pool.policy.describe(error)
            pool.logger.info("The number of killed sessions is unknown: %s", told)
            return None

    def _ask_for_limit(self) -> IdleLimit:
        pool = self._pool
        try:
            return pool.database.idle_limit(self.dbapi_connection)
        except Exception as error:
            if self.is_lost(error):
                raise
            name, told = pool.name, pool.policy.describe(error)
            pool.limits.warn_once(
                "idle_limit_unknown",
                "The idle limit of %s is unknown: %s. Set POOLGUARD_IDLE_LIMIT if"
                " connections die while they idle.",
                *(name, told),
            )
            return IdleLimit(None, f"the server did not tell ({told})")

    def respect(self, limit: float) -> None:
        """Idle for less than a limit that was learned after this one connected."""
        recycle = derive(IdleLimit(None, ""), None, limit)
        allowed = jittered(recycle.seconds)
        if allowed is not None and (
            self._idle_allowed is None or allowed < self._idle_allowed
        ):
            self.recycle, self._idle_allowed = recycle, allowed
            self._set_bounds()

    def _set_bounds(self) -> None:
        allowed = math.inf if self._idle_allowed is None else self._idle_allowed
        self._silence = PING_AFTER if self._poll is not None else PING_BLINDLY_AFTER
        if not self._pool.database.has_server:
            self._silence = math.inf
        self._quiet_for = min(allowed, self._silence)
        if self._pool._pre_ping:  # never without a question
            self._quiet_for = -math.inf
        self._unproved_at = min(self.proved_at + allowed, self._expires_at)
