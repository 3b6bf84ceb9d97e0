"""``flask pool recycle``: new connections for all workers, without a restart."""

from __future__ import annotations

import os
import typing as t

import click
from flask.cli import with_appcontext

from ..report.renewal import Renewal
from . import current
from .output import Number, echo, echo_json, json_option, page, prints_to_terminal
from .recycle_view import render, render_progress, verdict_on

_EPILOG: t.Final = """
\b
Examples:
  flask pool recycle                    after a failover, or a change of DNS
  flask pool recycle --bind reports     only the connections of one bind
  flask pool recycle --timeout 300      wait longer for those that are in use
"""


@click.command(
    "recycle",
    epilog=_EPILOG,
    short_help="Have all live workers replace their connections.",
)
@click.option("--bind", metavar="NAME", help="Only the connections of this bind.")
@click.option(
    "--timeout",
    "seconds",
    type=Number(0, 86400),
    default=60.0,
    metavar="SECONDS",
    show_default=True,
    help="How long to wait for connections that are in use.",
)
@click.option(
    "--allow-none",
    is_flag=True,
    help="End with 0 if no live worker is found, as before the first start.",
)
@json_option
@click.pass_context
@with_appcontext
def command(
    context: click.Context,
    bind: str | None,
    seconds: float,
    allow_none: bool,
    as_json: bool,
) -> None:
    """Have all live workers of this app on this host replace their connections.

    Idle ones are closed at once, those in use when they come back; no request fails
    for it. Ends with 0 when no worker uses an older connection any more, with 1 if
    that is not so in time, or if none was found to tell. The workers go on with it in
    any case. Connections that the app took out of the pool (detach()) are left alone
    and do not count.

    Run it as the user, and with the environment, of the app.
    """
    recycling = current.recycling(bind, may_be_nobody=allow_none)
    last: Renewal | None = None
    shows_progress = _shows_progress() and not as_json
    try:
        for last in recycling.watch(seconds):
            if shows_progress and not last.done:
                click.echo(f"\r{render_progress(last, page())}\033[K", nl=False)
    except KeyboardInterrupt:
        # Ctrl-C ends the waiting, not what was asked for.
        pass
    finally:
        if shows_progress:
            click.echo("\r\033[K", nl=False)
    if last is not None:
        if as_json:
            echo_json(last.to_dict(), verdict_on(last))
        else:
            echo(render(last, page()))
    context.exit(0 if last is not None and last.done else 1)


def _shows_progress() -> bool:
    """Tell whether there is a terminal that can write over its last line."""
    return prints_to_terminal() and os.environ.get("TERM") != "dumb"
