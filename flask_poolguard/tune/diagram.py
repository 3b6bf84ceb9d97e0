"""Throughput and latency by pool size, drawn by matplotlib.

Nothing that an app chose is drawn, so no text needs to be escaped, or to be kept from
being read as matplotlib's formulas.
"""

from __future__ import annotations

import io
import itertools
import typing as t

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .choice import Choice
from .outcome import Outcome

# On a light page; page.html has the colours of the same names for a dark one. Each is
# another colour than all others, for svg() finds them by it.
COLOURS: t.Final = {
    "ink": "#1b2330",
    "quiet": "#5a6576",
    "grid": "#dfe3ea",
    "rate": "#1f6feb",
    "p95": "#b4470f",
    "p50": "#6f42c1",
    "chosen": "#12805c",
}
_INCHES: t.Final = (7.6, 7.2)
_DOTS_PER_INCH: t.Final = 144
# Not the file that a user may have for notebooks. Text stays text, and the ids in an
# SVG are the same each time.
_STYLE: t.Final[dict[t.Any, object]] = {
    "axes.edgecolor": COLOURS["quiet"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": COLOURS["grid"],
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "flask-poolguard",
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["quiet"],
    "xtick.labelsize": 8,
    "ytick.color": COLOURS["quiet"],
}


def png(outcome: Outcome, choice: Choice) -> bytes:
    """Return the diagram as a picture, on white."""
    return _drawn(outcome, choice, "png", {"Software": None})


def svg(outcome: Outcome, choice: Choice) -> str:
    """Return the diagram as an element for an HTML page, whose CSS colours it.

    Colours are variables of the page: ``var(--ink)``, and so on as in ``COLOURS``.
    """
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    text = _drawn(outcome, choice, "svg", no_metadata).decode()
    # A page has its own XML declaration and document type.
    label = 'role="img" aria-label="Throughput and latency by pool size"'
    text = f"<svg {label} " + text.partition("<svg ")[2]
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _drawn(
    outcome: Outcome, choice: Choice, kind: str, metadata: dict[str, None]
) -> bytes:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        file = io.BytesIO()
        figure(outcome, choice).savefig(
            file, format=kind, metadata=metadata, transparent=kind == "svg"
        )
    return file.getvalue()


def figure(outcome: Outcome, choice: Choice) -> Figure:
    """Draw throughput above and latency below, in the style that is set."""
    # Without pyplot there is no window, no backend to choose, and no global state.
    drawn = Figure(_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    above, below = drawn.subplots(2, sharex=True)
    _draw_throughput(above, outcome, choice)
    _draw_latency(below, outcome)
    _draw_sizes(below, outcome)
    for axes in (above, below):
        _mark(axes, choice)
    return drawn


def _draw_throughput(axes: Axes, outcome: Outcome, choice: Choice) -> None:
    """Draw the means, each with its lowest and highest round, and the law."""
    sizes = [each.size for each in outcome.sizes]
    means = np.array([each.per_second for each in outcome.sizes])
    lowest = [min(each.rounds) for each in outcome.sizes]
    highest = [max(each.rounds) for each in outcome.sizes]
    every = np.geomspace(1, max(sizes), 200)
    axes.plot(
        every,
        choice.law.throughput(every * outcome.plan.processes),
        color=COLOURS["quiet"],
        linestyle="--",
        label="scalability law",
    )
    axes.errorbar(
        sizes,
        means,
        [means - lowest, highest - means],
        color=COLOURS["rate"],
        fmt="o",
        capsize=3,
        label="mean of all rounds, lowest to highest",
    )
    axes.set_ylabel(f"{outcome.plan.unit} per second, all processes")


def _draw_latency(axes: Axes, outcome: Outcome) -> None:
    for name, label in (("p95", "95th percentile"), ("p50", "median")):
        values = [getattr(each, f"{name}_seconds") for each in outcome.sizes]
        axes.plot(
            [each.size for each in outcome.sizes],
            [np.nan if seconds is None else seconds * 1000 for seconds in values],
            color=COLOURS[name],
            marker="o",
            label=label,
        )
    axes.set_ylabel("latency, milliseconds")


def _draw_sizes(axes: Axes, outcome: Outcome) -> None:
    """Put the sizes on a logarithmic axis: small ones matter most."""
    axes.set_xscale("log")
    sizes = [each.size for each in outcome.sizes]
    # The last may follow so closely that there is no room for the one before it.
    labels = [str(a) if b > 1.15 * a else "" for a, b in itertools.pairwise(sizes)]
    axes.set_xticks(sizes, [*labels, str(sizes[-1])])
    axes.minorticks_off()
    axes.set_xlabel("pool_size of each process (logarithmic)")


def _mark(axes: Axes, choice: Choice) -> None:
    """Mark the chosen size, and its range."""
    colour = COLOURS["chosen"]
    if choice.low is not None and choice.high is not None and not choice.still_rising:
        # So wide that a range of one size is seen.
        axes.axvspan(choice.low / 1.03, choice.high * 1.03, color=colour, alpha=0.15)
    axes.axvline(choice.size, color=colour, label=_mark_label(choice))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_ylim(bottom=0)


def _mark_label(choice: Choice) -> str:
    if choice.still_rising:
        return f"pool_size {choice.size} or more"
    return f"pool_size {choice.size}" + ("" if choice.low is None else " (95% range)")
