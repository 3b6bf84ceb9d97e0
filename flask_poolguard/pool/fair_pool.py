"""A pool of SQLAlchemy's with a fair queue, and the numbers that it tells of itself."""

from __future__ import annotations

import math
import typing as t

from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from ..error_notes import Room
from .fair_queue import FairQueue
from .idle_limits import IdleLimits
from .places import Places
from .slot import GuardedRecord
from .types import Policy


class FairPool(QueuePool):
    """A :class:`~sqlalchemy.pool.QueuePool` that has a :class:`FairQueue` where others
    have their queue, with a lock of its own.

    :param timeout: in seconds; None waits for ever, as in a QueuePool.
    :param new_places: makes what gives a queue's slots their places.
    :ivar name: the bind's, for messages.
    """

    name: str
    # Named here too, because tests that compare the attributes of two pools leave out
    # those of the class.
    policy: Policy = t.cast(Policy, None)
    limits: IdleLimits = t.cast(IdleLimits, None)

    _pool: FairQueue[GuardedRecord]  # type: ignore[assignment] # has what others look at in a queue

    def __init__(
        self,
        creator: t.Any,
        pool_size: int,
        max_overflow: int,
        timeout: float | None,
        use_lifo: bool,
        new_places: t.Callable[[], Places],
        **kwargs: t.Any,
    ) -> None:
        Pool.__init__(self, creator, **kwargs)
        self._max_overflow = -1 if pool_size == 0 else max_overflow
        self._timeout = math.inf if timeout is None else timeout
        self._new_places = new_places
        self._make_queue(pool_size, use_lifo)

    def _make_queue(self, pool_size: int, use_lifo: bool) -> None:
        """Begin with a new queue, without any connection."""
        limit = math.inf if self._max_overflow < 0 else pool_size + self._max_overflow
        self._pool = FairQueue(
            pool_size, limit, use_lifo, self._make_record, self._new_places()
        )

    def _another(self, **kwargs: t.Any) -> t.Any:
        """Return another pool with the same settings.

        :param kwargs: those that are not this class's own.
        """
        return self.__class__(
            self._creator,
            pool_size=self._pool.maxsize,
            max_overflow=self._max_overflow,
            pre_ping=self._pre_ping,
            use_lifo=self._pool.use_lifo,
            timeout=self._timeout,
            new_places=self._new_places,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            _dispatch=self.dispatch,
            dialect=self._dialect,
            **kwargs,
        )

    def resize(self, size: int, max_overflow: int) -> None:
        """Have other sizes from now on; who waits gets what came free by that.

        Idle connections above the size are closed by the housekeeper's next round.

        :param size: above 0.
        :param max_overflow: -1 for no limit.
        """
        self._max_overflow = max_overflow
        self._pool.resize(size, math.inf if max_overflow < 0 else size + max_overflow)
        self._pool.serve()

    # Records -----------------------------------------------------------------------

    def _make_record(self) -> GuardedRecord:
        """Return a record without a connection."""
        raise NotImplementedError

    def _create_connection(self) -> ConnectionPoolEntry:
        record = self._make_record()
        record.open()
        return record

    def owns(self, record: ConnectionPoolEntry) -> bool:
        """Tell whether a record is one of this pool's."""
        return isinstance(record, GuardedRecord) and record.is_of(self)

    def free(self, record: GuardedRecord) -> None:
        """Take back a record that was not handed out, without its connection."""
        try:
            record.close_because("dead")
        finally:
            self._pool.free(record, record.has_served)

    def join_budget(self) -> None:
        """Keep one place of the pool's budget, if any, for this process: a worker."""
        self._pool.places.join()

    @property
    def budget_limit(self) -> int | None:
        """How many connections its budget allows; None without one that is kept to."""
        return self._pool.places.limit

    # Numbers -----------------------------------------------------------------------

    @property  # type: ignore[override] # declared int; floats work
    def _recycle(self) -> float:
        """Show the derived value where SQLAlchemy keeps its own (-1 for none)."""
        seconds = self.limits.recycle.seconds
        return -1 if seconds is None else seconds

    @_recycle.setter
    def _recycle(self, value: float) -> None:
        """Accept an age from Pool.__init__, and later assignments."""
        self.limits.max_age = value

    @property
    def _overflow(self) -> int:  # type: ignore[override] # counted here, never set
        """What a QueuePool counts under this name: records, connected or not."""
        return self._pool.opened + self._pool.spare - self._pool.maxsize

    def overflow(self) -> int:
        """Return the open connections above the pool's size; below 0 what is left.

        As in a QueuePool, a pool without a size has none.
        """
        queue = self._pool
        return queue.opened - queue.maxsize if queue.maxsize else 0

    def checkedout(self) -> int:
        """Return the number of connections that are out or being opened, without one
        that is opened for no thread.
        """
        queue = self._pool
        return max(queue.opened - queue.qsize() - queue.ahead, 0)

    @property
    def waiting(self) -> int:
        """The number of those who wait for a connection."""
        return len(self._pool.waiting)

    def neighbours(self) -> tuple[int, int]:
        """Return how many idle connections nothing has happened to, and how many the
        server has ended before their time was up, or spoken to.
        """
        found = [each.is_quiet() for each in list(self._pool.idle)]
        return found.count(True), found.count(False)

    def room(self, waiting: int = 0) -> Room:
        """Return what this pool has and may have, for an error.

        :param waiting: how many threads wait besides the one that gets the error.
        """
        return Room(
            bind=self.name,
            open=self._pool.opened,
            out=self.checkedout(),
            size=self._pool.maxsize,
            max_overflow=self._max_overflow,
            waiting=waiting,
            is_auto=self.policy.has_auto_sizes,
        )

    def outdated(self) -> int:
        """Return how many connections are older than the last :meth:`renew`, with
        those that are still being made.
        """
        return sum(record.is_outdated() for record in list(self._pool.records))
