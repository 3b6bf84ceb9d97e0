"""What a worker says of its own pools in the log, once a minute."""

from __future__ import annotations

import typing as t

from .app_state import state_of

if t.TYPE_CHECKING:
    from flask import Flask

# Seconds between two looks of a worker at its own figures.
OWN_FINDINGS_EVERY: t.Final = 60.0


def log_own_findings(app: Flask | None) -> None:
    """Log what is wrong with this process's pools, unless it was logged before.

    :param app: None if it is gone.
    """
    from .report.self_check import log_findings

    if app is not None:
        state = state_of(app)
        with state.lock:
            state.guarded.forget_gone()
        engines = state.engines
        binds = {each.bind for each in engines}
        state.logged = {each for each in state.logged if each[2] in binds}
        log_findings(app, engines, state.app_tracker.path, state.logged)
