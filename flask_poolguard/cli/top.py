"""``flask pool top``: activity in the pools, refreshed."""

from __future__ import annotations

import time
import typing as t

import click
from flask.cli import with_appcontext

from ..report import Detail
from ..report.verdict import verdict_of
from . import current
from .output import Number, echo, echo_json, json_option, page, terminal_height
from .repeating import begin_page, repeat
from .top_view import Top, render

_EPILOG: t.Final = """
\b
Examples:
  flask pool top                          every two seconds, until Ctrl-C
  flask pool top --interval 10 --count 6  a minute, for a log
  flask pool top --json | jq '.pools[] | select(.waiting > 0)'
"""


@click.command(
    "top", epilog=_EPILOG, short_help="Show what goes on, refreshed, with rates."
)
@json_option
@click.option(
    "--interval",
    type=Number(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="The pause between two refreshes.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help="End after so many refreshes; without it, with Ctrl-C.",
)
@with_appcontext
def command(as_json: bool, interval: float, count: int | None) -> None:
    """Show what goes on in the pools of this app on this host, again and again.

    Pools for which a thread waits come first, and then who holds a connection longest.
    Rates are those since the last refresh. With --json, one line per refresh.
    """
    top = Top()

    def show() -> None:
        now = time.monotonic()
        refresh = top.refresh(current.report(Detail.SESSIONS), now)
        if as_json:
            echo_json(refresh.to_dict(), verdict_of(refresh.report), on_one_line=True)
            return
        echo(begin_page(render(refresh, page(), terminal_height())))

    repeat(show, interval, count)
