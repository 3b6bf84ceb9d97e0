"""Decides the sizes of a pool that are ``"auto"``: where they begin, and what they
follow.

``pool_size`` begins with the number of threads that serve. It is raised at once if it
is sure that it is too small: more checkouts than chance explains wanted more, or some
had to wait. It is lowered by one a minute at most, if it is as sure that less is enough
and no more was needed for a quarter of an hour. Between the two it stays. What is
enough is decided by the function that ``flask pool advise`` goes by.

``max_overflow`` is what is left up to what the threads can use, but not less than
SQLAlchemy's defaults allow: how many connections a request needs at once is not known
before it takes them, and nothing is opened that is not asked for.

Nothing here looks at a clock or a pool.
"""

from __future__ import annotations

import math
import typing as t
from collections import deque
from dataclasses import dataclass

from .demand_window import DemandWindow, Part, less
from .sizing import (
    SHARE,
    Demand,
    Need,
    exceeding,
    most_usable,
    need_of,
    not_ruled_out,
    peak_of,
    surely_enough,
)

# SQLAlchemy's defaults: what a pool keeps where its worker's threads are not known, and
# what it may have beyond without a budget.
STOCK_SIZE: t.Final = 5
STOCK_OVERFLOW: t.Final = 10
# How many connections a pool may have so that nested checkouts are free of deadlocks,
# without a budget: a deadlock of more is found when it happens, and ended.
MOST_WITHOUT_BUDGET: t.Final = 100
# What is looked at is as many seconds at least; more, up to the hour, if there were too
# few checkouts to judge by. What is not asked for now may be asked for again soon, as
# where demand comes in waves of some minutes: lowering takes longer.
TO_RAISE: t.Final = 300.0
TO_LOWER: t.Final = 900.0
# Seconds between the last change and a step down.
STEP: t.Final = 60.0
# Seconds for which a swing counts.
_REMEMBERED: t.Final = 3600.0


class PoolSizes(t.NamedTuple):
    """What a pool keeps, and what it may have beyond; -1 for no limit."""

    pool_size: int
    max_overflow: int

    @property
    def limit(self) -> float:
        """How many connections it may have."""
        is_unlimited = self.max_overflow < 0 or not self.pool_size
        return math.inf if is_unlimited else self.pool_size + self.max_overflow


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a pool and its worker at one moment.

    :ivar demand: how often so many connections were out or wanted at a time, since the
        worker began.
    :ivar threads: the most that lived at once, or that serve.
    :ivar nesting: the most connections that one request held at once.
    :ivar waits: checkouts that had to wait, since the worker began.
    :ivar budget: how many connections all workers may have; None without one.
    :ivar may_open: the server gives connections, as far as it is known.
    """

    demand: Demand
    threads: int = 0
    nesting: int = 0
    waits: int = 0
    budget: int | None = None
    may_open: bool = True


class AutoSizes:
    """The sizes of one pool.

    One thread looks. What another begins anew meanwhile is right with the next look.

    :param pool_size: the user's own number; None for automatic.
    :param max_overflow: likewise.
    :param at_least: connections that are to be kept in any case.
    :ivar sizes: those in force.
    """

    def __init__(
        self, pool_size: int | None, max_overflow: int | None, at_least: int = 1
    ) -> None:
        self._size, self._overflow = pool_size, max_overflow
        self._at_least = max(at_least, 1)
        # What it may have by SQLAlchemy's defaults.
        self._stock = (STOCK_SIZE if pool_size is None else pool_size) + STOCK_OVERFLOW
        self.begin(None, None, 0.0)

    def begin(self, threads: int | None, budget: int | None, now: float) -> None:
        """Begin anew, with nothing seen.

        :param threads: how many serve; None is unknown.
        :param now: monotonic seconds, as everywhere here.
        """
        self._window = DemandWindow(now)
        self._last = Seen({})
        self._changed_at = now
        self._was_lowered = False
        self._had_budget = False
        self._swings: deque[float] = deque()
        self._lows: deque[tuple[float, int]] = deque()
        seen = Seen({}, threads or 0, budget=budget)
        least, most = self._bounds(seen, fewest=1)
        first = min(max(threads or STOCK_SIZE, least), most)
        first = first if self._size is None else self._size
        self.sizes = self._with_overflow(first, self._limit(seen, fewest=1))

    def swings(self, now: float) -> int:
        """Return how often the size was raised after it had been lowered, within the
        last hour.
        """
        while self._swings and now - self._swings[0] > _REMEMBERED:
            self._swings.popleft()
        return len(self._swings)

    def look(self, seen: Seen, now: float) -> str | None:
        """Change ``sizes`` if need be; return why, None if they stay."""
        self._had_budget = self._had_budget or seen.budget is not None
        window = self._window.until(now, seen.demand, TO_RAISE)
        need = need_of(window.demand, SHARE, seen.threads, seen.nesting)
        old, size, why = self.sizes, self.sizes.pool_size, ""
        if self._size is None:
            size, why = self._choose(seen, window, need, now)
        limit = self._limit(seen, need.fewest)
        if not seen.may_open:
            limit = min(limit, max(old.limit, need.fewest))
        self.sizes = new = self._with_overflow(size, limit)
        self._last = seen
        if new == old:
            return None
        if size != old.pool_size:
            self._note(size > old.pool_size, now)
        return why or _why_other_limit(seen, new.limit)

    def _choose(
        self, seen: Seen, window: Part, need: Need, now: float
    ) -> tuple[int, str]:
        """Return the size, and why it is another one."""
        old = self.sizes.pool_size
        least, most = self._bounds(seen, need.fewest)
        if old > most:
            return most, _why_no_more(seen, most)
        wanted, why = old, ""
        if old < least:
            wanted, why = least, _why_nested(seen, need)
        low = not_ruled_out(window.demand, SHARE)
        waiting = self._size_for_waiting(seen)
        lately = self._most_lately(max(low, waiting), now)
        if seen.may_open:
            if min(waiting, most) > wanted:
                wanted = min(waiting, most)
                why = _why_waits(seen.waits - self._last.waits)
            if min(low, most) > wanted:
                wanted = min(low, most)
                why = f"{_beyond(window, old)} wanted more at a time"
        if wanted == old and now - self._changed_at >= STEP:
            window = self._window.until(now, seen.demand, TO_LOWER)
            if old > max(self._lowest(seen, window), lately, least):
                why = f"{_beyond(window, old - 1)} wanted more at a time"
                return old - 1, why
        return wanted, why

    def _most_lately(self, low: int, now: float) -> int:
        """Return the largest size that was surely needed since lowering looks back.

        :param low: what is so now.
        """
        found = self._lows
        while found and now - found[0][0] > TO_LOWER:
            found.popleft()
        while (
            found and found[-1][1] <= low
        ):  # a later one that is no less stands for it
            found.pop()
        found.append((now, low))
        return found[0][1]

    def _lowest(self, seen: Seen, window: Part) -> float:
        """Return the smallest size that is enough for sure, infinity if none is."""
        enough = surely_enough(window.demand, SHARE)
        if enough is None or window.seconds < TO_LOWER:
            return math.inf
        # That more are needed for nested checkouts is a matter of the bounds.
        return max(enough, need_of(window.demand, SHARE, seen.threads, 1).size)

    def _size_for_waiting(self, seen: Seen) -> int:
        """Return the size with which no checkout since the last look would have had to
        wait for the limit.
        """
        if self._overflow is None or seen.waits <= self._last.waits:
            return 0  # that limit rises by itself; or none waited
        peak = peak_of(less(seen.demand, self._last.demand))
        return peak - self._overflow if peak > self.sizes.limit else 0

    def _bounds(self, seen: Seen, fewest: int) -> tuple[int, int]:
        """Return the smallest and the largest size.

        :param fewest: connections without a deadlock.
        """
        least = self._at_least
        most = max(self._stock, least)
        # What is free of deadlocks is a matter of the limit, unless that is the user's.
        if self._overflow is not None and self._overflow >= 0:
            least = max(fewest - self._overflow, least)
            most = max(self._stock - self._overflow, STOCK_SIZE, least)
        if seen.budget is not None:
            most = seen.budget
        elif self._had_budget:  # which is not kept any more
            most = max(most, self.sizes.pool_size)
        return min(least, most), most

    def _limit(self, seen: Seen, fewest: int) -> float:
        """Return how many connections the pool may have, if that is automatic."""
        if seen.budget is None:
            limit = max(self._stock, self._at_least, min(fewest, MOST_WITHOUT_BUDGET))
            return max(limit, self.sizes.limit) if self._had_budget else limit
        return min(max(self._stock, _usable(seen)), seen.budget)

    def _with_overflow(self, size: int, limit: float) -> PoolSizes:
        if self._overflow is not None:
            return PoolSizes(size, self._overflow)
        return PoolSizes(size, max(int(limit) - size, 0) if size else -1)

    def _note(self, is_higher: bool, now: float) -> None:
        self._changed_at = now
        if is_higher and self._was_lowered:
            self._swings.append(now)
        self._was_lowered = not is_higher


def _usable(seen: Seen) -> int:
    return most_usable(seen.threads, seen.nesting, peak_of(seen.demand))


# The reasons, as they are logged ------------------------------------------------------


def _beyond(window: Part, size: int) -> str:
    total = sum(window.demand.values())
    minutes = max(round(window.seconds / 60), 1)
    return (
        f"{exceeding(window.demand, size):,} of {total:,} checkouts of the last"
        f" {'minute' if minutes == 1 else f'{minutes} minutes'}"
    )


def _why_waits(waits: int) -> str:
    had = "1 checkout had" if waits == 1 else f"{waits:,} checkouts had"
    return f"{had} to wait, and the server gives connections"


def _why_nested(seen: Seen, need: Need) -> str:
    return (
        f"a request had {seen.nesting} connections at once, and {seen.threads} threads"
        f" that do so need {need.fewest} so that one of them always gets on"
    )


def _why_no_more(seen: Seen, most: int) -> str:
    if seen.budget is None:
        return f"without a budget it has {most} at most"
    return f"the budget is {seen.budget}"


def _why_other_limit(seen: Seen, most: float) -> str:
    may = (
        f"without a budget it may have {most:g}"
        if seen.budget is None
        else f"the budget is {seen.budget}"
    )
    return f"its threads can use {_usable(seen)} connections, and {may}"
