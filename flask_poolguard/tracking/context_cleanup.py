"""Ends the sessions and gives back the connections that an app context left over."""

from __future__ import annotations

import typing as t

from ..log_lines import warn
from .current_scope import current_wsgi_scope, scope_of
from .extension_sessions import end_left_over, filed_under
from .leaks import Reclaimer
from .scope import ContextScope, WSGIScope, next_session

if t.TYPE_CHECKING:
    from flask.ctx import AppContext

    from .app_tracker import AppTracker

# Why a session was in the middle of a transaction when its context ended.
_RAISED: t.Final = "a teardown function raised before the session was closed"
_USED_LATE: t.Final = (
    "a teardown function used it after it had been closed; commit there"
)
NOT_POPPED: t.Final = "its context was never popped, as if its stream was not closed"


class ContextCleanup:
    """Ends what app contexts of one app left over, for all of its pools."""

    def __init__(self, app_tracker: AppTracker) -> None:
        self._app_tracker = app_tracker

    def end(self, context: AppContext, first_late: int, raised: bool) -> None:
        """End the sessions and give back the connections of an app context.

        :param first_late: number of the first session made after its teardown began.
        :param raised: one of the app's teardown functions did.
        :raises LeakError: for pools with ``POOLGUARD_ON_LEAK="raise"``, at the end.
        :raises LeakWarning: likewise, if a filter makes it an error.
        """
        scope = scope_of(context)
        response = None if scope is None else scope.response
        if self.is_clean(context, scope):
            if response is None or len(response.contexts) > 1:
                _forget(context)
            if scope is not None and scope.returner is not None:
                scope.returner.end()
            return
        reclaimer = Reclaimer()
        try:
            self.sweep(context, reclaimer, first_late, raised)
        finally:
            if scope is not None and scope.returner is not None:
                scope.returner.end()
            first_late = next_session()
            try:
                reclaimer.report()
            finally:
                # Receivers of the signal and log handlers may use the database too.
                if reclaimer.leaks and not self.is_clean(context, scope_of(context)):
                    again = Reclaimer()
                    self.sweep(context, again, first_late)
                    again.count()
                    again.warn()

    def is_clean(self, context: AppContext, scope: ContextScope | None) -> bool:
        """Tell whether a context left nothing behind, and close its scope if so.

        :param scope: the context's, None if none is open.
        """
        if (scope is not None and scope.checkouts) or filed_under(context):
            return False
        for tracker in self._app_tracker.trackers:
            if tracker.left_behind:
                return False
        if scope is not None:
            scope.end()
        return True

    def sweep(
        self,
        context: AppContext,
        reclaimer: Reclaimer,
        first_late: int,
        raised: bool = False,
        why: str = _RAISED,
    ) -> None:
        """End what a context left over, without a report.

        :param reclaimer: gives connections back, and reports them later.
        :param first_late: as of :meth:`end`, like *raised*.
        :param why: a session may have been in the middle of a transaction.
        """
        response, scope = current_wsgi_scope(), scope_of(context)
        try:
            if scope is not None:
                left = end_left_over(context, scope, first_late, raised)
                if left is not None:
                    left_by, is_late = left
                    warn(
                        "session_left_open",
                        "A database session of %s was left in the middle of a"
                        " transaction, which was rolled back: %s.",
                        left_by,
                        _USED_LATE if is_late else why,
                        endpoint=left_by,
                    )
        finally:
            if scope is None:
                pass
            elif response is not None and _is_the_requests(context, response):
                # What the view left may still be used by the response, by middleware
                # or by those who are told that the context was popped.
                scope.end()
                for checkout in list(scope.checkouts):
                    response.adopt(checkout)
            else:
                reclaimer.end_scope(scope)
            _forget(context)
            for tracker in self._app_tracker.trackers:
                if tracker.left_behind:
                    reclaimer.end_left_behind(tracker.left_behind)


def _is_the_requests(context: AppContext, response: WSGIScope) -> bool:
    """Tell whether a context is a request's own, or what it has is kept for one."""
    if response.ended or response.streams is None:  # the request failed
        return False
    return response.keeps or response.contexts[:1] == [context]


def _forget(context: AppContext) -> None:
    """Take a context that has ended off its response's list, unless it is the
    request's own, the end of which may not be over yet.
    """
    response = current_wsgi_scope()
    if response is None or len(response.contexts) < 2:
        return
    if context in response.contexts[1:]:
        response.contexts.remove(context)
