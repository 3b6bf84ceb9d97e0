"""``flask pool holders``: who holds connections now."""

from __future__ import annotations

import typing as t

import click
from flask.cli import with_appcontext

from ..report import Detail
from ..report.verdict import verdict_of
from . import current
from .holders_view import held_now, render, to_dict
from .output import Number, echo, echo_json, json_option, page

_EPILOG: t.Final = """
\b
Examples:
  flask pool holders                   everybody, longest first
  flask pool holders --min-seconds 10  who has had one for that long
  flask pool holders --json | jq '.holders[].endpoint'
"""


@click.command(
    "holders",
    epilog=_EPILOG,
    short_help="Show who holds connections now, longest first.",
)
@json_option
@click.option(
    "--min-seconds",
    type=Number(0),
    default=0.0,
    metavar="SECONDS",
    help="Leave out who holds a connection for less.",
)
@with_appcontext
def command(as_json: bool, min_seconds: float) -> None:
    """Show who holds connections now, in all live workers of this app on this host.

    With what each does, as its server says: run a query, or hold it for nothing.
    """
    report = current.report(Detail.SESSIONS)
    held = held_now(report, min_seconds)
    if as_json:
        echo_json(to_dict(report, held), verdict_of(report))
    else:
        echo(render(report, held, min_seconds, page()))
