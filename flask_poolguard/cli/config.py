"""``flask pool config``: the settings in force and their origin."""

from __future__ import annotations

import typing as t

import click
from flask import current_app
from flask.cli import with_appcontext

from ..report.effective_settings import find_effective
from . import current
from .config_view import render, verdict_on
from .output import echo, echo_json, json_option, page

_EPILOG: t.Final = """
\b
Examples:
  flask pool config
  flask pool config --json | jq -c '.binds[].settings[] | [.name, .origin]'
"""


@click.command("config", epilog=_EPILOG)
@json_option
@with_appcontext
def command(as_json: bool) -> None:
    """Show the settings of every bind, and where each comes from.

    Needs neither a worker nor a server. Where workers live, their recycle times are
    shown too, and whether they were started with other sizes.
    """
    state = current.state()
    found = find_effective(current_app, state.config, state.engines)
    if as_json:
        echo_json(found.to_dict(), verdict_on(found))
    else:
        echo(render(found, page()))
