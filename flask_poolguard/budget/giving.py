"""Who is to give a place back when another process wishes for one."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Mapping

from .layout import Row

# A process that has not written its row for so many seconds is stopped, or hangs: it
# neither takes a place nor gives one.
ALIVE: t.Final = 3.0
# One for which a thread waits writes it 20 times a second: if it ends, or hangs, with a
# wish, the others are not to wait for long.
WISHING: t.Final = 0.5


class Giving(t.NamedTuple):
    """What one process is to give.

    :ivar idle: how many idle connections to close now.
    :ivar returned: how many to close when they are given back.
    :ivar spare: how many places without a connection.
    """

    idle: int = 0
    returned: int = 0
    spare: int = 0


def wishes(rows: Mapping[int, Row], now: float) -> list[int]:
    """Return which processes wish for a place, in the order in which they get one:
    those for which a thread waits, and of them those that have none; then first come,
    first served.

    :param rows: of all processes, by their rows' numbers.
    :param now: monotonic seconds.
    """
    found = [
        (not row.waits, row.places > 0, row.asked_at, number)
        for number, row in rows.items()
        if row.asked_at and now - row.seen_at <= (WISHING if row.waits else ALIVE)
    ]
    return [number for *_, number in sorted(found)]


def part_of(
    own: int, rows: Mapping[int, Row], waiting_since: float, now: float
) -> Giving:
    """Return what a process is to give to those that wish; all of them reckon alike.

    For each wish it is an idle connection of the process that has most, while one that
    has several has any. Where all those are in use, it is the next one that is given
    back to the process that has most, if it has more than the wish would make equal,
    and no thread there has waited for longer. To a process that has none, and for which
    a thread waits, any other gives its only place, if it does not use it.

    :param own: the number of the process's row.
    :param rows: of all processes, by their rows' numbers.
    :param waiting_since: of the thread here that has waited longest; monotonic seconds,
        infinity for none.
    :param now: monotonic seconds.
    """
    figures = {
        each: _Figures(row.used, row.idle, row.spare)
        for each, row in rows.items()
        if now - row.seen_at <= ALIVE
    }
    given = Giving()
    for wish in wishes(rows, now):
        row = rows[wish]
        others = {each: have for each, have in figures.items() if each != wish}
        giver, gift = _giver(row, others)
        if giver is None:
            continue
        figures[giver] = figures[giver].without(gift)
        if giver != own:
            continue
        if gift == "returned" and row.places and row.asked_at >= waiting_since:
            continue
        given = given._replace(**{gift: getattr(given, gift) + 1})
    return given


_Gift = t.Literal["idle", "returned", "spare"]


class _Figures(t.NamedTuple):
    """What a process has, less what it is to give."""

    used: int
    idle: int
    spare: int

    def without(self, gift: _Gift) -> _Figures:
        """Return what is left once this was given."""
        if gift == "spare":
            return self._replace(spare=self.spare - 1)
        return self._replace(used=self.used - 1, idle=self.idle - (gift == "idle"))


def _giver(row: Row, others: Mapping[int, _Figures]) -> tuple[int | None, _Gift]:
    """Return which of the others is to give what to a process that wishes."""

    def most(numbers: Iterable[int]) -> int | None:
        return max(numbers, key=lambda each: (others[each].used, each), default=None)

    several = [each for each, have in others.items() if have.used > 1]
    giver = most(each for each in several if others[each].idle > 0)
    if giver is not None:
        return giver, "idle"
    giver = most(several)
    if giver is not None:
        is_fair = not row.places or others[giver].used > row.used + 1
        return giver if is_fair else None, "returned"
    if row.places or not row.waits:
        return None, "idle"
    giver = most(each for each, have in others.items() if have.spare > 0)
    if giver is not None:
        return giver, "spare"
    return most(each for each, have in others.items() if have.idle > 0), "idle"
