"""The last hour of all workers, as a table with sparklines and as JSON."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Mapping, Sequence

from ..report.hour import BindHistory, BindMinute, minutes_to_plain
from ..report.model import Report
from ..report.text import NONE, Page, columns, duration, visible
from ..report.verdict import verdict_of
from ..state.history import Minute
from .findings_view import verdict_lines
from .marks import BAD, UNUSUAL, mark, paint
from .status_view import headline

_MINUTES: t.Final = 60
# What stands beside the bars, in columns.
_MARGIN: t.Final = 18
_BARS: t.Final = "▁▂▃▄▅▆▇█"
_HEADINGS: t.Final = (
    "MINUTE",
    "BIND",
    "CHECKOUTS",
    "OUT",
    "WAITS",
    "WAITING",
    "LONGEST",
    "TIMEOUTS",
    "FAILED",
    "LEAKS",
)


def to_dict(report: Report, history: BindHistory) -> dict[str, t.Any]:
    """Return what ``flask pool history --json`` prints, before it is JSON."""
    return {
        "schema_version": report.schema_version,
        "taken_at": report.taken_at,
        "app": report.app,
        "workers": len(report.workers),
        "minutes": minutes_to_plain(history),
    }


def render(report: Report, history: BindHistory, minutes: int, page: Page) -> str:
    """Return the last minutes, and the hour of each bind in a line per figure.

    :param minutes: how many are shown one by one.
    """
    now = int(time.time()) // 60 * 60
    lines = [*verdict_lines(verdict_of(report), page), *page.wrap(headline(report))]
    if not history:
        lines += page.wrap("Nothing happened in their pools within the last hour.")
        return "\n".join(lines)
    shown = [each for each in history if each.minute.at > now - minutes * 60]
    if shown:
        lines += ["", *columns(_HEADINGS, list(map(_row, shown)), page, paint)]
    else:
        span = "minute" if minutes == 1 else f"{minutes} minutes"
        lines += page.wrap(f"Nothing happened in their pools within the last {span}.")
    for bind in dict.fromkeys(each.bind for each in history):
        own = {each.minute.at: each.minute for each in history if each.bind == bind}
        lines += ["", *_hour(bind, own, now, min(_MINUTES, page.width - _MARGIN))]
    return "\n".join(lines)


def _row(each: BindMinute) -> list[str]:
    minute = each.minute
    waited = duration(minute.longest_wait_seconds) if minute.waits else NONE
    return [
        time.strftime("%H:%M", time.localtime(minute.at)),
        visible(each.bind),
        str(minute.checkouts),
        str(minute.most_out),
        str(minute.waits),
        mark(str(minute.most_waiting), UNUSUAL if minute.most_waiting else None),
        mark(waited, UNUSUAL if minute.first_waited_at else None),
        mark(str(minute.timeouts), BAD if minute.timeouts else None),
        mark(str(minute.unavailable), BAD if minute.unavailable else None),
        mark(str(minute.leaks), UNUSUAL if minute.leaks else None),
    ]


def _hour(bind: str, minutes: Mapping[int, Minute], now: int, count: int) -> list[str]:
    """Return a line per figure: a bar for each minute, the last one on the right, and
    the greatest number.

    :param count: of minutes.
    """
    first = now - (count - 1) * 60
    begin = time.strftime("%H:%M", time.localtime(first))
    lines = [f"Bind {visible(bind)}, each minute since {begin}"]
    for name, figure in (
        ("checkouts", "checkouts"),
        ("waits", "waits"),
        ("timeouts", "timeouts"),
        ("failed", "unavailable"),
    ):
        values = [
            getattr(minutes[at], figure) if at in minutes else 0
            for at in range(first, now + 60, 60)
        ]
        if any(values):
            lines.append(f"{name:>9} {sparkline(values)} {max(values)}")
    return lines


def sparkline(values: Sequence[int]) -> str:
    """Return a bar for each value, relative to the greatest; a space for 0."""
    most = max(values)
    return "".join(
        _BARS[max(-(-value * len(_BARS) // most) - 1, 0)] if value else " "
        for value in values
    )
