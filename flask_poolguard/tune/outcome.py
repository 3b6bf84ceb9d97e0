"""What a run found, as frozen data."""

from __future__ import annotations

import statistics
import typing as t
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import latency
from .choice import FEWEST_SIZES, Choice, choose
from .work import Kind, Work

_LONGEST_WARM: t.Final = 10.0
# Seconds for making the connections of a step.
_BETWEEN: t.Final = 0.3


@dataclass(frozen=True, slots=True)
class Step:
    """One size in one round, over all processes.

    :ivar per_second: requests, or transactions.
    :ivar latencies: by :func:`.latency.bucket_of`.
    :ivar statuses: how often, by number of the work and HTTP status.
    :ivar busy: the connections of each process that were out, on average.
    :ivar process_cores: how many cores each process took, on average.
    :ivar machine_share: of all cores of this machine that were busy.
    """

    size: int
    per_second: float
    latencies: Mapping[int, int] = field(default_factory=dict)
    statuses: Mapping[tuple[int, int], int] = field(default_factory=dict)
    busy: float = 0.0
    process_cores: float = 0.0
    machine_share: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    :ivar server: what the database says that it is; None is unknown.
    :ivar limit: why no larger size is measured.
    :ivar alone_seconds: how long the work takes without any load; 0 if that is not
        known yet.
    """

    app: str
    bind: str
    url: str
    server: str | None
    works: tuple[Work, ...]
    processes: int
    threads: int
    cores: int
    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    limit: str
    alone_seconds: float = 0.0

    @property
    def kind(self) -> Kind:
        """Whether requests or queries are run."""
        return self.works[0].kind

    @property
    def unit(self) -> str:
        """What is counted."""
        return "requests" if self.kind == "url" else "transactions"

    def queue_seconds(self, size: int) -> float:
        """Return how long it takes until all threads have had their turn once.

        As long a queue, at the most, forms when a step begins, and is worked off when
        it ends.
        """
        return self.threads / size * self.alone_seconds

    def warm_seconds(self, size: int) -> float:
        """Return how long a step of this size runs before it counts.

        Until the queue is as long as it will be, and a while for all that gets faster
        with use.
        """
        return min(max(self.seconds / 4, 0.25, self.queue_seconds(size)), _LONGEST_WARM)

    @property
    def total_seconds(self) -> float:
        """About how long the whole run takes."""
        return self.rounds * sum(
            self.warm_seconds(size) + self.seconds + self.queue_seconds(size) + _BETWEEN
            for size in self.sizes
        )


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured with one size of the pool, over all rounds.

    :ivar connections: of all processes together.
    :ivar rounds: the throughput of each round, per second.
    :ivar count: requests or transactions that were measured.
    """

    size: int
    connections: int
    per_second: float
    rounds: tuple[float, ...]
    count: int
    p50_seconds: float | None
    p95_seconds: float | None
    busy: float
    process_cores: float
    machine_share: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found.

    :ivar statuses: how often each work was answered with what HTTP status.
    :ivar choice: None if too few sizes were measured.
    :ivar complete: whether all that was planned was measured.
    """

    plan: Plan
    taken_at: str
    sizes: tuple[Size, ...]
    statuses: Mapping[tuple[int, int], int]
    choice: Choice | None
    complete: bool

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return max((each.size for each in self.sizes), default=0)


def summarise(plan: Plan, steps: t.Sequence[Step], taken_at: str) -> Outcome:
    """Put the steps of all rounds together, and choose."""
    sizes = tuple(
        _summarise(plan, size, [step for step in steps if step.size == size])
        for size in sorted({step.size for step in steps})
    )
    statuses: Counter[tuple[int, int]] = Counter()
    for step in steps:
        statuses.update(step.statuses)
    rounds = {each.size: each.rounds for each in sizes if each.per_second > 0}
    return Outcome(
        plan=plan,
        taken_at=taken_at,
        sizes=sizes,
        statuses=statuses,
        choice=choose(rounds, plan.processes) if len(rounds) >= FEWEST_SIZES else None,
        complete=len(steps) == len(plan.sizes) * plan.rounds,
    )


def _summarise(plan: Plan, size: int, steps: t.Sequence[Step]) -> Size:
    latencies: Counter[int] = Counter()
    for step in steps:
        latencies.update(step.latencies)
    shares = [s.machine_share for s in steps if s.machine_share is not None]
    return Size(
        size=size,
        connections=size * plan.processes,
        per_second=statistics.fmean(step.per_second for step in steps),
        rounds=tuple(step.per_second for step in steps),
        count=sum(latencies.values()),
        p50_seconds=latency.quantile(latencies, 0.5),
        p95_seconds=latency.quantile(latencies, 0.95),
        busy=statistics.fmean(step.busy for step in steps),
        process_cores=statistics.fmean(step.process_cores for step in steps),
        machine_share=statistics.fmean(shares) if shares else None,
    )
