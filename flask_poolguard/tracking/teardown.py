"""Where scopes begin and end: hooks into one Flask app.

Flask before 3.2 stops a teardown at the first function that raises, so no place in
its list is safe. The end of a scope therefore wraps ``do_teardown_appcontext``
itself; what that misses is caught at the end of the WSGI call, when the response is
closed, and at the next call on the same thread.
"""

from __future__ import annotations

import functools
import logging
import typing as t
import weakref
from collections.abc import Callable, Iterator

from flask import appcontext_pushed, request, request_finished
from flask.globals import _cv_app
from werkzeug.wsgi import ClosingIterator

from ..errors import LeakError
from .leaks import end_left_behind, end_scope
from .scope import (
    ResponseScope,
    current_response,
    open_scope,
    response_var,
    scope_of,
    this_thread,
)
from .sessions import end_sessions

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask
    from flask.ctx import AppContext
    from flask.wrappers import Response

    from .books import Books

logger = logging.getLogger("flask_poolguard")


class Teardown:
    """Ends every scope of one app, in whatever order its extensions were set up."""

    def __init__(self, app: Flask, books: Books, on_push: Callable[[], None]) -> None:
        self._app_ref = weakref.ref(app)
        self._books = books
        self._on_push = on_push
        # Strong references to the methods are kept by the app's own extension state.
        appcontext_pushed.connect(self._pushed, app)
        request_finished.connect(self._finished, app)
        self._wrap_teardown(app)
        self._wrap_async(app)
        app.wsgi_app = functools.partial(self._call, app.wsgi_app)  # type: ignore[method-assign]

    # App contexts ----------------------------------------------------------------

    def _pushed(self, sender: Flask, **extra: object) -> None:
        self._on_push()
        context = _cv_app.get()
        open_scope(context)
        response = current_response()
        if response is not None and response.active:
            response.contexts.append(context)

    def _wrap_teardown(self, app: Flask) -> None:
        # On the instance, and indifferent to the signature: Flask 3.2 passes the
        # context first.
        original = app.do_teardown_appcontext

        @functools.wraps(original)
        def do_teardown_appcontext(*args: t.Any, **kwargs: t.Any) -> None:
            context = _cv_app.get(None)
            try:
                original(*args, **kwargs)
            finally:
                if context is not None:
                    self._end_context(context)

        app.do_teardown_appcontext = do_teardown_appcontext  # type: ignore[method-assign]

    def _end_context(self, context: AppContext) -> None:
        """End the sessions and give back the connections of an app context."""
        if end_sessions(context.app, context):
            logger.warning(
                "The database session was not closed by its extension, because a"
                " teardown function before it raised; it was rolled back and closed."
            )
        scope = scope_of(context)
        if scope is not None:
            response = current_response()
            if response is not None and response.active and response.streams:
                # The view's own connection may be what the response reads from.
                scope.ended = True
                for holding in list(scope.holdings):
                    response.adopt(holding)
            else:
                end_scope(scope)
        for ledger in self._books.ledgers:
            if ledger.left_behind:
                end_left_behind(ledger.left_behind)

    # WSGI calls ------------------------------------------------------------------

    def _finished(self, sender: Flask, response: Response, **extra: object) -> None:
        scope = current_response()
        if scope is not None and scope.active:
            scope.streams = response.is_streamed
            scope.endpoint = request.endpoint or request.path

    def _call(
        self,
        wsgi_app: WSGIApplication,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> t.Iterable[bytes]:
        self._close_abandoned(start_response)
        self._books.show_worker()
        app = t.cast("Flask", self._app_ref())
        outer = response_var.get()
        scope = ResponseScope(app)
        scope.from_test_client = _is_test_client(start_response)
        response_var.set(weakref.ref(scope))
        body: t.Iterable[bytes] | None = None
        try:
            body = wsgi_app(environ, start_response)
            if scope.streams is not False and _runs_app_code(body):
                scope.active = False
                return GuardedResponse(t.cast("Iterator[bytes]", body), scope, self)
            return body
        finally:
            if scope.active:
                self.end_response(scope)
                # A call within a call (a sub-request) gives way to the outer one.
                response_var.set(outer)

    def end_response(self, scope: ResponseScope) -> None:
        """End what was taken for a response, and contexts that nobody ended."""
        current = _cv_app.get(None)
        for context in scope.contexts:
            # Still pushed: a stream's, or kept by a debugger or a test client.
            if context is not current:
                self._end_context(context)
        scope.active = False
        scope.contexts.clear()
        end_scope(scope)

    def _close_abandoned(self, start_response: StartResponse) -> None:
        """Close the last response of this thread if its server forgot to.

        PEP 3333 demands that call. Without it a ``stream_with_context`` leaves its
        context behind for the next request (pallets/flask#6123). Werkzeug's test
        client is the one caller that may rightly read two responses in turns.
        """
        scope = current_response()
        if scope is None or scope.ended or scope.active:
            return
        response = None if scope.body is None else scope.body()
        left_context = _cv_app.get(None) in scope.contexts
        if response is not None and (left_context or not scope.from_test_client):
            logger.warning(
                "The response of %s was never closed by its server; it is closed now,"
                " because its thread serves the next request.",
                scope.endpoint,
            )
            try:
                response.close()
            except LeakError:
                raise
            except Exception:
                logger.warning("Closing it failed", exc_info=True)

    # Async views -----------------------------------------------------------------

    def _wrap_async(self, app: Flask) -> None:
        """Let the thread of an async view's event loop count as the request's own."""
        original = app.async_to_sync

        @functools.wraps(original)
        def async_to_sync(func: t.Any) -> t.Callable[..., t.Any]:
            @functools.wraps(func)
            def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
                mark = this_thread.mark

                async def on_behalf() -> t.Any:
                    this_thread.mark = mark
                    return await func(*args, **kwargs)

                return original(on_behalf)()

            return call

        app.async_to_sync = async_to_sync  # type: ignore[method-assign]


class GuardedResponse:
    """A response body that still runs the app's code while it is read.

    The app's code is only *active* within ``next``; what a thread does between two
    reads is not done for the response.
    """

    def __init__(
        self, body: Iterator[bytes], scope: ResponseScope, teardown: Teardown
    ) -> None:
        self._body = body
        self._scope = scope
        self._teardown = teardown
        scope.body = weakref.ref(self)

    def __iter__(self) -> GuardedResponse:
        return self

    def __next__(self) -> bytes:
        scope = self._scope
        if scope.ended:
            return next(self._body)
        scope.active = True
        response_var.set(weakref.ref(scope))
        try:
            return next(self._body)
        finally:
            scope.active = False

    def close(self) -> None:
        """Close the body, then end the scope. Does nothing the second time."""
        scope = self._scope
        if scope.ended:
            return
        scope.active = True
        response_var.set(weakref.ref(scope))
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._teardown.end_response(scope)
            response_var.set(None)

    def __del__(self) -> None:
        self.close()


def _runs_app_code(body: object) -> bool:
    """Tell whether reading a response body runs code of the app.

    Lists do not. A ``wsgi.file_wrapper`` must reach the server as it is, or it loses
    its fast path.
    """
    return isinstance(body, (ClosingIterator, Iterator)) and not hasattr(
        body, "filelike"
    )


def _is_test_client(start_response: StartResponse) -> bool:
    return getattr(start_response, "__module__", "") == "werkzeug.test"
