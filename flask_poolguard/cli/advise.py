"""``flask pool advise``: recommended pool sizes, from what the workers needed."""

from __future__ import annotations

import typing as t

import click
from flask import current_app
from flask.cli import with_appcontext

from ..report.advice import make_advice
from ..report.advice_model import AdviceOptions
from ..tracking.sizing import SHARE
from . import current
from .advise_view import render, verdict_on
from .output import Number, echo, echo_json, json_option, page

_EPILOG: t.Final = """
\b
Examples:
  flask pool advise                  after some hours of usual traffic
  flask pool advise --share 1        rather open a connection now and then
  flask pool advise --workers 8 --hosts 3

Exit status: 1 if there is no advice for any bind (UNKNOWN), or a server has too little
room (CRITICAL).
"""


@click.command("advise", epilog=_EPILOG)
@json_option
@click.option(
    "--share",
    "percent",
    type=Number(0.001, 50),
    metavar="PERCENT",
    default=SHARE * 100,
    show_default=True,
    help="Of checkouts that may want more than pool_size connections at a time; not"
    " each of them opens one.",
)
@click.option(
    "--at-least",
    type=click.IntRange(1),
    metavar="CHECKOUTS",
    help="Name one size if there were so many, else a range.  [default: three for each"
    " one that the share lets pass, and 1,000]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 100_000),
    metavar="NUMBER",
    help="Workers per host to share the server.  [default: those that live]",
)
@click.option(
    "--hosts",
    type=click.IntRange(1, 100_000),
    metavar="NUMBER",
    default=1,
    show_default=True,
    help="Hosts that run as many workers as this one.",
)
@click.pass_context
@with_appcontext
def command(
    ctx: click.Context,
    as_json: bool,
    percent: float,
    at_least: int | None,
    workers: int | None,
    hosts: int,
) -> None:
    """Advise on pool_size and max_overflow.

    By what the live workers of this app on this host were asked for since they
    started, and by what the server has left. Changes nothing.
    """
    options = AdviceOptions(percent / 100, at_least, workers, hosts)
    advice = make_advice(
        current.report(), current.state().engines, current_app.config, options
    )
    verdict = verdict_on(advice)
    if as_json:
        echo_json(advice.to_dict(), verdict)
    else:
        echo(render(advice, page()))
    ctx.exit(int(verdict.level in ("critical", "unknown")))
