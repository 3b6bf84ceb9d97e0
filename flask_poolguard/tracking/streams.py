"""Response bodies that run the app's code while the server reads them."""

from __future__ import annotations

import contextvars
import typing as t
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from io import IOBase

from werkzeug.wsgi import ClosingIterator

from .scope import WSGIScope

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class GuardedResponse:
    """A response body that still runs the app's code while it is read.

    :param end: ends its scope.
    :param dropped: takes the scope if it was collected before it was closed.

    Its scope is only current within ``next`` and ``close``: what a thread does
    between two reads is not done for the response.
    """

    def __init__(
        self,
        body: t.Iterable[bytes],
        scope: WSGIScope,
        end: Callable[[WSGIScope], None],
        dropped: deque[WSGIScope],
    ) -> None:
        self._body = body
        self._iterator = iter(body)
        self._end = end
        self._dropped = dropped
        self.scope = scope

    def __iter__(self) -> GuardedResponse:
        return self

    def __next__(self) -> bytes:
        before = self.scope.enter()
        try:
            return next(self._iterator)
        finally:
            self.scope.leave(before)

    def close(self) -> None:
        """Close the body, then end the scope. Does nothing the second time."""
        if self.scope.ended:
            return
        before = self.scope.enter()
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            try:
                self._end(self.scope)
            finally:
                self.scope.leave(before)

    def __del__(self) -> None:
        # No more than this: a collection may run within a ContextVar's own set(),
        # and to set one then crashes CPython 3.11.
        if not self.scope.ended:
            self._dropped.append(self.scope)


def runs_app_code(body: object, environ: WSGIEnvironment) -> bool:
    """Tell whether reading a response body runs code of the app.

    Lists do not. What the server's ``wsgi.file_wrapper`` made must reach it as it is,
    or it loses its fast path; the type tells it (gunicorn, waitress), or an attribute
    (mod_wsgi, wsgiref), or it is the file itself (uWSGI).
    """
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(body, wrapper):
        return False
    if hasattr(body, "filelike") or isinstance(body, IOBase):
        return False
    return isinstance(body, (ClosingIterator, Iterator))


# The last response that streamed from here and was not closed yet. Weak, so that an
# abandoned one can be collected.
unclosed_var: contextvars.ContextVar[weakref.ref[GuardedResponse] | None] = (
    contextvars.ContextVar("flask_poolguard.unclosed", default=None)
)
