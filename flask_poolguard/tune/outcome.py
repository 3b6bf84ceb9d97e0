"""What a run found, as frozen data."""

from __future__ import annotations

import statistics
import typing as t
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from . import latency
from .choice import Choice, choose
from .experiment import Step
from .planning import FEWEST_SIZES, RunPlan


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

    plan: RunPlan
    taken_at: str
    sizes: tuple[Size, ...]
    statuses: Mapping[tuple[int, int], int]
    choice: Choice | None
    complete: bool

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return max((each.size for each in self.sizes), default=0)

    @property
    def is_threads_limit(self) -> bool:
        """Tell whether the throughput rose as far as the threads can use the pool."""
        return (
            self.choice is not None
            and self.choice.still_rising
            and self.largest >= self.plan.threads
        )


def summarise(plan: RunPlan, steps: t.Sequence[Step], taken_at: str) -> Outcome:
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


def _summarise(plan: RunPlan, size: int, steps: t.Sequence[Step]) -> Size:
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
