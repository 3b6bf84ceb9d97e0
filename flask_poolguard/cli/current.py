"""The app that a command runs for, and its report."""

from __future__ import annotations

import typing as t

import click
from flask import current_app
from flask.cli import FlaskGroup

from ..report import Detail, Plan, Report, make_report
from ..report.recycling import Recycling


def state() -> t.Any:
    """Return what the guard keeps of the current app: the extension's ``AppState``.

    :raises click.ClickException: it has no guard.
    """
    if "poolguard" not in current_app.extensions:
        raise click.ClickException(
            f"The app {current_app.name!r} has no PoolGuard: call"
            " PoolGuard(app), or guard.init_app(app), where it is made."
        )
    return current_app.extensions["poolguard"]


def report(
    detail: Detail = Detail.VIEW, plan: Plan | None = None, seconds: float = 0.0
) -> Report:
    """Report on the current app's workers, without this process.

    A process that only runs this command is no worker. What holds other commands (a
    test's runner, an app's own script) may be one.

    :param plan: the deployment to judge, if it is not what is found.
    :param seconds: after how long to ask the servers a second time, 0 for not at all.
    """
    return make_report(
        current_app,
        state().config,
        state().engines,
        with_this_process=is_worker(),
        detail=detail,
        plan=plan,
        seconds=seconds,
    )


def recycling(bind: str | None, *, may_be_nobody: bool) -> Recycling:
    """Ask the current app's workers, without this process, for new connections.

    :param bind: only this one, None for all.
    :param may_be_nobody: whether it is done if there is no worker at all.
    :raises click.BadParameter: there is none of that name.
    """
    if bind is not None:
        check_bind(bind)
    return Recycling(
        current_app,
        state().config,
        state().engines,
        bind,
        with_this_process=is_worker(),
        may_be_nobody=may_be_nobody,
    )


def check_bind(bind: str) -> None:
    """Refuse what ``--bind`` names if the current app has no such bind.

    :raises click.BadParameter: naming those that it has.
    """
    names = sorted(each.bind for each in state().engines)
    if bind not in names:
        raise click.BadParameter(
            f"{bind!r} is no bind of this app; it has: {', '.join(names) or 'none'}.",
            param_hint="'--bind'",
        )


def is_worker() -> bool:
    """Tell whether this process may be one, because it does more than this command."""
    root = click.get_current_context().find_root().command
    return not isinstance(root, FlaskGroup)
