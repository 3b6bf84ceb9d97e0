"""Which engines a fixture means: an app's, or one."""

from __future__ import annotations

import typing as t

from flask import Flask
from flask.globals import _cv_app
from sqlalchemy.engine import Engine

from ..app_state import have_looked, state_of
from ..engines import Guarded, sync_engine_of
from ..errors import SetupError
from ..guarded_apps import newest_app

if t.TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

# None: the current app, or the one that was guarded last.
Target: t.TypeAlias = "Flask | Engine | AsyncEngine | None"


def engines_of(target: Target) -> list[Engine]:
    """Return the engines that are meant.

    :raises SetupError: there is no such app, or it has no guard.
    """
    if target is None or isinstance(target, Flask):
        return [each.engine for each in guarded_engines_of(target)]
    return [sync_engine_of(target)]


def guarded_engines_of(target: Target) -> list[Guarded]:
    """Return the guarded engines that are meant.

    :raises SetupError: there is no such app or engine, or it has no guard.
    """
    engine = None
    if target is not None and not isinstance(target, Flask):
        engine, target = sync_engine_of(target), None
    context = _cv_app.get(None)
    app = target or (newest_app() if context is None else context.app)
    if app is None:
        raise SetupError("No app has a PoolGuard yet; make it first, or name it.")
    state = state_of(app)
    have_looked(app, state)
    found = state.engines
    if engine is not None:
        found = [each for each in found if each.engine is engine]
        if not found:
            raise SetupError(f"The app {app.name!r} has no guarded engine {engine!r}.")
    if not found:
        raise SetupError(f"The app {app.name!r} has no engine that is guarded.")
    return found
