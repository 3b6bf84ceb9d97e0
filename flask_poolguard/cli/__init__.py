"""The ``flask pool`` commands, each in a module of its own with its view beside it."""

from __future__ import annotations

import importlib
import typing as t

import click

# In the order in which they are needed at night. Each is the module of that name here,
# and the command in it.
COMMANDS: t.Final = (
    "status",
    "top",
    "holders",
    "doctor",
    "history",
    "explain",
    "config",
    "check",
    "metrics",
    "advise",
    "tune",
    "recycle",
)


class _Group(click.Group):
    """Loads a command when it is asked for: an app that starts pays for none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __name__)
        return t.cast(click.Command, module.command)


def make_group(name: str) -> click.Group:
    """Return the command group of one app.

    :param name: ``POOLGUARD_CLI_GROUP``.
    """
    return _Group(name, help="Look into the database connection pools.")
