"""The app that a command was started for."""

from __future__ import annotations

import typing as t

import click
from flask import current_app
from flask.cli import FlaskGroup

from ..reports import Plan, Report, make_report


def state() -> t.Any:
    """Return what the guard keeps of the current app: the extension's ``AppState``."""
    return current_app.extensions["poolguard"]


def report(plan: Plan | None = None, seconds: float = 0.0) -> Report:
    """Report on the current app's workers, without this process.

    A process that only runs this command is no worker. What holds other commands (a
    test's runner, an app's own script) may be one.

    :param plan: the deployment to judge, if it is not what is found.
    :param seconds: after how long to ask the servers a second time, 0 for not at all.
    """
    root = click.get_current_context().find_root().command
    return make_report(
        current_app,
        state().config,
        state().engines,
        with_this_process=not isinstance(root, FlaskGroup),
        plan=plan,
        seconds=seconds,
    )
