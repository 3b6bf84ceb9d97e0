"""``flask pool status``: the pools of all workers."""

from __future__ import annotations

import sys
import time
import typing as t

import click
from flask.cli import with_appcontext

from ..reports import Report
from ..reports.table import render
from . import current
from .output import Seconds, echo, echo_json, json_option, page

_EPILOG: t.Final = """
\b
Examples:
  flask pool status                 the pools of all workers, once
  flask pool status --watch 2       again every two seconds, until Ctrl-C
  flask pool status --json | jq '.workers[].pools[].checked_out'
"""


@click.command("status", epilog=_EPILOG)
@json_option
@click.option(
    "--watch",
    "watch_seconds",
    type=Seconds(0.1, 3600),
    metavar="SECONDS",
    help="Report again and again, with such a pause, until Ctrl-C. With --json, one"
    " line per report.",
)
@with_appcontext
def command(as_json: bool, watch_seconds: float | None) -> None:
    """Show the pools of all live workers of this app on this host.

    The figures come from the workers themselves, also while they hang, and from the
    database servers. Run it as the user, and with the environment, of the app.
    """
    if watch_seconds is None:
        _show(current.report(), as_json=as_json, watching=False)
        return
    try:
        while True:
            _show(current.report(), as_json=as_json, watching=True)
            time.sleep(watch_seconds)
    except KeyboardInterrupt:
        # Ctrl-C is the way to end it, not an error.
        if sys.stdout.isatty():
            click.echo()


def _show(report: Report, *, as_json: bool, watching: bool) -> None:
    if as_json:
        echo_json(report.to_dict(), on_one_line=watching)
        return
    text = render(report, page())
    if watching:
        # Clears a terminal; in a file the reports are kept apart.
        click.clear()
        text += "\n" if sys.stdout.isatty() else "\n\n"
    echo(text)
