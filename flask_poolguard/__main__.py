"""``python -m flask_poolguard``: ``flask pool``, and ``check`` without the app.

``check`` asks for no app, so that a monitoring system needs neither its environment
nor its secrets. With ``--app`` it, and every other command, is that of ``flask pool``.
"""

from __future__ import annotations

import typing as t

import click
from click.core import ParameterSource
from flask.cli import FlaskGroup

from .cli import make_group
from .cli.check import command_without_app, fail
from .report.monitoring_plugin import State
from .state.visibility import hide_process


class _Main(FlaskGroup):
    """Finds the commands of ``flask pool`` without asking the app for them."""

    def __init__(self) -> None:
        super().__init__(
            add_default_commands=False,
            add_version_option=False,
            help=(
                "Look into the database connection pools. check needs no --app; the"
                " others do, unless FLASK_APP is set."
            ),
        )
        self._pool = make_group("pool")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._pool.list_commands(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        # An app that FLASK_APP names is not imported for a check.
        source = ctx.get_parameter_source("app")
        if name == "check" and source is not ParameterSource.COMMANDLINE:
            return command_without_app
        hide_process()  # an app that asks its database while it is made is no worker
        return self._pool.get_command(ctx, name)

    def make_context(
        self, info_name: str | None, args: list[str], *more: t.Any, **extra: t.Any
    ) -> click.Context:
        # What is wrong here, too, must not look like CRITICAL to who runs a check, and
        # a line that lost its command not like OK.
        as_json = "--json" in args  # before the parser takes them away
        had_arguments = bool(args)
        try:
            return super().make_context(info_name, args or ["--help"], *more, **extra)
        except click.exceptions.Exit as done:  # help
            if had_arguments:
                raise
            raise click.exceptions.Exit(State.UNKNOWN) from done
        except click.ClickException as error:
            fail(error, as_json=as_json)

    def invoke(self, ctx: click.Context) -> t.Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if ctx.invoked_subcommand is not None:
                raise
            fail(error)  # options, but no command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.ClickException as error:
            fail(error, as_json="--json" in args)


if __name__ == "__main__":
    _Main().main(prog_name="python -m flask_poolguard")
