"""Hooks into a Flask app: where scopes begin and end.

The app's own teardown functions run first, all that Flask would run, as they are; then
the guard ends what is left over. Flask before 3.2 stops a teardown at the first
function that raises, so no place in its list is safe. The end of a scope therefore
wraps ``do_teardown_appcontext`` itself; what that misses is caught at the end of the
WSGI call, when the response is closed, and at the next call on the same thread.
"""

from __future__ import annotations

import functools
import sys
import typing as t
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack

from flask import appcontext_pushed
from flask.globals import _cv_app
from werkzeug.wsgi import ClosingIterator

from ..pool import current_pid, housekeeper
from .abandoned_streams import (
    IN_ENVIRON,
    close_abandoned,
    is_popped_elsewhere,
    leave_abandoned,
    mark_abandoned,
)
from .async_views import count_async_views_as_requests
from .context_cleanup import NOT_POPPED, ContextCleanup
from .current_scope import (
    MERGED,
    current_wsgi_scope,
    open_scope,
    request_var,
    scope_of,
)
from .dead_threads import dead_threads
from .endpoint import request_endpoint
from .leaks import Reclaimer
from .scope import WSGIScope, next_session, response_var
from .shared_contexts import leave_what_g_has, note_shared
from .streams import GuardedResponse, runs_app_code, unclosed_var
from .teardown_functions import go_on_after

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask
    from flask.wrappers import Response

    from .app_tracker import AppTracker


class Teardown:
    """Ends every scope of one app, in any order of its extensions.

    A request that takes no connection pays for what is done here, so that is little:
    a signal's receiver costs it 2 to 3 µs, a wrapper 0.3.

    :param on_call: called when a request comes, before any code of the app.
    :param on_push: called when a context was pushed.
    :param on_error: called with an error that ends a context.
    """

    def __init__(
        self,
        app: Flask,
        app_tracker: AppTracker,
        *,
        on_call: Callable[[Flask], None],
        on_push: Callable[[Flask], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._app_ref = weakref.ref(app)
        self._app_tracker = app_tracker
        self._cleanup = ContextCleanup(app_tracker)
        self._on_call, self._on_error = on_call, on_error
        # Responses that were collected before they were closed.
        self._dropped: deque[WSGIScope] = deque()
        # A signal refers to its receivers weakly; a method would take it twice as long.
        self._pushed = _receiver(on_push)
        appcontext_pushed.connect(self._pushed, app)
        self._wrap_teardown(app)
        _wrap_finalize(app)
        count_async_views_as_requests(app)
        housekeeper.add(dead_threads, may_hang=True)
        app.wsgi_app = functools.partial(self._call, app.wsgi_app)  # type: ignore[method-assign] # as Flask wants it replaced

    # App contexts ----------------------------------------------------------------

    def _wrap_teardown(self, app: Flask) -> None:
        # On the instance, and indifferent to the signature: Flask 3.2 passes the
        # context first.
        original = app.do_teardown_appcontext
        app_ref, end_context = self._app_ref, self._cleanup.end
        on_error = self._on_error

        @functools.wraps(original)
        def do_teardown_appcontext(*args: t.Any, **kwargs: t.Any) -> None:
            if is_popped_elsewhere():
                return
            # click < 8.2 ends the context of a command without telling it why.
            context, raising = _cv_app.get(None), sys.exc_info()[1]
            given = kwargs.get("exc", args[-1] if args else raising)
            first_late, raised = next_session(), True
            try:
                try:
                    original(*args, **kwargs)
                    raised = False
                except Exception as error:
                    if not go_on_after(error, app_ref(), given):
                        raise
                if isinstance(given, BaseException):
                    on_error(given)
                elif raising is not None:
                    on_error(raising)
            finally:
                if context is not None:
                    end_context(context, first_late, raised)

        app.do_teardown_appcontext = do_teardown_appcontext  # type: ignore[method-assign] # of this app only
        if MERGED:  # Flask 3.2 checks where it is before it tears anything down
            return
        teardown_request = app.do_teardown_request

        @functools.wraps(teardown_request)
        def do_teardown_request(*args: t.Any, **kwargs: t.Any) -> None:
            if not is_popped_elsewhere():
                teardown_request(*args, **kwargs)

        app.do_teardown_request = do_teardown_request  # type: ignore[method-assign] # of this app only

    # WSGI calls ------------------------------------------------------------------

    def _call(
        self,
        wsgi_app: WSGIApplication,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> t.Iterable[bytes]:
        app: t.Any = self._app_ref()  # which is what calls this
        self._on_call(app)
        if self._app_tracker.shown_pid != current_pid():
            self._app_tracker.show_worker()
        around = _cv_app.get(None) is not None or request_var.get(None) is not None
        if around or self._dropped:
            self._end_earlier(app, start_response)
        environ[IN_ENVIRON] = scope = WSGIScope(app)
        outer, streams = response_var.get(), False
        response_var.set(scope)
        try:
            body = wsgi_app(environ, start_response)
            if scope.streams is not False:
                streams = bool(scope.checkouts) or runs_app_code(body, environ)
                scope.keeps = False
        finally:
            try:
                if not streams:
                    self.end_response(scope)
            finally:
                scope.leave((outer, None))
        if not streams:
            return body
        response = GuardedResponse(body, scope, self.end_response, self._dropped)
        unclosed_var.set(weakref.ref(response))
        return response

    def end_response(self, scope: WSGIScope) -> None:
        """End what was taken for a response, and contexts that were not popped.

        :raises LeakError: for pools with ``POOLGUARD_ON_LEAK="raise"``, at the end.
        :raises LeakWarning: likewise, if a filter makes it an error.
        """
        pushed, scope.contexts = scope.contexts, []
        current, contexts = _cv_app.get(None), []
        for each in pushed:
            own = scope_of(each)
            # Still pushed: a stream's, or kept by a debugger or a test client.
            if (
                own is not None
                and each is not current
                and not self._cleanup.is_clean(each, own)
            ):
                contexts.append(each)
        scope.keeps = False
        if scope.checkouts and current is not None and current not in contexts:
            leave_what_g_has(current, scope)
        if not contexts and not scope.checkouts:
            scope.end()
            if scope.returner is not None:
                scope.returner.end()
            return
        reclaimer = Reclaimer()
        with ExitStack() as stack:  # each, even if one of them raises
            stack.callback(self._report, reclaimer)
            if scope.returner is not None:
                stack.callback(scope.returner.end)
            stack.callback(reclaimer.end_scope, scope)
            for context in contexts:
                stack.callback(
                    self._cleanup.sweep,
                    context,
                    reclaimer,
                    next_session(),
                    True,
                    NOT_POPPED,
                )

    def _report(self, reclaimer: Reclaimer) -> None:
        """Report leaks within an app context: receivers may use the database."""
        app = self._app_ref()
        if not reclaimer.leaks or app is None or _cv_app.get(None) is not None:
            reclaimer.report()
            return
        with app.app_context():
            reclaimer.report()

    def _end_earlier(self, app: Flask, start_response: StartResponse) -> None:
        """End what earlier calls on this thread have left, before the next one."""
        from_test_client = getattr(start_response, "__module__", "") == "werkzeug.test"
        if self._dropped:
            self._end_dropped(from_test_client)
        if not from_test_client:
            leave_abandoned()
            close_abandoned()
        outer = _cv_app.get(None)
        if outer is not None and not MERGED:
            note_shared(outer, app)

    def _end_dropped(self, from_test_client: bool) -> None:
        """End responses that were collected before they were closed."""
        with ExitStack() as stack:
            while self._dropped:
                try:
                    scope = self._dropped.popleft()
                except IndexError:  # another thread had the same idea
                    break
                for context in scope.contexts:
                    mark_abandoned(context)
                stack.callback(self.end_response, scope)
            if not from_test_client:  # which may have kept them on purpose
                leave_abandoned()


def _receiver(on_push: Callable[[Flask], None]) -> Callable[..., None]:
    """Return what is to be told of each context that is pushed."""

    def pushed(sender: Flask, **extra: object) -> None:
        on_push(sender)
        context = _cv_app.get()
        scope = open_scope(context)
        if scope.response is not None and context not in scope.response.contexts:
            scope.response.contexts.append(context)

    return pushed


def _wrap_finalize(app: Flask) -> None:
    """Note of each response whether its request's connections are of use to it."""
    original = app.finalize_request

    @functools.wraps(original)
    def finalize_request(*args: t.Any, **kwargs: t.Any) -> Response:
        response, scope = original(*args, **kwargs), current_wsgi_scope()
        if scope is not None:
            scope.keeps = scope.streams = _may_use_connections(response)
            scope.endpoint = request_endpoint()
        return response

    app.finalize_request = finalize_request  # type: ignore[method-assign] # of this app only


def _may_use_connections(response: Response) -> bool:
    """Tell whether a response may use what the view opened."""
    # What call_on_close() was given runs when the response is closed, and may use or
    # close it. The list is private, and the same in Werkzeug 3.0 to 3.1.
    if response._on_close:
        return True
    if not response.is_streamed:
        return False
    # Werkzeug's page of an HTTP error, which it streams, does not read from what the
    # view had opened before it failed.
    return response.status_code < 400 or not isinstance(
        response.response, ClosingIterator
    )
