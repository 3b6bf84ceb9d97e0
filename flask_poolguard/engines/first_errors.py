"""Adds to a follow-up error (such as ``PendingRollbackError``) the one that caused it.

SQLAlchemy tells no listener when it refuses to go on with a broken transaction, so
such errors are looked at where they leave the app's code: on their way to its error
handlers and its log, and where its context ends (commands, scripts).
"""

from __future__ import annotations

import functools
import time
import typing as t
from collections.abc import Iterator

from flask import got_request_exception
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from ..error_notes import First, add_note, explain_pending, has_note
from ..log_lines import debug
from ..masking import first_line
from ..tracking.callsite import describe_callsite, find_app_line

if t.TYPE_CHECKING:
    from types import TracebackType

    from flask import Flask

# On a Connection, and on the error that its user saw: the last one that it met.
_FIRST: t.Final = "_poolguard_first"

# Errors that caused one another; more is a ring.
_LONGEST_CHAIN: t.Final = 20

# So many of the innermost frames are SQLAlchemy's own that may raise.
_INNERMOST: t.Final = 6


def remember(
    first: First, connection: Connection | None, *errors: BaseException | None
) -> None:
    """Keep what is to be said of the errors that this one causes."""
    for each in (connection, *errors):
        # A driver's exception may have no room for attributes.
        attributes = getattr(each, "__dict__", None)
        if attributes is not None:
            attributes[_FIRST] = first


def watch(app: Flask) -> None:
    """Look at the errors that leave an app's code in a request."""
    got_request_exception.connect(_raised, app)
    # Before the app's own error handlers, which may log. Indifferent to the
    # signature: Flask 3.2 passes the context first.
    original: t.Any = app.handle_user_exception

    @functools.wraps(original)
    def handle_user_exception(*args: t.Any) -> t.Any:
        explain(args[-1], app.root_path)
        return original(*args)

    app.handle_user_exception = handle_user_exception  # type: ignore[method-assign,assignment] # of this app only, with any signature


def _raised(sender: Flask, exception: BaseException, **extra: object) -> None:
    explain(exception, sender.root_path)


def explain(error: BaseException, root_path: str) -> None:
    """Add to an error, or to those that caused it, what they miss. Never raises."""
    try:
        chain = list(_chain(error))
        for each in chain:
            if isinstance(each, exc.PendingRollbackError) and not has_note(each):
                first = _first_of(each, root_path)
                if first is not None:
                    add_note(each, explain_pending(first, time.monotonic()))
        if not any(map(has_note, chain)):
            # A listener after ours raised an error of its own.
            found = [getattr(each, _FIRST, None) for each in chain]
            notes = [each.note for each in found if isinstance(each, First)]
            for note in filter(None, notes):
                add_note(error, note)
    except Exception:
        debug("not_known", "An error could not be explained", exc_info=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and those that a traceback shows with it."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            break
        yield error
        if error.__cause__ is not None or error.__suppress_context__:
            error = error.__cause__
        else:
            error = error.__context__


def _first_of(error: BaseException, root_path: str) -> First | None:
    """Return the error that broke the transaction in use.

    The frame that raised knows whose it was: of a Connection, or of a Session's
    transaction, which keeps the error (``_rollback_exception``: private, the same in
    SQLAlchemy 2.0.31 and 2.1.9).
    """
    owners = [frame.f_locals.get("self") for frame in _frames(error.__traceback__)]
    for owner in reversed(owners[-_INNERMOST:]):
        if isinstance(owner, Connection):
            first = owner.__dict__.get(_FIRST)
            return first if isinstance(first, First) else None
        broken = getattr(owner, "_rollback_exception", None)
        if isinstance(broken, BaseException):
            first = getattr(broken, _FIRST, None)
            return first if isinstance(first, First) else _told(broken, root_path)
    return None


def _told(error: BaseException, root_path: str) -> First:
    """Return what an error tells itself that no listener has seen."""
    line = find_app_line(error.__traceback__)
    return First(
        text=first_line(error),
        kind=None,
        site="an unknown line" if line is None else describe_callsite(*line, root_path),
    )


def _frames(traceback: TracebackType | None) -> Iterator[t.Any]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
