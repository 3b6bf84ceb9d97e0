"""The last hour of all workers together, minute by minute."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence
from dataclasses import dataclass

from ..state.history import COUNTED, Minute
from ..state.plain import to_plain
from .model import Report


@dataclass(frozen=True, slots=True)
class BindMinute:
    """One minute of one bind, of all workers together.

    :ivar minute: its figures, added up; ``most_out`` and ``most_waiting`` are at most
        that, as the workers' peaks need not have come together.
    """

    bind: str
    minute: Minute


BindHistory = Sequence[BindMinute]


def history_of(report: Report) -> BindHistory:
    """Return the minutes in which anything happened, the oldest first."""
    found: dict[tuple[int, str], list[Minute]] = {}
    for worker in report.workers:
        for pool in worker.pools:
            for each in pool.history.minutes:
                found.setdefault((each.at, pool.bind), []).append(each)
    return [
        BindMinute(bind, _sum(at, minutes))
        for (at, bind), minutes in sorted(found.items())
    ]


def _sum(at: int, minutes: Sequence[Minute]) -> Minute:
    def times(name: str) -> list[float]:
        return [at for each in minutes if (at := getattr(each, name)) is not None]

    return Minute(
        at=at,
        **{name: sum(getattr(each, name) for each in minutes) for name in COUNTED},
        most_out=sum(each.most_out for each in minutes),
        most_waiting=sum(each.most_waiting for each in minutes),
        longest_wait_seconds=max(each.longest_wait_seconds for each in minutes),
        first_failed_at=min(times("first_failed_at"), default=None),
        last_failed_at=max(times("last_failed_at"), default=None),
        first_waited_at=min(times("first_waited_at"), default=None),
        last_waited_at=max(times("last_waited_at"), default=None),
    )


def minutes_to_plain(history: BindHistory) -> list[dict[str, t.Any]]:
    """Return the minutes as what JSON has."""
    return [
        {"bind": each.bind, "at": each.minute.at, **to_plain(each.minute)}
        for each in history
    ]
