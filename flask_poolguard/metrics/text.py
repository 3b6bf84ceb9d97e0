"""Prometheus' text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import math
import typing as t
from collections.abc import Iterable, Iterator, Sequence

from ..state.histogram import BOUNDS, Histogram
from .families import Filled

CONTENT_TYPE: t.Final = "text/plain; version=0.0.4; charset=utf-8"

_IN_HELP: t.Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL: t.Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

# The values of ``le``: each bucket's upper bound.
BOUND_LABELS: t.Final = (*(str(each) for each in BOUNDS), "+Inf")


def render_families(families: Iterable[Filled]) -> str:
    """Return metrics as text; those without a value are left out."""
    return "".join(f"{line}\n" for each in families for line in _lines(each))


def _lines(filled: Filled) -> Iterator[str]:
    family = filled.family
    if not filled.samples:
        return
    yield f"# HELP {family.name} {family.help.translate(_IN_HELP)}"
    yield f"# TYPE {family.name} {family.type}"
    for values, found in filled.samples.items():
        if not isinstance(found, Histogram):
            yield _line(family.name, family.labels, values, found)
            continue
        cumulative = found.cumulative()
        labels = (*family.labels, "le")
        for bound, count in zip(BOUND_LABELS, cumulative, strict=True):
            yield _line(f"{family.name}_bucket", labels, (*values, bound), count)
        yield _line(f"{family.name}_count", family.labels, values, cumulative[-1])
        yield _line(f"{family.name}_sum", family.labels, values, found.seconds)


def _line(
    name: str, labels: Sequence[str], values: Sequence[str], number: float
) -> str:
    pairs = zip(labels, values, strict=True)
    shown = ",".join(f'{label}="{each.translate(_IN_LABEL)}"' for label, each in pairs)
    return f"{name}{{{shown}}} {_number(number)}"


def _number(number: float) -> str:
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    return "NaN" if math.isnan(number) else repr(number)
