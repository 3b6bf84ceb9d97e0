"""The contexts of a guarded app: each opens its scope when it is pushed.

A context is of a class derived from its own, with nothing of it changed but its push
and pop. A receiver of ``appcontext_pushed`` would be told of the same, at 3 µs for each
request; and of the end of a context in another thread nothing else tells.

A context that the app did not make (``AppContext(app)``), or made before it was
guarded, has no scope: what is taken within it belongs to what is around it.
"""

from __future__ import annotations

import functools
import typing as t
from collections.abc import Callable

from flask import Flask, ctx
from flask.ctx import AppContext
from flask.globals import _cv_app

from .abandoned_streams import stay_if_popped_elsewhere
from .current_scope import MERGED, open_scope, request_var
from .scope import ContextScope, response_var
from .thread_marks import this_thread

# On an app: what is told of each context that is pushed outside of a WSGI call of it.
_ON_PUSH: t.Final = "_poolguard_on_push"

_ANY: t.Any = object


def guard_contexts(app: Flask, on_push: Callable[[Flask], None]) -> None:
    """Let each context that an app makes from now on open a scope.

    :param on_push: called when one was pushed outside of a WSGI call of the app.
    """
    setattr(app, _ON_PUSH, on_push)
    app.app_context = _guarding(app, "app_context", "AppContext")  # type: ignore[method-assign] # of this app only
    app.request_context = _guarding(app, "request_context", "RequestContext")  # type: ignore[method-assign] # likewise


def _guarding(app: Flask, name: str, class_name: str) -> Callable[..., t.Any]:
    make = getattr(app, name)
    if not MERGED and getattr(make, "__func__", None) is getattr(Flask, name):
        # All that Flask's own does is to call the class.
        return functools.partial(_guarded(getattr(ctx, class_name)), app)

    @functools.wraps(make)
    def make_guarded(*args: t.Any, **kwargs: t.Any) -> t.Any:
        context = make(*args, **kwargs)
        kind: t.Any = type(context)
        context.__class__ = _guarded(kind)
        return context

    return make_guarded


@functools.lru_cache(maxsize=32)  # of Flask's two, and of those that apps have derived
def _guarded(kind: t.Any) -> t.Any:
    """Return the class that a context of this class is to have."""
    if issubclass(kind, _Guarded):  # an app that was made to make such ones
        return kind
    parts: list[type] = [_PushedWithScope] if issubclass(kind, AppContext) else []
    if not MERGED:  # Flask 3.2 looks by itself where it pops a context
        parts.append(_PoppedWhereItWasPushed)
    about = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (*parts, _Guarded, kind), about)


class _Guarded:
    """A context of a guarded app."""


class _PushedWithScope(_ANY):  # type: ignore[misc] # stands before a context's class
    _poolguard_scope: ContextScope | None = None  # see ON_CONTEXT

    def push(self) -> None:
        """Open a scope, then push the context."""
        mark, response = this_thread.mark.ref, response_var.get()
        if (
            response is not None
            and response.runner is mark
            and response.app is self.app
            and self._poolguard_scope is None
        ):
            self._poolguard_scope = ContextScope(self, response, mark)
            response.contexts.append(self)
            super().push()
            return
        response = open_scope(self).response
        if response is not None and self not in response.contexts:
            response.contexts.append(self)
        super().push()
        getattr(self.app, _ON_PUSH)(self.app)


class _PoppedWhereItWasPushed(_ANY):  # type: ignore[misc] # likewise
    def pop(self, *exc: t.Any, **named: t.Any) -> None:
        """Pop the context; without its teardown if it was pushed in another thread."""
        if _cv_app.get(None) is not self and request_var.get(None) is not self:
            stay_if_popped_elsewhere(self)
        super().pop(*exc, **named)
