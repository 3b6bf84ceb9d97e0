"""The ``pool`` group as flask knows it before it imports an app.

An app adds its own group of that name, but flask asks for it only after the import. So
when that fails, a check could not say that nothing is known: flask ends with the status
of a critical state. This stands in front of the app's group.

Nothing of SQLAlchemy is imported here: this is loaded for every command of flask, also
for an app that lets gevent patch the standard library when it is imported.
"""

from __future__ import annotations

import contextlib
import sys
import typing as t

import click
from flask import current_app, has_app_context
from flask.cli import ScriptInfo

from . import make_group

# The default of POOLGUARD_CLI_GROUP.
NAME: t.Final = "pool"


class _AnyApps(click.Command):
    """Becomes the group of the app that flask is started for."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: t.Any,
    ) -> click.Context:
        as_json = "--json" in args  # before the parser takes them away
        name = next((each for each in args if each[:1] != "-"), "")
        group = None
        try:
            group = self._find(parent)
            return group.make_context(info_name, args, parent, **extra)
        except (click.exceptions.Exit, click.Abort):
            raise
        except (Exception, SystemExit) as error:  # an app may exit when imported
            if name == "check":
                from .check import fail

                fail(error, as_json=as_json)
            # These can be had without an app.
            if group is None and (args == ["--help"] or name == "explain"):
                return make_group(NAME).make_context(info_name, args, parent, **extra)
            raise

    def _find(self, ctx: click.Context | None) -> click.Command:
        ctx = ctx or click.get_current_context()
        from ..state.visibility import hide_process

        hide_process()  # an app that asks its database while it is made is no worker
        with contextlib.redirect_stdout(sys.stderr):  # what an import prints
            app = ctx.ensure_object(ScriptInfo).load_app()
        if not has_app_context() or current_app != app:
            ctx.with_resource(app.app_context())
        group = app.cli.get_command(ctx, NAME)
        if group is None:
            raise click.UsageError(_why_none(app.extensions.get("poolguard"), app.name))
        return group


def _why_none(state: t.Any, app: str) -> str:
    if state is None:
        return (
            f"The app {app!r} has no PoolGuard: call PoolGuard(app), or"
            " guard.init_app(app), where it is made."
        )
    name = state.config.cli_group
    if name is None:
        return f"The app {app!r} has no such commands: POOLGUARD_CLI_GROUP is None."
    return f"The app {app!r} calls them 'flask {name}' (POOLGUARD_CLI_GROUP)."


command = _AnyApps(NAME, short_help="Look into the database connection pools.")
