"""Diagrams of characters, for terminals."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .axes import number, place_of, size_at, ticks

_HEIGHT: t.Final = 12
_MARGIN: t.Final = 9
_WIDEST: t.Final = 100

# Unicode's braille patterns: eight dots in a cell, numbered by column and row.
_BRAILLE: t.Final = 0x2800
_DOTS: t.Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True, slots=True)
class Characters:
    """What a diagram is made of.

    :ivar dots: whether lines are of braille dots; else of ``line``.
    """

    point: str
    line: str
    chosen: str
    side: str
    tick: str
    floor: str
    corner: str
    dots: bool


PLAIN: t.Final = Characters("o", ".", ":", "|", "+", "-", "+", dots=False)
FULL: t.Final = Characters("●", "⠂", "┊", "│", "┤", "─", "└", dots=True)


def characters_for(encoding: str | None) -> Characters:
    """Return the best characters that an output of this encoding can show."""
    try:
        "".join((FULL.point, FULL.chosen, FULL.floor, chr(_BRAILLE + 255))).encode(
            encoding or "ascii"
        )
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return FULL


def draw(
    title: str,
    points: Mapping[int, float],
    line: Callable[[float], float] | None,
    chosen: int | None,
    width: int,
    characters: Characters,
) -> list[str]:
    """Draw values by pool size, with the sizes on a logarithmic axis.

    :param points: what was measured.
    :param line: what to draw through them, at any size; None draws them alone.
    :param chosen: a size to mark.
    :param width: of the whole diagram, in columns.
    """
    largest = max(points)
    columns = max(min(width, _WIDEST) - _MARGIN - 1, 10)
    scale = ticks(max(points.values()), 4)
    top = scale[-1]

    def column_of(size: float) -> int:
        return round(place_of(size, largest) * (columns - 1))

    def row_of(value: float, rows: int) -> int:
        return round((1 - value / top) * (rows - 1))

    cells = [[" "] * columns for _ in range(_HEIGHT)]
    if chosen is not None:
        for row in cells:
            row[column_of(chosen)] = characters.chosen
    if line is not None:
        _draw_line(cells, lambda place: line(size_at(place, largest)) / top, characters)
    for size, value in points.items():
        cells[row_of(value, _HEIGHT)][column_of(size)] = characters.point
    labels = {row_of(value, _HEIGHT): number(value) for value in scale}
    lines = [title]
    for position, row in enumerate(cells):
        label = labels.get(position)
        side = characters.side if label is None else characters.tick
        lines.append(f"{label or '':>{_MARGIN - 1}}{side}{''.join(row)}".rstrip())
    floor = characters.corner + characters.floor * columns
    lines.append(" " * (_MARGIN - 1) + floor)
    lines.append(" " * _MARGIN + _labels(points, column_of))
    return lines


def _draw_line(
    cells: list[list[str]], height_at: Callable[[float], float], characters: Characters
) -> None:
    """Draw a curve over the cells, both its axes from 0 to 1."""
    rows, columns = len(cells), len(cells[0])
    across, down = (2, 4) if characters.dots else (1, 1)
    marks: dict[tuple[int, int], int] = {}
    for x in range(columns * across):
        y = round((1 - height_at(x / (columns * across - 1))) * (rows * down - 1))
        if 0 <= y < rows * down:
            cell = y // down, x // across
            marks[cell] = marks.get(cell, 0) | _DOTS[x % across][y % down]
    for (row, column), dots in marks.items():
        cells[row][column] = (
            chr(_BRAILLE + dots) if characters.dots else characters.line
        )


def _labels(sizes: Iterable[int], column_of: Callable[[float], int]) -> str:
    """Return the sizes under their columns, without those that have no room."""
    ordered = sorted(sizes)
    text = ""
    # The largest is always named.
    last = str(ordered[-1])
    end = column_of(ordered[-1]) + 1 - len(last)
    for size in ordered[:-1]:
        column = column_of(size)
        if (not text or column > len(text)) and column + len(str(size)) < end:
            text = text.ljust(column) + str(size)
    return text.ljust(end) + last
