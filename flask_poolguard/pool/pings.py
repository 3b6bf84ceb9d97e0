"""Pings a connection, and keeps what its driver said when it did not answer.

SQLAlchemy's ``_do_ping_w_event`` tells ``handle_error`` listeners of a lost connection
and then returns False, without the error. The dialect's ``do_ping``, which it calls,
is wrapped for that; checked on SQLAlchemy 2.0.31 and 2.1.9.
"""

from __future__ import annotations

import threading
import typing as t

# Ping and answer are of one thread (or greenlet) each.
_said = threading.local()


class NoErrorKnownError(Exception):
    """A ping failed, and its error did not come through the wrapped ``do_ping``."""


class _NotingPing:
    """Calls a dialect's ``do_ping`` and keeps its error for the calling thread."""

    def __init__(self, do_ping: t.Callable[[t.Any], bool]) -> None:
        self._do_ping = do_ping

    def __call__(self, connection: t.Any) -> bool:
        try:
            return self._do_ping(connection)
        except Exception as error:
            _said.error = error
            raise


def failure_of_ping(dialect: t.Any, connection: t.Any) -> Exception | None:
    """Ping as ``pool_pre_ping`` does; return the driver's error, None if it answers.

    :raises Exception: an error that does not mean a lost connection.
    """
    do_ping = getattr(dialect, "do_ping", None)
    if do_ping is not None and not isinstance(do_ping, _NotingPing):
        dialect.do_ping = _NotingPing(do_ping)
    _said.error = None
    try:
        if dialect._do_ping_w_event(connection):
            return None
        return _said.error or NoErrorKnownError()
    finally:
        _said.error = None  # its traceback holds the connection
