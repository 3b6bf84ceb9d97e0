"""Which app a call of the guard's is about."""

from __future__ import annotations

import typing as t

from flask.globals import _cv_app

from .app_state import AppState, have_looked, state_of
from .errors import SetupError

if t.TYPE_CHECKING:
    from collections.abc import Collection

    from flask import Flask


def looked_app(app: Flask | None, method: str) -> tuple[Flask, AppState]:
    """Return the app that is meant and its state, once its engines are known.

    :raises SetupError: there is no app, or it has no PoolGuard.
    """
    app = app or current_app_or_none()
    if app is None:
        raise SetupError(f"{method}() needs an app context, or {method}(app).")
    state = state_of(app)
    have_looked(app, state)
    return app, state


def app_for(app: Flask | None, apps: Collection[Flask], purpose: str) -> Flask | None:
    """Return the app that is meant, None if there is none yet.

    :param apps: those of the guard.
    :raises SetupError: there are several.
    """
    app = app or current_app_or_none()
    if app is None and len(apps) > 1:
        raise SetupError(
            f"{len(apps)} apps share this PoolGuard: say which one {purpose}(…,"
            " app=app)."
        )
    return app or next(iter(apps), None)


def current_app_or_none() -> Flask | None:
    """Return the app of the current context, None outside of any."""
    context = _cv_app.get(None)
    return None if context is None else context.app
