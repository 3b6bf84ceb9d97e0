"""What a command prints on a terminal, as an SVG element for an HTML page.

Its colours are classes, which ``static/terminal.css`` has for light and for dark pages.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from html import escape

COLUMNS = 80
# Of the character cell, and around all of them.
CELL, LINE, MARGIN = 7.2, 16, 12

# A control sequence with its parameters and what it does; or any other escape.
ESCAPE = re.compile(r"\x1b(?:\[([0-9;?]*)([@-~])|.)?")
KINDS = {
    "1": "bold",
    "2": "dim",
    "31": "red",
    "32": "green",
    "33": "yellow",
    "34": "blue",
    "35": "magenta",
    "36": "cyan",
}

Line = list[tuple[str, str]]


class Terminal:
    """A terminal with one command and its output.

    :param alt: what it shows, for those who do not see it.
    :param command: as it is typed.
    :param output: with its escape sequences.
    """

    def __init__(self, alt: str, command: str, output: str) -> None:
        self.alt = alt
        self._lines = [*_typed(command), *lines_of(output)]

    def svg(self) -> str:
        """Return the element."""
        label = escape(self.alt, quote=True)
        width = COLUMNS * CELL + 2 * MARGIN
        height = len(self._lines) * LINE + 2 * MARGIN
        return "\n".join(
            [
                f'<svg class="terminal-picture" role="img" aria-label="{label}"'
                f' viewBox="0 0 {width:g} {height}" xmlns="http://www.w3.org/2000/svg">',
                f'<rect class="screen" width="{width:g}" height="{height}" rx="6"/>',
                *(_text(*each) for each in enumerate(self._lines, 1) if each[1]),
                "</svg>",
            ]
        )


def _typed(command: str) -> Iterator[Line]:
    """Yield a command after the shell's prompt, in as many lines as it takes."""
    *first, last = textwrap.wrap(command, COLUMNS - 4, break_on_hyphens=False)
    for number, line in enumerate([*(f"{each} \\" for each in first), last]):
        yield [("dim", "> " if number else "$ "), ("bold", line)]


def lines_of(output: str) -> Iterator[Line]:
    """Yield the lines of an output, each in parts with their classes."""
    kinds: list[str] = []
    for line in output.strip("\r\n").splitlines():
        parts: Line = []
        start = 0
        for found in ESCAPE.finditer(line):
            parts.append((" ".join(kinds), line[start : found.start()]))
            start = found.end()
            if found[2] == "m":
                kinds = _changed(kinds, found[1])
        parts.append((" ".join(kinds), line[start:].rstrip()))
        shown = ((kind, _printable(text)) for kind, text in parts)
        yield [(kind, text) for kind, text in shown if text]


def _changed(kinds: list[str], codes: str) -> list[str]:
    """Return what is on after a sequence; one without codes ends all."""
    for code in codes.split(";"):
        kinds = [*kinds, KINDS[code]] if code in KINDS else kinds
        if code in ("", "0"):
            kinds = []
    return kinds


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))


def _text(number: int, parts: Line) -> str:
    """Return a line; it is as wide as its characters in each font."""
    length = sum(len(text) for _, text in parts) * CELL
    spans = "".join(
        f'<tspan class="{kind}">{escape(text)}</tspan>' if kind else escape(text)
        for kind, text in parts
    )
    return (
        f'<text xml:space="preserve" x="{MARGIN}" y="{MARGIN + number * LINE - 4}"'
        f' textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs">{spans}</text>'
    )
