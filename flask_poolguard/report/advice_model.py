"""Recommended sizes as frozen data; the names are those of its JSON."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..tracking import sizing


@dataclass(frozen=True, slots=True)
class AdviceOptions:
    """What the operator wants to reckon with.

    :ivar share: of checkouts that may find ``pool_size`` connections out; above 0.
    :ivar at_least: checkouts that make the answer one number; None for what the share
        takes.
    :ivar workers: per host; None for as many as live.
    """

    share: float = sizing.SHARE
    at_least: int | None = None
    workers: int | None = None
    hosts: int = 1

    @property
    def checkouts(self) -> int:
        """Return how many checkouts make the answer one number."""
        if self.at_least is not None:
            return self.at_least
        return sizing.checkouts_needed(self.share)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a bind's pools were asked for since their workers started.

    :ivar checkouts: all of them, also those that waited in vain.
    :ivar hours: that the workers lived, added up.
    :ivar peak: the most connections that were out in one worker at a time.
    :ivar demand: see :class:`~flask_poolguard.state.status.Usage`; of all workers.
    """

    workers: int
    checkouts: int
    hours: float
    peak: int | None
    nesting: int
    threads: int
    connects: int
    waits: int
    timeouts: int | None
    longest_wait_seconds: float
    demand: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class BindAdvice:
    """Which sizes one bind should have, and why; None is unknown.

    :ivar present_size, present_overflow: as this process is configured.
    :ivar pool_size, max_overflow: what to set; None for nothing to say.
    :ivar low, high: between which ``pool_size`` lies; no ``high`` if it is not known
        how many threads there are.
    :ivar is_sure: whether ``pool_size`` is one number, and not a range.
    :ivar may_lower: whether enough was seen to make anything smaller.
    :ivar refusal: why there is no advice.
    :ivar is_auto: because sizes are ``"auto"``.
    :ivar beyond: checkouts that wanted more connections than ``pool_size`` at a time.
    :ivar fewest: the fewest connections without a deadlock.
    :ivar most: the most that the threads could use.
    :ivar room: connections that a worker may open at the server, or as its user or in
        its database where that leaves fewer, for all its pools there that are advised
        about; None if unknown, or without a limit.
        With a budget, what all workers of a host may have together.
    :ivar room_of: what has that room: ``the server``, ``user app``, ``database shop``,
        ``the budget of 60 for this host``.
    :ivar room_remedy: what raises it.
    :ivar room_unknown: why it is not known how much room there is.
    :ivar has_limit: whether the server has a limit at all.
    :ivar is_short: there is too little room for what is needed.
    :ivar kept: connections that pools of this app may open there that are not
        advised about; they are not in ``room``.
    :ivar budget: how many connections all workers of this host may have together, by
        the setting ``budget_key``; None for no budget. That is None too if the server's
        limits make the number.
    :ivar budget_kept: how many they keep open with the sizes advised, of all binds
        that share the budget.
    :ivar busiest_worker: its pid; it alone would want a ``pool_size`` of
        ``busiest_size``.
    """

    bind: str
    url: str
    pool_class: str
    present_size: int | None
    present_overflow: int | None
    seen: Observed
    refusal: str | None = None
    is_auto: bool = False
    pool_size: int | None = None
    max_overflow: int | None = None
    low: int | None = None
    high: int | None = None
    is_sure: bool = False
    may_lower: bool = False
    beyond: int | None = None
    beyond_per_hour: float | None = None
    fewest: int | None = None
    most: int | None = None
    room: int | None = None
    room_of: str | None = None
    room_remedy: str | None = None
    room_unknown: str | None = None
    has_limit: bool = True
    is_short: bool = False
    kept: int = 0
    budget: int | None = None
    budget_key: str | None = None
    budget_kept: int | None = None
    busiest_worker: int | None = None
    busiest_size: int | None = None

    @property
    def is_too_small(self) -> bool:
        """Tell whether more is needed than the pool may have now."""
        size, overflow = self.present_size, self.present_overflow
        if not size or overflow is None or overflow < 0 or self.pool_size is None:
            return False
        return self.pool_size > size + overflow

    @property
    def keeps_too_many(self) -> bool:
        """Tell whether the workers keep more connections open than the budget allows,
        so that they close each other's again and again.
        """
        return self.budget is not None and (self.budget_kept or 0) > self.budget

    @property
    def changes(self) -> list[tuple[str, int | None, int]]:
        """Return which settings are to be changed, from what and to what."""
        pairs = (
            ("pool_size", self.present_size, self.pool_size),
            ("max_overflow", self.present_overflow, self.max_overflow),
        )
        return [(name, now, new) for name, now, new in pairs if new not in (None, now)]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set for all binds of an app, and what that is based on.

    :ivar differences: where workers run with other sizes than this process has.
    :ivar lines: to write into the app's configuration; empty if nothing changes.
    :ivar budget_lines: to write instead, where the workers' pools do not all fit into
        what the server has left.
    :ivar workers: on all hosts, among whom a server's connections are divided.
    """

    schema_version: int
    taken_at: str
    app: str
    host: str
    live_workers: int
    workers: int
    share: float
    checkouts_needed: int
    binds: tuple[BindAdvice, ...]
    differences: tuple[str, ...]
    lines: tuple[str, ...]
    budget_lines: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``flask pool advise --json`` prints, before it is JSON."""
        return asdict(self)
