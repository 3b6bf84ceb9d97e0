"""Who is to give a place back when another process wishes for one."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from .shared_file import Row

# A process that has not written its row for so many seconds is stopped, or hangs: it
# neither takes a place nor gives one.
ALIVE: t.Final = 1.0


class Giving(t.NamedTuple):
    """What one process is to give.

    :ivar idle: how many idle connections to close now.
    :ivar returned: how many to close when they are given back.
    """

    idle: int
    returned: int


def wishes(rows: Mapping[int, Row], now: float) -> list[int]:
    """Return which processes wish for a place, in the order in which they get one:
    those that have none, then first come, first served.

    :param rows: of all processes, by pid.
    :param now: monotonic seconds.
    """
    found = [
        (not row.is_first, row.asked_at, pid)
        for pid, row in rows.items()
        if row.asked_at and now - row.seen_at <= ALIVE
    ]
    return [pid for _, _, pid in sorted(found)]


def part_of(
    own: int, rows: Mapping[int, Row], waiting_since: float, now: float
) -> Giving:
    """Return what a process is to give to those that wish; all of them reckon alike.

    For each wish it is an idle connection of the process that has most, while one has
    any. Where all are in use, it is the next one that is given back to the process
    that has most, if that is one that has more than the wish would make equal, and no
    thread there has waited for longer. No process gives its only one.

    :param own: the process's pid.
    :param rows: of all processes, by pid.
    :param waiting_since: of the thread there that has waited longest; monotonic
        seconds, infinity for none.
    :param now: monotonic seconds.
    """
    used = {
        pid: row.used
        for pid, row in rows.items()
        if now - row.seen_at <= ALIVE and row.used > 1
    }
    idle = {pid: min(rows[pid].idle, count - 1) for pid, count in used.items()}
    give_idle = give_returned = 0
    for wish in wishes(rows, now):
        others = [pid for pid in used if pid != wish and used[pid] > 1]
        with_idle = [pid for pid in others if idle[pid] > 0]
        giver = max(with_idle or others, key=lambda pid: (used[pid], pid), default=None)
        if giver is None:
            continue
        row = rows[wish]
        if not with_idle and not row.is_first and used[giver] <= row.used + 1:
            continue
        used[giver] -= 1
        if with_idle:
            idle[giver] -= 1
            give_idle += giver == own
        elif giver == own and (row.is_first or row.asked_at < waiting_since):
            give_returned += 1
    return Giving(give_idle, give_returned)
