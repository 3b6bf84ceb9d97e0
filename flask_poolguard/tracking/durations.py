"""How long connects, checkouts and the use of one pool's connections took."""

from __future__ import annotations

from ..state.histogram import Durations, HistogramCounter


class DurationCounter:
    """Counts how long things took.

    ``create`` and ``wait`` change under the tracker's lock or on the slow path; ``use``
    by any thread without a lock, like ``UsageCounter.demand``.

    :ivar slow: checkouts that had to wait or to connect, whether they got a connection
        or not. The others took no time worth a clock: they count as shorter than the
        first bound.
    :ivar uses_shown: how many uses the state file shows.
    """

    __slots__ = ("create", "slow", "use", "uses_shown", "wait")

    def __init__(self) -> None:
        self.create, self.wait = HistogramCounter(), HistogramCounter()
        self.use = HistogramCounter()
        self.slow = self.uses_shown = 0

    @property
    def uses(self) -> int:
        """How many connections came back."""
        return sum(self.use.counts)

    def status(self, asked: int, *, is_guarded: bool, is_counted: bool) -> Durations:
        """Return what was counted so far.

        :param asked: how many checkouts there were, slow ones included.
        :param is_guarded: whether the pool tells when it connects and waits.
        :param is_counted: whether it tells what comes back.
        """
        fast = max(asked - self.slow, 0)
        return Durations(
            create=self.create.so_far() if is_guarded else None,
            wait=self.wait.so_far(fast) if is_guarded else None,
            use=self.use.so_far() if is_counted else None,
        )
