"""Colours for what is not normal; `output.echo` leaves them out where none are wanted.

Escape sequences have no width for a reader but some for ``textwrap`` and ``str.rjust``,
so text is laid out first and painted after that.
"""

from __future__ import annotations

import typing as t
from collections.abc import Sequence

import click

# Requests fail, or something is at risk; worth a look.
BAD: t.Final = "red"
UNUSUAL: t.Final = "yellow"


class Mark(str):
    """A cell of a table that is not normal."""

    __slots__ = ("colour",)
    colour: str


def mark(text: str, colour: str | None) -> str:
    """Return a cell that :func:`paint` shows in a colour; None for a normal one."""
    if colour is None:
        return text
    cell = Mark(text)
    cell.colour = colour
    return cell


def paint(cell: str, text: str) -> str:
    """Return a cell's text, as wide as its column, in the cell's colour."""
    if not isinstance(cell, Mark):
        return text
    return text.replace(cell, click.style(str(cell), fg=cell.colour), 1)


def paint_first(lines: Sequence[str], part: str, colour: str | None) -> list[str]:
    """Return lines with a part of the first one in a colour."""
    if colour is None:
        return list(lines)
    first, *rest = lines
    return [first.replace(part, click.style(part, fg=colour), 1), *rest]
