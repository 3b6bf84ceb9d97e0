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
    unclosed_var,
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
        if response is not None:
            response.contexts.append(context)
            self._books.show_worker()

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
            if response is not None and response.streams:
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
        if scope is not None:
            scope.streams = response.is_streamed
            scope.endpoint = request.endpoint or request.path

    def _call(
        self,
        wsgi_app: WSGIApplication,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> t.Iterable[bytes]:
        from_test_client = getattr(start_response, "__module__", "") == "werkzeug.test"
        self._close_abandoned(from_test_client)
        scope = ResponseScope(t.cast("Flask", self._app_ref()))
        scope.runners.add(this_thread.mark.ref)
        outer = response_var.get()  # of a request within a request
        response_var.set(scope)
        streams = False
        try:
            body = wsgi_app(environ, start_response)
            streams = scope.streams is not False and _runs_app_code(body)
        finally:
            if not streams:
                self.end_response(scope)
            scope.active = False
            response_var.set(outer)
        if not streams:
            return body
        response = GuardedResponse(t.cast("Iterator[bytes]", body), scope, self)
        unclosed_var.set(weakref.ref(response))
        return response

    def end_response(self, scope: ResponseScope) -> None:
        """End what was taken for a response, and contexts that nobody ended."""
        current = _cv_app.get(None)
        for context in scope.contexts:
            # Still pushed: a stream's, or kept by a debugger or a test client.
            if context is not current:
                self._end_context(context)
        scope.contexts.clear()
        end_scope(scope)

    def _close_abandoned(self, from_test_client: bool) -> None:
        """Close the last response of this thread if its server forgot to.

        PEP 3333 demands that call. Without it a ``stream_with_context`` leaves its
        context behind for the next request (pallets/flask#6123). Werkzeug's test
        client is the one caller that may rightly read two responses in turns.
        """
        reference = unclosed_var.get()
        response = None if reference is None else reference()
        if response is None or response.scope.active:
            return
        if from_test_client and _cv_app.get(None) not in response.scope.contexts:
            return
        logger.warning(
            "The response of %s was never closed by its server; it is closed now,"
            " because its thread serves the next request.",
            response.scope.endpoint,
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

    Its scope is only *active* within ``next`` and ``close``: what a thread does
    between two reads is not done for the response.
    """

    def __init__(
        self, body: Iterator[bytes], scope: ResponseScope, teardown: Teardown
    ) -> None:
        self._body = body
        self._teardown = teardown
        self.scope = scope

    def __iter__(self) -> GuardedResponse:
        return self

    def __next__(self) -> bytes:
        outer = self._enter()
        try:
            return next(self._body)
        finally:
            self._leave(outer)

    def close(self) -> None:
        """Close the body, then end the scope. Does nothing the second time."""
        if self.scope.ended:
            return
        outer = self._enter()
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            try:
                self._teardown.end_response(self.scope)
            finally:
                self._leave(outer)

    def __del__(self) -> None:
        self.close()

    def _enter(self) -> ResponseScope | None:
        outer = response_var.get()
        response_var.set(self.scope)
        self.scope.active = True
        self.scope.runners.add(this_thread.mark.ref)
        return outer

    def _leave(self, outer: ResponseScope | None) -> None:
        self.scope.active = False
        response_var.set(outer)


def _runs_app_code(body: object) -> bool:
    """Tell whether reading a response body runs code of the app.

    Lists do not. A ``wsgi.file_wrapper`` must reach the server as it is, or it loses
    its fast path.
    """
    return isinstance(body, (ClosingIterator, Iterator)) and not hasattr(
        body, "filelike"
    )
