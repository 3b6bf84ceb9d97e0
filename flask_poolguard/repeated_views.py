"""``guard.retry_on_disconnect``: repeats a view once after a lost connection."""

from __future__ import annotations

import functools
import inspect
import typing as t
from collections.abc import Callable, Iterable
from threading import get_ident

from flask.globals import _cv_app
from sqlalchemy.exc import DBAPIError

from .log_lines import warn
from .masking import first_line
from .tracking.endpoint import current_endpoint, current_request
from .tracking.extension_sessions import end_all, filed_under
from .tracking.sent_statements import begin_to_note, has_changes, sent_by
from .tracking.sql_effects import is_plain_read

if t.TYPE_CHECKING:
    _View = t.TypeVar("_View", bound=Callable[..., t.Any])


def repeat_once(view: _View, methods: Iterable[str]) -> _View:
    """Return a view that is called again if its first statement lost its connection.

    :param methods: HTTP methods of the requests for which it is.
    :raises TypeError: it is no plain function, or *methods* is a text.
    """
    if isinstance(methods, str):
        raise TypeError(
            f"retry_on_disconnect() takes several methods, such as [{methods!r}]"
        )
    if inspect.isclass(view) or not callable(view):
        raise TypeError(
            "retry_on_disconnect() decorates a view function; put it into the"
            " `decorators` of a class-based view"
        )
    if inspect.iscoroutinefunction(view) or inspect.isgeneratorfunction(view):
        raise TypeError(
            "retry_on_disconnect() cannot decorate an async or generator function,"
            " which runs after its call"
        )
    begin_to_note()
    allowed = frozenset(each.upper() for each in methods)

    @functools.wraps(view)
    def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            return view(*args, **kwargs)
        except DBAPIError as error:
            if not _may_repeat(error, allowed) or not _make_fresh():
                raise
            warn(
                "view_repeated",
                "%s is called once more: its connection was lost before its first"
                " statement was answered (%s)",
                current_endpoint(),
                first_line(error.orig or error),
                endpoint=current_endpoint(),
            )
        return view(*args, **kwargs)

    return t.cast("_View", call)


def _may_repeat(error: DBAPIError, allowed: frozenset[str]) -> bool:
    """Tell whether the request has done nothing yet that would be done twice.

    A view that was repeated has sent two statements, so it is not repeated again.
    """
    request = current_request()
    if request is None or request.method not in allowed:
        return False
    # Without a statement it was lost in a commit, or while rows were fetched.
    if not error.connection_invalidated or error.statement is None:
        return False
    # A body may have been read by now, and is gone then.
    if request.content_length or request.headers.get("Transfer-Encoding"):
        return False
    sent = sent_by(request)
    # What an engine without a guard, or another thread, has sent is not noted.
    is_that = sent.statement == error.statement and sent.thread == get_ident()
    return (
        sent.count == 1
        and is_that
        and is_plain_read(error.statement)
        and not sent.had_changes
    )


def _make_fresh() -> bool:
    """End the sessions of the request; False if one of them has unsaved changes.

    None of them has read anything: the request's only statement was not answered.
    """
    context = _cv_app.get()
    last = sent_by(current_request()).session
    session = None if last is None else last()
    filed = [each.session for each in filed_under(context)]
    if any(map(has_changes, filed if session is None else [*filed, session])):
        return False
    if session is not None:
        session.rollback()  # one that is not filed: the app's own registry keeps it
    end_all(context)
    return True
