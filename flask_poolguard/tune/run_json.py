"""A run's outcome as JSON."""

from __future__ import annotations

import dataclasses
import typing as t

from .caveats import caveats_of
from .outcome import Outcome, Size

SCHEMA_VERSION: t.Final = 1
_FROM_PLAN: t.Final = (
    *(
        "app",
        "bind",
        "url",
        "server",
        "processes",
        "threads",
        "threads_from",
        "cores",
        "rounds",
    ),
    "seconds",
)


def to_dict(outcome: Outcome) -> dict[str, t.Any]:
    """Return what ``flask pool tune --json`` prints, before it is JSON."""
    plan, choice = outcome.plan, outcome.choice
    return {
        "schema_version": SCHEMA_VERSION,
        "taken_at": outcome.taken_at,
        "complete": outcome.complete,
        **{name: getattr(plan, name) for name in _FROM_PLAN},
        "kind": plan.unit,
        "work": [
            {"text": str(work), "weight": work.weight, "statuses": _of(outcome, number)}
            for number, work in enumerate(plan.works)
        ],
        "sizes": [_size(each) for each in outcome.sizes],
        "law": None
        if choice is None
        else {**dataclasses.asdict(choice.law), "error": round(choice.law_error, 4)},
        "recommended": None
        if choice is None
        else {
            "pool_size": choice.size,
            "low": choice.low,
            "high": choice.high,
            "per_second": round(choice.throughput, 3),
            "by": "law" if choice.by_law else "measurement",
            "still_rising": choice.still_rising,
        },
        "notes": [dataclasses.asdict(note) for note in caveats_of(outcome)],
    }


def _of(outcome: Outcome, number: int) -> dict[str, int]:
    """Return how often one work was answered with each status."""
    return {
        str(status): count
        for (work, status), count in sorted(outcome.statuses.items())
        if work == number and status
    }


def _size(size: Size) -> dict[str, t.Any]:
    """Return what was measured at a size, without digits that mean nothing."""
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(size).items()
    } | {"rounds": [round(each, 3) for each in size.rounds]}
