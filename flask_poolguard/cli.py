"""``flask pool …``: what an operator asks from another process."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import typing as t

import click
from flask import current_app
from flask.cli import FlaskGroup, with_appcontext

if t.TYPE_CHECKING:
    from .reports import Report

# Where there is no terminal that could say.
_WIDTH: t.Final = 80
_NARROWEST: t.Final = 40

_PLAIN_CHARACTERS: t.Final = str.maketrans(
    {"–": "-", "…": "...", "×": "x", "∞": "no limit"}  # noqa: RUF001 (what to replace)
)

_EPILOG: t.Final = """
\b
Examples:
  flask pool status                 the pools of all workers, once
  flask pool status --watch 2       again every two seconds, until Ctrl-C
  flask pool status --json | jq '.workers[].pools[].checked_out'
"""


def make_group(name: str) -> click.Group:
    """Return the command group of one app.

    :param name: ``POOLGUARD_CLI_GROUP``.
    """
    group = click.Group(name, help="Look into the database connection pools.")
    group.add_command(status)
    return group


class _Pause(click.FloatRange):
    """Seconds; click's own range lets NaN through."""

    def convert(
        self,
        value: t.Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> t.Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option(
    "--watch",
    "watch_seconds",
    type=_Pause(0.1, 3600),
    metavar="SECONDS",
    help="Report again and again, with such a pause, until Ctrl-C. With --json, one"
    " line per report.",
)
@with_appcontext
def status(as_json: bool, watch_seconds: float | None) -> None:
    """Show the pools of all live workers of this app on this host.

    The figures come from the workers themselves, also while they hang, and from the
    database servers. Run it as the user, and with the environment, of the app.
    """
    if watch_seconds is None:
        _show(_make_report(), as_json=as_json, watching=False)
        return
    try:
        while True:
            _show(_make_report(), as_json=as_json, watching=True)
            time.sleep(watch_seconds)
    except KeyboardInterrupt:
        # Ctrl-C is the way to end it, not an error.
        if sys.stdout.isatty():
            click.echo()


def _make_report() -> Report:
    # Only now: other commands should not pay for it.
    from .reports import make_report

    state: t.Any = current_app.extensions["poolguard"]
    # A process that only runs this command is no worker. What holds other commands
    # (a test's runner, an app's own script) may be one.
    root = click.get_current_context().find_root().command
    return make_report(
        current_app,
        state.config,
        state.engines,
        with_this_process=not isinstance(root, FlaskGroup),
    )


def _show(report: Report, *, as_json: bool, watching: bool) -> None:
    if as_json:
        indent = None if watching else 2
        click.echo(json.dumps(report.to_dict(), indent=indent))
        return
    from .reports.table import render
    from .reports.text import Page

    is_terminal = sys.stdout.isatty()
    width = max(shutil.get_terminal_size((_WIDTH, 24)).columns, _NARROWEST)
    text = render(report, Page(width if is_terminal else _WIDTH, is_terminal))
    if watching:
        # Clears a terminal; in a file the reports are kept apart.
        click.clear()
        text += "\n" if is_terminal else "\n\n"
    click.echo(_encodable(text), color=False if _is_plain() else None)


def _is_plain() -> bool:
    """Tell whether colours are unwanted (no-color.org), or not understood."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _encodable(text: str) -> str:
    """Replace what the output cannot encode: no report fails over a dash."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN_CHARACTERS)
        return text.encode(encoding, "replace").decode(encoding)
    return text
