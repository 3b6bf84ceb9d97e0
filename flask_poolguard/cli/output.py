"""How commands print: for a terminal, a pipe or a program."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
import typing as t

import click

from ..report.text import Page
from ..report.verdict import Verdict

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
        **dict(zip("▁▂▃▄▅▆▇█", ".:-=+*%#", strict=True)),
    }
)

json_option: t.Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for programs."
)


class UnwritableOutput(click.ClickException):
    """Ends a command that cannot print what it found."""

    exit_code = 2  # 1 says something about the pools

    def __init__(self, reason: str) -> None:
        super().__init__(f"The output could not be written: {reason}.")


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


def prints_to_terminal() -> bool:
    """Tell whether a person reads the output as it comes."""
    # A process that was started without an output has None.
    return sys.stdout is not None and sys.stdout.isatty()


def page() -> Page:
    """Return how wide the output may be."""
    is_terminal = prints_to_terminal()
    width = max(shutil.get_terminal_size((_WIDTH, 24)).columns, _NARROWEST)
    return Page(width if is_terminal else _WIDTH, is_terminal)


def group_name() -> str:
    """Return what the group of the running command is called (POOLGUARD_CLI_GROUP)."""
    group = click.get_current_context().parent
    return (group and group.command.name) or "pool"


def terminal_height() -> int | None:
    """Return how many lines the terminal has; None if the output is none."""
    return shutil.get_terminal_size().lines if prints_to_terminal() else None


def echo(text: str) -> None:
    """Print a text; styled only where that is wanted and understood."""
    _print(_encodable(text), color=False if _is_plain() else None)


def echo_json(
    data: dict[str, t.Any],
    verdict: Verdict | None = None,
    *,
    on_one_line: bool = False,
) -> None:
    """Print data as JSON, the verdict first."""
    whole = data if verdict is None else verdict.before(data)
    _print(json.dumps(whole, indent=None if on_one_line else 2))


def _print(text: str, color: bool | None = None) -> None:
    """Print a text.

    :raises UnwritableOutput: it cannot be read. Who reads no further, as ``head``
        does, is left to click, which ends without a word.
    """
    if sys.stdout is None:
        raise UnwritableOutput("there is none, standard output is closed")
    try:
        click.echo(text, color=color)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        # At its end Python would try again, say so, and end with a status of its own.
        sys.stdout = None
        raise UnwritableOutput(error.strerror or str(error)) from error


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
