"""``flask pool metrics``: the pools of all workers as Prometheus' text."""

from __future__ import annotations

import os
import typing as t

import click
from flask import current_app
from flask.cli import with_appcontext

from ..metrics.gathering import gather
from ..metrics.output_file import UnwritableFile, write
from ..metrics.text import render_families
from . import current
from .output import UnwritableOutput, echo

_EPILOG: t.Final = """
\b
Examples:
  flask pool metrics
  flask pool metrics --output /var/lib/prometheus/node-exporter/shop.prom
  flask pool metrics --servers --output …  what the servers say as well

For node_exporter's textfile collector: run it from cron or a systemd timer, as the
user of the app, into a folder that this user may write to. The collector reads files
whose names end in .prom.
"""


@click.command("metrics", epilog=_EPILOG)
@click.option(
    "--output",
    "path",
    metavar="FILE",
    help="Write a file, whole or not at all, that every user may read.",
)
@click.option(
    "--servers",
    "with_servers",
    is_flag=True,
    help="Ask the servers too, for 2 s at most: their limits, and findings about them.",
)
@with_appcontext
def command(path: str | None, with_servers: bool) -> None:
    """Print the metrics of all live workers of this app on this host.

    In Prometheus' text format. Counters go on when workers end. Without --servers, no
    database is asked.
    """
    current.state()
    report = current.report() if with_servers else None
    me = None if current.is_worker() else os.getpid()
    text = render_families(gather(current_app, report, me))
    if path is None:
        echo(text.removesuffix("\n"))
        return
    try:
        write(path, text)
    except UnwritableFile as error:
        raise UnwritableOutput(str(error)) from error
