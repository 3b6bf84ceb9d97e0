"""``flask pool status``: the pools of all workers."""

from __future__ import annotations

import typing as t

import click
from flask.cli import with_appcontext

from ..report import Detail, Report
from ..report.verdict import verdict_of
from . import current
from .output import Number, echo, echo_json, json_option, page, terminal_height
from .repeating import begin_page, repeat
from .status_view import render

_EPILOG: t.Final = """
\b
Examples:
  flask pool status                 the pools of all workers, once
  flask pool status --server        and what the servers' sessions do
  flask pool status --watch 2       again every two seconds, until Ctrl-C
  flask pool status --json | jq '.workers[].pools[].checked_out'
"""


def _print_schema(ctx: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        from ..report.json_schema import report_schema

        echo_json(report_schema())
        ctx.exit()


@click.command("status", epilog=_EPILOG)
@json_option
@click.option(
    "--json-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of what --json prints, and look at nothing.",
)
@click.option(
    "--watch",
    "watch_seconds",
    type=Number(0.1, 3600),
    metavar="SECONDS",
    help="Report again and again, with such a pause, until Ctrl-C. With --json, one"
    " line per report.",
)
@click.option(
    "--server",
    "with_sessions",
    is_flag=True,
    help="Ask the servers for all their sessions: whose they are, and what they do.",
)
@click.option(
    "--sql",
    "with_sql",
    is_flag=True,
    help="With --server: show the statements too, which may hold your users' data.",
)
@with_appcontext
def command(
    as_json: bool, watch_seconds: float | None, with_sessions: bool, with_sql: bool
) -> None:
    """Show the pools of all live workers of this app on this host.

    The figures come from the workers themselves, also while they hang, and from the
    database servers. Run it as the user, and with the environment, of the app.
    """
    if with_sql and not with_sessions:
        raise click.UsageError("--sql shows the sessions' statements: add --server.")
    detail = Detail.SESSIONS if with_sessions else Detail.VIEW
    if with_sql:
        detail = Detail.STATEMENTS
    if watch_seconds is None:
        _show(current.report(detail), as_json=as_json, watching=False)
        return
    repeat(
        lambda: _show(current.report(detail), as_json=as_json, watching=True),
        watch_seconds,
    )


def _show(report: Report, *, as_json: bool, watching: bool) -> None:
    if as_json:
        echo_json(report.to_dict(), verdict_of(report), on_one_line=watching)
        return
    if watching:
        echo(begin_page(render(report, page(), terminal_height())))
    else:
        echo(render(report, page()))
