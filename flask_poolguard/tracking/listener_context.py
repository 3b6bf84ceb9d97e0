"""An app context for listeners, where a connection is opened for no request."""

from __future__ import annotations

import contextlib
import typing as t

from flask.globals import _cv_app

from ..errors import LeakError, LeakWarning
from .current_scope import open_scope
from .extension_sessions import end_all
from .scope import next_session

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

    from .context_cleanup import ContextCleanup


@contextlib.contextmanager
def listener_context(app: Flask, cleanup: ContextCleanup) -> Iterator[None]:
    """Make a context of the app current, and end what listeners leave in it.

    It is not pushed: no signal and no teardown function of the app runs.
    """
    context = app.app_context()
    token = _cv_app.set(context)
    try:
        open_scope(context)
        try:
            yield
        finally:
            end_all(context)
            # A leak is logged; there is no caller that it could be raised to.
            with contextlib.suppress(LeakError, LeakWarning):
                cleanup.end(context, next_session(), raised=False)
    finally:
        _cv_app.reset(token)
