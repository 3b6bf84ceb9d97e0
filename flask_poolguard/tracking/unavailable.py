"""HTTP 503 in place of 500 where no connection, or no database, is to be had."""

from __future__ import annotations

import functools
import typing as t

from flask import got_request_exception
from werkzeug.exceptions import ServiceUnavailable

from ..errors import DatabaseUnavailable, PoolTimeout
from ..pool import gave_up

if t.TYPE_CHECKING:
    from flask import Flask

# Seconds after which a client may try again: a pool drains sooner than a server
# comes back.
RETRY_AFTER_TIMEOUT: t.Final = 1
RETRY_AFTER_OUTAGE: t.Final = 5


def answer_with_503(app: Flask) -> None:
    """Let views without a handler of their own answer 503 with ``Retry-After``.

    A handler of the error itself, or of any class that it derives from, comes first.
    The error is logged, and told to ``got_request_exception``, as with a 500; with
    ``PROPAGATE_EXCEPTIONS`` (tests, a debugger) it is raised as ever.
    """
    # Indifferent to the signatures: Flask 3.2 passes the context first.
    original: t.Any = app.handle_user_exception

    @functools.wraps(original)
    def handle_user_exception(*args: t.Any) -> t.Any:
        try:
            return original(*args)
        except Exception as error:
            if not _is_ours(error) or error is not args[-1] or _is_to_propagate(app):
                raise
            return _answer(app, args[:-1], error)

    app.handle_user_exception = handle_user_exception  # type: ignore[method-assign,assignment] # of this app only, with any signature


def _is_ours(error: Exception) -> bool:
    # Only the pool sees the driver's own error that raw_connection() raises.
    is_named = isinstance(error, (PoolTimeout, DatabaseUnavailable))
    return is_named or gave_up(error) is not None


def _is_to_propagate(app: Flask) -> bool:
    wanted = app.config["PROPAGATE_EXCEPTIONS"]
    return bool(app.testing or app.debug if wanted is None else wanted)


def _answer(app: t.Any, context: tuple[t.Any, ...], error: BaseException) -> t.Any:
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
    app.log_exception(*context, (type(error), error, error.__traceback__))
    return app.handle_http_exception(*context, _unavailable(error))


def _unavailable(error: BaseException) -> ServiceUnavailable:
    outage = not isinstance(error, PoolTimeout)
    unavailable = ServiceUnavailable(
        retry_after=RETRY_AFTER_OUTAGE if outage else RETRY_AFTER_TIMEOUT
    )
    unavailable.__cause__ = error  # for a handler of 503s that wants to know
    return unavailable
