"""Shows a worker, with its pools, before its first request."""

from __future__ import annotations

import os
import typing as t
import weakref
from types import FrameType

from .app_state import AppState, look_without_push
from .guarded_apps import EXTENSION
from .log_lines import debug
from .pool import after_fork_in_child, housekeeper
from .state import visibility
from .tracking import serving

if t.TYPE_CHECKING:
    from flask import Flask

_apps: weakref.WeakSet[Flask] = weakref.WeakSet()


def show_when_started(app: Flask, state: AppState) -> None:
    """Show this process as a worker of an app that is being set up, now or once it is
    forked, if a server is known to have started it for that.
    """
    if visibility.is_hidden():
        return
    _apps.add(app)
    frame = serving.loading_frame()
    if frame is not None:
        state.app_tracker.show_started(serving.serving_threads())
        state.first_look = FirstLook(app, state, frame)
        housekeeper.add(state.first_look, may_hang=True)
    reference = weakref.ref(app)
    serving.call_after_uwsgi_fork(lambda: _show_forked(reference()))


class FirstLook:
    """Looks for the engines of an app, once a server has loaded it.

    Before that the app may not be set up: engines are missing, and settings that are
    made later would come too late. The housekeeper looks, without traffic; where no
    thread runs (uWSGI without ``--enable-threads``) the first request does.

    :param frame: in which the server loads the app.
    """

    def __init__(self, app: Flask, state: AppState, frame: FrameType) -> None:
        self._app, self._state = weakref.ref(app), weakref.ref(state)
        self._frame: FrameType | None = frame
        self._pid = os.getpid()

    def tend(self) -> None:
        """Look, if it is time; the housekeeper calls it."""
        frame, app, state = self._frame, self._app(), self._state()
        if frame is None or not serving.is_over(frame):
            return
        self._frame = None
        if app is not None and state is not None and self._pid == os.getpid():
            _look(app, state)
            state.app_tracker.show_pools()


def _look(app: Flask, state: AppState) -> None:
    """Look for the app's engines; a mistake in its settings is the first request's."""
    try:
        look_without_push(app, state)
    except Exception:
        debug("not_known", "No early look at the app %r", app.name, exc_info=True)


def _show_forked(app: Flask | None) -> None:
    state: AppState | None = None if app is None else app.extensions.get(EXTENSION)
    if app is not None and state is not None:
        _look(app, state)
        state.app_tracker.show_forked(serving.serving_threads())


@after_fork_in_child
def _after_fork_in_child() -> None:
    if serving.was_forked_to_serve():
        for app in list(_apps):
            _show_forked(app)
