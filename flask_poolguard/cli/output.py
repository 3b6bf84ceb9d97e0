"""How commands print: for a terminal, a pipe or a program."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import typing as t

import click

from ..reports.text import Page

# Where there is no terminal that could say.
_WIDTH: t.Final = 80
_NARROWEST: t.Final = 40

_PLAIN_CHARACTERS: t.Final = str.maketrans(
    {
        "–": "-",  # noqa: RUF001 (what to replace)
        "…": "...",
        "×": "x",
        "∞": "no limit",
        "λ": "lambda",
        "σ": "sigma",
        "κ": "kappa",
    }
)

json_option: t.Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for programs."
)


class Number(click.FloatRange):
    """A number within bounds; click's own range lets NaN through."""

    def convert(
        self,
        value: t.Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> t.Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


def page() -> Page:
    """Return how wide the output may be."""
    is_terminal = sys.stdout.isatty()
    width = max(shutil.get_terminal_size((_WIDTH, 24)).columns, _NARROWEST)
    return Page(width if is_terminal else _WIDTH, is_terminal)


def echo(text: str) -> None:
    """Print a text; styled only where that is wanted and understood."""
    click.echo(_encodable(text), color=False if _is_plain() else None)


def echo_json(data: t.Any, *, on_one_line: bool = False) -> None:
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=None if on_one_line else 2))


def _is_plain() -> bool:
    """Tell whether colours are unwanted (no-color.org), or not understood."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _encodable(text: str) -> str:
    """Replace what the output cannot encode: no report fails over a dash."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN_CHARACTERS)
        return text.encode(encoding, "replace").decode(encoding)
    return text
