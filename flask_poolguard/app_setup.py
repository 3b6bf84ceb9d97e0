"""Wires the parts of the guard to an app, once."""

from __future__ import annotations

import functools
import typing as t

from .app_state import AppState, look_on_call, look_on_push
from .config import AppConfig, snapshot
from .engines import Waiting, explain, watch
from .guarded_apps import EXTENSION, note_guarded
from .own_findings import log_own_findings_of
from .tracking.app_tracker import AppTracker
from .tracking.teardown import Teardown
from .tracking.unavailable import answer_with_503
from .worker_start import show_when_started

if t.TYPE_CHECKING:
    from flask import Flask


def set_up(app: Flask, config: AppConfig, waiting: Waiting) -> None:
    """Guard an app from now on.

    :param config: what the app has set.
    :param waiting: engines that were registered before there was an app.
    """
    state = AppState(config, AppTracker(app, config.state_dir), snapshot(app.config))
    state.registered = waiting
    state.teardown = Teardown(  # keeps a receiver alive, which its signal does not
        app,
        state.app_tracker,
        on_call=functools.partial(look_on_call, state),
        on_push=functools.partial(look_on_push, state),
        on_error=functools.partial(explain, root_path=app.root_path),
    )
    state.own_findings = log_own_findings_of(app)
    if config.http_503:
        answer_with_503(app)
    watch(app)
    app.extensions[EXTENSION] = state
    if config.cli_group is not None:
        from .cli import make_group

        app.cli.add_command(make_group(config.cli_group))
    show_when_started(app, state)
    note_guarded(app)
