"""What does not change while a pool lives, but for sizes that are ``"auto"``."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ..state.file_format import MAX_SLOTS

# Pools of these classes never make a thread wait.
_NEVER_WAIT: t.Final = ("NullPool", "SingletonThreadPool", "StaticPool")
# For pools without a known upper bound; what goes beyond is counted, but not listed.
_UNBOUNDED_SLOTS: t.Final = 256


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What does not change while a pool lives; None is unknown.

    :ivar url: without the password.
    :ivar size, max_overflow: those of now, where they are ``"auto"``.
    :ivar pool_timeout: in seconds; None also for no limit.
    :ivar counted: whether checkouts can be told apart (not with a StaticPool).
    :ivar in_memory: the database lives within the process, so that a forked child has a
        copy and shares nothing, and is gone with its last connection.
    :ivar has_auto_size, has_auto_overflow: whether these follow what is asked for.
    :ivar budget_file: name of the file of its budget; "" for none.
    """

    bind: str
    url: str
    pool_class: str
    size: int | None
    max_overflow: int | None
    pool_timeout: float | None = None
    counted: bool = True
    age_based: bool = False
    is_async: bool = False
    in_memory: bool = False
    budget_file: str = ""
    has_auto_size: bool = False
    has_auto_overflow: bool = False

    @property
    def is_auto(self) -> bool:
        """Tell whether any of its sizes follows what is asked for."""
        return self.has_auto_size or self.has_auto_overflow

    @property
    def is_guarded(self) -> bool:
        """Tell whether the pool has the guard's class, which tells all that it does."""
        return self.pool_class == "GuardedPool"

    @property
    def tells_waiting(self) -> bool:
        """Tell whether it is known how many threads wait for a connection."""
        return self.is_guarded or self.pool_class in _NEVER_WAIT

    @property
    def tells_closing(self) -> bool:
        """Tell whether it is known why connections are closed."""
        return self.is_guarded or self.pool_class == "NullPool"

    def slots(self) -> int:
        """Return how many connections at a time are worth a slot in the state file.

        Twice the pool's limit, because those that are out when the pool is disposed
        of do not count for the pool that takes its place.
        """
        if self.size is None or self.max_overflow is None or self.max_overflow < 0:
            return _UNBOUNDED_SLOTS
        if self.is_auto:  # nor is it known what it will come to
            return _UNBOUNDED_SLOTS
        return min(max(2 * (self.size + self.max_overflow), 2), MAX_SLOTS)
