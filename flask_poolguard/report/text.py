"""Plain text for terminals: wrapped, without control characters."""

from __future__ import annotations

import textwrap
import typing as t
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

UNKNOWN: t.Final = "?"
NONE: t.Final = "–"  # noqa: RUF001 (a dash of a digit's width: nothing there)


@dataclass(frozen=True, slots=True)
class Page:
    """How wide the text may be.

    :ivar break_words: whether a word that is too long is broken; on paper and in a
        pipe it is better left whole.
    """

    width: int
    break_words: bool

    def wrap(self, text: str, first: str = "", rest: str = "") -> list[str]:
        """Return a text as lines, its first with one indent, the others with another.

        Control characters are made visible: a request's path may be shown here, and
        its sender must not command the operator's terminal.
        """
        return textwrap.wrap(
            visible(text),
            self.width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=self.break_words,
            break_on_hyphens=False,
        ) or [first.rstrip()]


def visible(text: str) -> str:
    """Return a text with everything escaped that a terminal would not just print."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def duration(seconds: float | None, none: str = NONE) -> str:
    """Return seconds as short as they can be read: 1.2s, 95s, 3m10s, 2h05m, 3d02h."""
    if seconds is None:
        return none
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def _as_it_is(cell: str, text: str) -> str:
    return text


def columns(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    page: Page,
    paint: Callable[[str, str], str] = _as_it_is,
) -> Iterator[str]:
    """Yield rows in columns, or one below the other where those do not fit.

    The second column holds names, the others hold numbers.

    :param paint: what becomes of each cell's text once it is as wide as its column.
    """
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for gap in ("  ", " "):
        if sum(widths) + len(gap) * (len(widths) - 1) <= page.width:
            for row in table:
                cells = list(map(str.rjust, row, widths))
                cells[1] = row[1].ljust(widths[1])
                yield gap.join(map(paint, row, cells))
            return
    names = [heading.lower() for heading in headings]
    for first, second, *numbers in rows:
        yield from page.wrap(f"{names[0]} {first}, {names[1]} {second}")
        pairs = map(" ".join, zip(names[2:], numbers, strict=True))
        yield from page.wrap(", ".join(pairs), "  ", "  ")
