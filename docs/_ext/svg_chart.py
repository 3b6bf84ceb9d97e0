"""Charts as SVG elements for an HTML page, whose CSS colours them.

A chart takes its colours from variables of the page (``static/pictures.css``), so that
it can be read on a light and on a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

WIDTH, HEIGHT = 680, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 46

Point = tuple[float, float]
Range = tuple[float, float]


class Chart:
    """One chart with two axes.

    :param alt: what it shows, for those who do not see it.
    :param across: what the horizontal axis is, with its unit.
    :param upward: the same of the vertical one.
    :param x: the range of the horizontal axis.
    :param y: the range of the vertical one.
    :param log_x: whether each doubling takes the same width.
    :param log_y: the same upward.
    """

    def __init__(
        self,
        alt: str,
        *,
        across: str,
        upward: str,
        x: Range,
        y: Range,
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        self._parts: list[str] = []
        self.alt = alt
        self._x = _scale(x, (LEFT, WIDTH - RIGHT), log=log_x)
        self._y = _scale(y, (HEIGHT - BOTTOM, TOP), log=log_y)
        self._left, self._bottom = x[0], y[0]
        self._legend_at = float(LEFT)
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, across, "middle")
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self._text(14, middle, upward, "middle", f"rotate(-90 14 {middle:g})")

    def ticks(self, x: Iterable[float], y: Iterable[float]) -> None:
        """Name values on both axes; a line across the chart for each one upward."""
        for value in x:
            self._text(self._x(value), HEIGHT - BOTTOM + 17, f"{value:g}", "middle")
        for value in y:
            height = self._y(value)
            self._path(f"M{LEFT} {height:.1f}H{WIDTH - RIGHT}", "grid")
            self._text(LEFT - 7, height + 4, f"{value:g}", "end")

    def names(self, rows: Sequence[str]) -> None:
        """Name rows in place of values: the first is the lowest, at 0.5."""
        for number, name in enumerate(rows):
            self._text(LEFT - 7, self._y(number + 0.5) + 4, name, "end")

    def line(self, colour: str, name: str, points: Sequence[Point]) -> None:
        """Draw straight lines from point to point, each with a dot."""
        self._path("M" + "L".join(map(self._at, points)), colour)
        self._path("".join(f"M{self._at(each)}h0" for each in points), f"{colour} dot")
        self._legend(colour, name)

    def curve(self, colour: str, name: str, points: Sequence[Point]) -> None:
        """Draw straight lines from point to point."""
        self._path("M" + "L".join(map(self._at, points)), colour)
        self._legend(colour, name)

    def steps(self, colour: str, name: str, points: Sequence[Point]) -> None:
        """Draw what keeps its value until the next point."""
        (x, y), *rest = points
        path = f"M{self._at((x, y))}"
        for x, y in rest:
            path += f"H{self._x(x):.1f}V{self._y(y):.1f}"
        self._path(path, colour)
        self._legend(colour, name)

    def dots(self, colour: str, name: str, points: Sequence[Point]) -> None:
        """Draw points only."""
        self._path("".join(f"M{self._at(each)}h0" for each in points), f"{colour} dot")
        self._legend(colour, name)

    def bars(
        self, colour: str, name: str, bars: Iterable[tuple[int, float, float]]
    ) -> None:
        """Draw bars in rows.

        :param bars: of each the row, and where it begins and ends.
        """
        for row, start, end in bars:
            top, low = self._y(row + 0.85), self._y(row + 0.15)
            left, right = self._x(start), max(self._x(end), self._x(start) + 2)
            self._path(
                f"M{left:.1f} {top:.1f}H{right:.1f}V{low:.1f}H{left:.1f}Z",
                f"{colour} bar",
            )
        self._legend(colour, name)

    def level(self, y: float, text: str) -> None:
        """Draw a dotted line across the chart, with a word on it."""
        height = self._y(y)
        self._path(f"M{LEFT} {height:.1f}H{WIDTH - RIGHT}", "level")
        self._text(LEFT + 4, height - 5, text, "start")

    def mark(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        """Write a word at a point."""
        self._text(self._x(x), self._y(y), text, anchor)

    def svg(self) -> str:
        """Return the element."""
        label = escape(self.alt, quote=True)
        return "\n".join(
            [
                f'<svg class="pool-picture" role="img" aria-label="{label}"'
                f' viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">',
                *self._parts,
                "</svg>",
            ]
        )

    def _at(self, point: Point) -> str:
        return f"{self._x(point[0]):.1f} {self._y(point[1]):.1f}"

    def _path(self, path: str, kind: str) -> None:
        self._parts.append(f'<path class="{kind}" d="{path}"/>')

    def _text(
        self, x: float, y: float, text: str, anchor: str, turned: str = ""
    ) -> None:
        transform = f' transform="{turned}"' if turned else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{transform}>'
            f"{escape(text)}</text>"
        )

    def _legend(self, colour: str, name: str) -> None:
        x = self._legend_at
        self._path(f"M{x:.0f} 14h16", colour.partition(" ")[0] + " key")
        self._text(x + 22, 18, name, "start")
        self._legend_at += 46 + 6.6 * len(name)


def _scale(ends: Range, places: Range, *, log: bool) -> Callable[[float], float]:
    """Return what turns a value into a place."""
    curved = math.log if log else float
    low, high = map(curved, ends)

    def place(value: float) -> float:
        inside = min(max(value, ends[0]), ends[1])
        return places[0] + (places[1] - places[0]) * (
            (curved(inside) - low) / (high - low)
        )

    return place
