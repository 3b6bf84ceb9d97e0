"""Lets a worker log, once a minute, what it finds wrong with its own pools."""

from __future__ import annotations

import typing as t
import weakref

from .app_state import state_of
from .pool import Chore, housekeeper

if t.TYPE_CHECKING:
    from flask import Flask

# Seconds between two looks of a worker at its own figures.
OWN_FINDINGS_EVERY: t.Final = 60.0


def log_own_findings_of(app: Flask) -> Chore:
    """Begin to log them; they are logged for as long as the result is kept."""
    # The chore must not keep the app alive: a weak reference, taken back.
    reference = weakref.ref(app)
    chore = Chore(lambda: _log(reference()), OWN_FINDINGS_EVERY)
    housekeeper.add(chore)
    return chore


def _log(app: Flask | None) -> None:
    from .report.self_check import log_findings

    if app is not None:
        state = state_of(app)
        with state.lock:
            state.guarded.forget_gone()
        engines = state.engines
        binds = {each.bind for each in engines}
        state.logged = {each for each in state.logged if each[2] in binds}
        log_findings(app, engines, state.app_tracker.path, state.logged)
