"""``flask pool history``: what the pools met within the last hour."""

from __future__ import annotations

import typing as t

import click
from flask.cli import with_appcontext

from ..report.hour import history_of
from ..report.verdict import verdict_of
from . import current
from .history_view import render, to_dict
from .output import echo, echo_json, json_option, page

_EPILOG: t.Final = """
\b
Examples:
  flask pool history                    the last quarter of an hour
  flask pool history --minutes 60       the last hour
  flask pool history --json | jq '.minutes[] | select(.timeouts > 0)'
"""


@click.command("history", epilog=_EPILOG)
@json_option
@click.option(
    "--minutes",
    type=click.IntRange(1, 60),
    default=15,
    show_default=True,
    metavar="N",
    help="Show so many minutes; --json always has the whole hour.",
)
@with_appcontext
def command(as_json: bool, minutes: int) -> None:
    """Show what the pools met, minute by minute, in all live workers on this host.

    Each worker remembers an hour; what a worker met that has ended is lost.
    """
    report = current.report()
    history = history_of(report)
    if as_json:
        echo_json(to_dict(report, history), verdict_of(report))
    else:
        echo(render(report, history, minutes, page()))
