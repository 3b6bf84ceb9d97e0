"""``python -m flask_poolguard check``: ``flask pool check`` without an app.

So a monitoring system needs neither the app's environment nor its secrets. All other
commands need an app, and are those of ``flask pool`` only.
"""

from __future__ import annotations

import typing as t

import click

from .cli import COMMANDS
from .cli.check import Plugin, command


class _Main(Plugin, click.Group):
    """A wrong line must look neither like CRITICAL nor like OK."""

    def make_context(
        self, info_name: str | None, args: list[str], *more: t.Any, **extra: t.Any
    ) -> click.Context:
        return super().make_context(info_name, args or ["--help"], *more, **extra)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            raise click.UsageError(
                f"{cmd_name} needs the app: flask --app APP pool {cmd_name}."
            )
        return super().get_command(ctx, cmd_name)


main = _Main(
    commands=[command],
    help="Look into the pools of all apps, without any of them. See flask pool for"
    " what else there is.",
)

if __name__ == "__main__":
    main(prog_name="python -m flask_poolguard")
