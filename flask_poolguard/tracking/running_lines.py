"""Which lines run now where connections are held, or waited for, for long."""

from __future__ import annotations

import time
import typing as t
from collections import Counter

from ..state.status import WaitingLine
from .checkout import PoolCheckouts
from .pool_figures import PoolFigures
from .pool_status import RunningLines
from .thread_stacks import describe_activities

# What is held, or waited for, for so many seconds is looked at: which line runs now.
LOOKED_AT: t.Final = 1.0

# As many lines where threads wait are shown.
_MOST: t.Final = 5


def note_running_lines(pool: PoolCheckouts, figures: PoolFigures) -> None:
    """See what the threads of one pool do now, and note it with its figures."""
    region, now = figures.region, time.monotonic()
    until = now - LOOKED_AT
    held = [
        (number, each.mark())
        for each in list(pool.out.values())
        if each.taken_at <= until and each.is_in_use() and region is not None
        if (number := region.number_of(each.record)) is not None
    ]
    waiting = [each.mark() for each in figures.waiting_claims(until)]
    lines: list[str | None] = []
    if held or waiting:
        marks = [*(mark for _, mark in held), *waiting]
        lines = describe_activities(marks, pool.info.root_path)
    sites = Counter(filter(None, lines[len(held) :]))
    activities = {
        number: line
        for (number, _), line in zip(held, lines, strict=False)
        if line is not None
    }
    waiting_lines = (
        WaitingLine(site, count) for site, count in sites.most_common(_MOST)
    )
    figures.note_lines(
        len(pool.out), RunningLines(activities, tuple(waiting_lines), now)
    )
