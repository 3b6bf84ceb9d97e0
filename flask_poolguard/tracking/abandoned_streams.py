"""Streams that a server never closed, and contexts that they left on a thread.

Flask's ``stream_with_context`` pushes the request's contexts again, in the thread that
reads. When the generator is collected in another thread, Flask before 3.2 does two
things there. It runs the app's teardown functions although another request's context
may be current, so that they end that request's resources. And it cannot pop the
context in the thread where it is, so that the next requests there share it, and its
session.
"""

from __future__ import annotations

import sys
import typing as t

from flask.ctx import AppContext
from flask.globals import _cv_app

from ..errors import LeakError, LeakWarning
from ..log_lines import warn
from .current_scope import MERGED, pushed_by, request_var
from .scope import WSGIScope
from .streams import unclosed_var
from .thread_marks import this_thread

# On the ``g`` of contexts whose response is over.
_ABANDONED: t.Final = "_poolguard_abandoned"
# Which response a request context was made for: the context itself keeps no notes.
IN_ENVIRON: t.Final = "flask_poolguard.response"


def is_popped_elsewhere() -> bool:
    """Tell, to a wrapper that Flask calls, whether the context that Flask pops was
    pushed in another thread. Only the caller's frame knows which one that is.

    That look costs a request as much as the rest of a context's end. Nothing else
    tells: a generator, or an object with ``__del__``, may pop such a context during
    any request, with or without an exception.
    """
    context = sys._getframe(2).f_locals.get("self")
    if isinstance(context, AppContext):
        if context is _cv_app.get(None):
            return False
        elsewhere = pushed_by(context) not in (None, this_thread.mark.ref)
    else:
        if context is request_var.get(None):
            return False
        response = _response_of(context)
        elsewhere = response is not None and (
            this_thread.mark.ref not in response.runners
        )
    if elsewhere:
        tokens = getattr(context, "_cv_tokens", None)
        if tokens:
            # Flask 3.0 and 3.1 take one away that only works in the other thread.
            tokens.append(tokens[-1])
    return elsewhere


def mark_abandoned(context: AppContext) -> None:
    """Note that the response that a context was pushed for is over."""
    setattr(context.g, _ABANDONED, True)


def leave_abandoned() -> None:
    """Pop what was left on this thread, without any teardown."""
    if not MERGED and request_var.get(None) is not None:
        _leave_requests()
    while True:
        context = _cv_app.get(None)
        if context is None or not getattr(context.g, _ABANDONED, False):
            break
        tokens = getattr(context, "_cv_tokens", None)
        token = tokens[-1] if tokens else getattr(context, "_cv_token", None)
        if token is None:
            break
        _cv_app.reset(token)
        if tokens:
            tokens.clear()
        else:  # Flask 3.2
            context._cv_token = None  # type: ignore[attr-defined] # not in 3.1
            context._push_count = 0  # type: ignore[attr-defined] # not in 3.1


def _leave_requests() -> None:
    while True:
        context = request_var.get(None)
        response = _response_of(context)
        if response is None or not response.ended or not context._cv_tokens:
            break
        token, _ = context._cv_tokens[-1]
        request_var.reset(token)
        context._cv_tokens.clear()


def _response_of(request_context: t.Any) -> WSGIScope | None:
    request = getattr(request_context, "request", None)
    environ = getattr(request, "environ", None)
    return None if environ is None else environ.get(IN_ENVIRON)


def close_abandoned() -> None:
    """Close the last response of this thread if its server forgot to.

    PEP 3333 demands that call. Without it a ``stream_with_context`` leaves its context
    behind for the next request (pallets/flask#6123). A response may rightly stay open
    during another call if it is read by another thread, if a middleware makes several
    calls for one request, or if the caller is Werkzeug's test client.
    """
    reference = unclosed_var.get()
    response = None if reference is None else reference()
    if response is None or response.scope.ended or response.scope.runner:
        return
    scope = response.scope
    if _cv_app.get(None) not in scope.contexts:
        return
    warn(
        "response_not_closed",
        "The response of %s was never closed by its server; it is closed now,"
        " because its thread serves the next request.",
        response.scope.endpoint,
        endpoint=response.scope.endpoint,
    )
    try:
        response.close()
    except (LeakError, LeakWarning):
        raise
    except Exception:
        warn("response_not_closed", "Closing it failed", exc_info=True)
