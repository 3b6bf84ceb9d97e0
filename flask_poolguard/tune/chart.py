"""Diagrams as SVG, coloured by the style sheet of the HTML page."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .axes import number, place_of, size_at, ticks

_WIDTH: t.Final = 760
_HEIGHT: t.Final = 344
_LEFT: t.Final = 68
_RIGHT: t.Final = 20
_TOP: t.Final = 48
_BOTTOM: t.Final = 52
_STEPS: t.Final = 160
# Room for the digits of a label on the axis of sizes.
_LABEL_WIDTH: t.Final = 26


@dataclass(frozen=True, slots=True)
class Dot:
    """A measured value, with its spread.

    :ivar low: the lowest of all rounds; None draws no spread.
    :ivar text: shown when the pointer is on it.
    """

    size: int
    value: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart: dots, joined or not, under a name of the style sheet."""

    name: str
    dots: Sequence[Dot]
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The size that is marked, with its range."""

    size: int
    low: int | None
    high: int | None


def chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    curve: Callable[[float], float] | None,
    chosen: Chosen | None,
) -> Markup:
    """Draw values by pool size, with the sizes on a logarithmic axis.

    :param title: read out in place of the picture.
    :param unit: of the values, written on their axis.
    :param curve: what is drawn through the values, at any size.
    """
    largest = max(dot.size for line in lines for dot in line.dots)
    values = [max(dot.value, dot.high or 0) for line in lines for dot in line.dots]
    scale = ticks(max(values))
    frame = _Frame(largest, scale[-1])
    parts = [frame.grid(scale), frame.sizes(sorted({d.size for d in lines[0].dots}))]
    if chosen is not None:
        parts.append(frame.chosen(chosen))
    if curve is not None:
        parts.append(frame.curve(curve))
    parts += [frame.line(line) for line in lines]
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}">\n{parts}\n'
        '<text class="axis" x="{left}" y="16">{unit}</text>\n'
        '<text class="axis" x="{right}" y="{bottom}" text-anchor="end">pool_size of'
        " each process (logarithmic)</text>\n</svg>"
    ).format(
        w=_WIDTH,
        h=_HEIGHT,
        title=title,
        parts=Markup("\n").join(parts),
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        bottom=_HEIGHT - 8,
        unit=unit,
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """Turns sizes and values into places in the picture."""

    largest: int
    top: float

    def x(self, size: float) -> float:
        """Return where a size stands."""
        width = _WIDTH - _LEFT - _RIGHT - 24
        return round(_LEFT + 12 + place_of(size, self.largest) * width, 1)

    def y(self, value: float) -> float:
        """Return where a value stands."""
        share = value / self.top
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def grid(self, scale: Sequence[float]) -> Markup:
        """Draw a line for each round value."""
        return Markup("\n").join(
            Markup(
                '<line class="grid" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/>'
                '<text x="{text}" y="{below}" text-anchor="end">{label}</text>'
            ).format(
                x1=_LEFT,
                x2=_WIDTH - _RIGHT,
                y=self.y(value),
                text=_LEFT - 8,
                below=self.y(value) + 4,
                label=number(value),
            )
            for value in scale
        )

    def sizes(self, sizes: Sequence[int]) -> Markup:
        """Name the sizes that were measured, as far as there is room."""
        parts: list[Markup] = []
        taken = -1.0
        for size in sizes:
            x = self.x(size)
            if x - taken < _LABEL_WIDTH and parts:
                continue
            taken = x
            parts.append(
                Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    x, _HEIGHT - _BOTTOM + 20, size
                )
            )
        return Markup("\n").join(parts)

    def chosen(self, chosen: Chosen) -> Markup:
        """Mark the recommended size, and its range."""
        x, bottom = self.x(chosen.size), _HEIGHT - _BOTTOM
        band = Markup("")
        if chosen.low is not None and chosen.high is not None:
            low, high = self.x(chosen.low) - 5, self.x(chosen.high) + 5
            band = Markup(
                '<rect class="band" x="{}" y="{}" width="{:.1f}" height="{}"/>'
            ).format(low, _TOP, high - low, bottom - _TOP)
        # Beside the line, on the side where there is room.
        is_right = x > _WIDTH * 0.7
        return band + Markup(
            '<line class="chosen" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
            '<text class="chosen" x="{text}" y="{y}" text-anchor="{anchor}">pool_size'
            " {size}</text>"
        ).format(
            x=x,
            top=_TOP,
            bottom=bottom,
            text=x - 10 if is_right else x + 10,
            y=_TOP - 8,
            anchor="end" if is_right else "start",
            size=chosen.size,
        )

    def curve(self, curve: Callable[[float], float]) -> Markup:
        """Draw a curve over all sizes."""
        places = [size_at(n / _STEPS, self.largest) for n in range(_STEPS + 1)]
        points = " ".join(f"{self.x(s)},{self.y(curve(s))}" for s in places)
        return Markup('<polyline class="law" points="{}"/>').format(points)

    def line(self, line: Line) -> Markup:
        """Draw the dots of one series, with their spread."""
        parts: list[Markup] = []
        if line.joined:
            points = " ".join(f"{self.x(d.size)},{self.y(d.value)}" for d in line.dots)
            parts.append(
                Markup('<polyline class="joined {}" points="{}"/>').format(
                    line.name, points
                )
            )
        for dot in line.dots:
            x = self.x(dot.size)
            if dot.low is not None and dot.high is not None:
                spread = Markup(
                    '<path class="spread" d="M{} {}h8m-4 0V{}m-4 0h8"/>'
                ).format(round(x - 4, 1), self.y(dot.low), self.y(dot.high))
                parts.append(spread)
            parts.append(
                Markup(
                    '<circle class="dot {}" cx="{}" cy="{}" r="4.5"><title>{}</title>'
                    "</circle>"
                ).format(line.name, x, self.y(dot.value), dot.text)
            )
        return Markup("\n").join(parts)
