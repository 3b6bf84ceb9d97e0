"""The course of a run: rounds over all sizes, in random order."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
import time
import typing as t
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .load import DRAIN_SECONDS
from .load_processes import Answer, LoadProcesses
from .planning import RunPlan

# From the order to the first request, so that all processes have heard it.
_LEAD_SECONDS: t.Final = 0.05
# For making a pool's connections, one after the other, and for one pass of all work.
_PREPARE_SECONDS: t.Final = 120.0


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


@contextlib.contextmanager
def started(
    plan: RunPlan,
    import_path: str | None,
    search_path: Sequence[str],
    clean: Callable[[str], str],
) -> Iterator[tuple[RunPlan, Iterator[Step]]]:
    """Start the processes, and give the plan, with what they found, and its steps.

    :param import_path: what Flask's ``--app`` was.
    :param search_path: where modules are looked for.
    :param clean: takes what secrets there are out of what a process wrote.
    :raises TuneError: something failed; the processes are gone then.
    """
    order = {
        "app": import_path,
        "path": list(search_path),
        "bind": plan.bind,
        "processes": plan.processes,
        "threads": plan.threads,
        "largest": max(plan.sizes),
        "works": [
            {"kind": work.kind, "text": work.text, "weight": work.weight}
            for work in plan.works
        ],
    }
    with LoadProcesses(plan.processes, order, clean) as processes:
        answers = processes.ask(_PREPARE_SECONDS, "rehearse")
        plan = dataclasses.replace(plan, alone_seconds=_mean(answers, "seconds"))
        yield plan, _steps(processes, plan)


def _steps(processes: LoadProcesses, plan: RunPlan) -> Iterator[Step]:
    """Measure each size once per round.

    The order is random and differs in each round, so that a change over time (a cache
    that fills, other load that begins) affects all sizes alike.
    """
    for _ in range(plan.rounds):
        sizes = list(plan.sizes)
        random.shuffle(sizes)
        for size in sizes:
            yield _measure(processes, plan, size)


def _measure(processes: LoadProcesses, plan: RunPlan, size: int) -> Step:
    processes.ask(_PREPARE_SECONDS, "fill", size=size)
    warm = plan.warm_seconds(size)
    answers = processes.ask(
        warm + plan.seconds + DRAIN_SECONDS + 10,
        "measure",
        begin=time.monotonic() + _LEAD_SECONDS,
        warm=warm,
        seconds=plan.seconds,
    )
    return _together(size, answers, plan.seconds)


def _together(size: int, answers: Sequence[Answer], seconds: float) -> Step:
    """Add up what the processes saw."""
    latencies: Counter[int] = Counter()
    statuses: Counter[tuple[int, int]] = Counter()
    for answer in answers:
        latencies.update({bucket: count for bucket, count in answer["latencies"]})
        for number, status, count in answer["statuses"]:
            statuses[number, status] += count
    return Step(
        size=size,
        per_second=sum(latencies.values()) / seconds,
        latencies=latencies,
        statuses=statuses,
        busy=_mean(answers, "busy"),
        process_cores=_mean(answers, "process_cores"),
        machine_share=None
        if any(answer["machine_share"] is None for answer in answers)
        else _mean(answers, "machine_share"),
    )


def _mean(answers: Sequence[Mapping[str, t.Any]], name: str) -> float:
    return statistics.fmean(answer[name] for answer in answers)
