"""``flask pool doctor``: what is wrong, what it leads to, what to change."""

from __future__ import annotations

import typing as t

import click
from flask.cli import with_appcontext

from ..report import LEVELS, Detail, Level, Plan
from ..report.verdict import verdict_of
from . import current
from .doctor_view import diagnosis_dict, is_critical, render_diagnosis
from .output import Number, echo, echo_json, group_name, json_option, page

_EPILOG: t.Final = """
\b
Examples:
  flask pool doctor                          what is wrong now
  flask pool doctor --workers 8 --hosts 3    is there room for that?
  flask pool doctor --level warning          leave out what could be better
  flask pool doctor --seconds 30             watch the servers for longer
  flask pool doctor --json | jq '.findings[].code'
"""


@click.command("doctor", epilog=_EPILOG)
@json_option
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Show findings from this level on.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Judge the room on the servers for N workers per host, with the settings of"
    " this shell, instead of for those that run.",
)
@click.option(
    "--hosts",
    type=click.IntRange(1, 100_000),
    default=1,
    metavar="N",
    help="Judge it for N hosts with as many workers each.",
)
@click.option(
    "--seconds",
    type=Number(0, 60),
    default=2.0,
    show_default=True,
    help="How long to watch what servers and workers count; 0 for not at all.",
)
@with_appcontext
def command(
    as_json: bool, level: Level, workers: int | None, hosts: int, seconds: float
) -> None:
    """Look for what is wrong with the pools and their servers.

    Each finding says what was seen, what it leads to and what to change. Ends with
    status 1 if one is critical: requests fail now, or data is at risk. Takes 4 s more
    than --seconds at most.
    """
    report = current.report(Detail.SESSIONS, Plan(workers, hosts), seconds)
    if as_json:
        echo_json(diagnosis_dict(report, level), verdict_of(report))
    else:
        echo(render_diagnosis(report, level, page(), group_name()))
    if is_critical(report):
        raise SystemExit(1)
