"""``flask pool explain``: a finding or an error, explained from the docs."""

from __future__ import annotations

import typing as t

import click

from . import explanations
from .explain_view import render_list, render_section
from .output import echo, group_name, page

_EPILOG: t.Final = """
\b
Examples:
  flask pool explain                          all that can be explained
  flask pool explain saturated                a finding
  flask pool explain 2006                     an error of MySQL or MariaDB
  flask pool explain 57P01                    an SQLSTATE of PostgreSQL
  flask pool explain too many connections     a part of an error's text
"""


class _Unexplained(click.ClickException):
    """Nothing fits. What was asked for may hold a password, so it is not repeated."""

    exit_code = 2


@click.command(
    "explain",
    epilog=_EPILOG,
    # A text that is copied from a log may have words that begin with a dash.
    context_settings={"ignore_unknown_options": True},
    short_help="Explain a finding or an error.",
)
@click.argument("code", nargs=-1, type=click.UNPROCESSED)
def command(code: tuple[str, ...]) -> None:
    """Explain a finding or an error: causes, what the guard does, what to do.

    CODE is the code of a finding, an error's number or SQLSTATE, or a part of its text
    as the log has it; without it all are listed. Ends with status 2 if nothing fits.
    Needs no app and no database.
    """
    sections = explanations.read_sections()
    own_name = f"flask {group_name()} explain"
    if not code:
        echo(render_list(sections, own_name, page()))
        return
    found = explanations.find(" ".join(code), sections)
    if not found.sections:
        raise _Unexplained(_why_none(found.near, own_name))
    first, *others = found.sections
    echo(render_section(first, others, page()))


def _why_none(near: tuple[str, ...], own_name: str) -> str:
    nearest = f" Nearest: {', '.join(near)}." if near else ""
    return f"No finding and no error fits that.{nearest} '{own_name}' lists all."
