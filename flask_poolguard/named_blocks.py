"""What ``guard.scope(name)`` needs of the apps that a guard serves."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable

from .app_state import have_looked, state_of
from .engines import explain
from .tracking.orm_sessions import listen
from .tracking.scope_block import ScopeBlock

if t.TYPE_CHECKING:
    from flask import Flask

    from .tracking.pool_tracker import PoolTracker


def block_of(name: str, apps: Iterable[Flask]) -> ScopeBlock:
    """Return a scope of this name for the pools of all apps.

    :param apps: looked at anew whenever the scope is entered or ends.
    :raises TypeError: the name is no text.
    :raises ValueError: the name is empty.
    """

    def look() -> None:
        """Find the apps' engines, as the push of an app context does."""
        for app in list(apps):
            have_looked(app, state_of(app))
        listen()

    def trackers() -> list[PoolTracker]:
        states = [state_of(app) for app in list(apps)]
        return [each for state in states for each in state.app_tracker.trackers]

    def explain_error(error: BaseException) -> None:
        for app in list(apps):
            explain(error, root_path=app.root_path)

    return ScopeBlock(name, on_enter=look, trackers=trackers, on_error=explain_error)
