"""Draw what grows: logarithmic axes, medians as lines, quartiles as bands.

The same figures give the same file, so that a picture changes only if they do.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.figures import Curve, quartiles

INCHES = (5.6, 3.6)
# In the order of the kinds, on white; told apart by the marker too.
COLOURS = ("#5a6576", "#1f6feb", "#b4470f")
MARKERS = ("o", "s", "^")
# Text stays text, and ids are the same each time.
STYLE: dict[Any, object] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#dfe3ea",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "flask-poolguard",
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def write(curve: Curve, folder: Path) -> None:
    """Write a curve's picture into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{curve.name}.svg").write_text(svg(curve), encoding="utf-8")


def svg(curve: Curve) -> str:
    """Return a curve's picture."""
    with mpl.rc_context():
        # Not the file that a user may have for notebooks.
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        # Without pyplot there is no window, no backend to choose, no global state.
        drawn = Figure(INCHES, layout="constrained")
        draw(drawn.subplots(), curve)
        file = io.BytesIO()
        drawn.savefig(file, format="svg", metadata=NO_METADATA)
    lines = file.getvalue().decode().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def draw(axes: Axes, curve: Curve) -> None:
    """Draw each kind, and what growing as the number does would look like."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends: list[float] = []
    for (kind, found), colour, marker in zip(
        curve.found.items(), COLOURS, MARKERS, strict=False
    ):
        numbers = sorted(found)
        low, middle, high = zip(*(quartiles(found[n]) for n in numbers), strict=True)
        axes.fill_between(numbers, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            numbers, middle, color=colour, marker=marker, markersize=4, label=kind
        )
        ends += [*low, *high]
    # From the last kind's first point.
    linear = [middle[0] * number / numbers[0] for number in numbers]
    axes.plot(numbers, linear, color="#5a6576", linestyle=":", label="linear")
    # Whole decades, so that little growth looks little.
    axes.set_ylim(
        10.0 ** math.floor(math.log10(min(ends))),
        10.0 ** math.ceil(math.log10(max(ends))),
    )
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(curve.across)
    axes.set_ylabel(curve.upward)
    axes.grid(axis="y")
    axes.legend(loc="best")
