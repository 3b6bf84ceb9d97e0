"""What the errors of PostgreSQL and its drivers mean.

Errors of statements carry an SQLSTATE (from the PostgreSQL documentation's appendix of
error codes), which decides alone. Two kinds have none and are told by their text:

* libpq's own, such as a lost connection;
* every failed connect, the server's answers included: until the connection stands
  libpq keeps the message only, and no setting of verbosity can be made before
  (libpq 15 to 18, psycopg2 2.9, psycopg 3.3).

Limit: a server whose ``lc_messages`` is not English gives a translated answer, and a
refusal for its state (starting up, full) then counts as one for good. What libpq and
the system say themselves is English unless the app called ``setlocale()`` for
messages; the system's part is compared in whatever language it is in.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import typing as t

from .network_errors import network_failure
from .types import ConnectFailure, Loss, driver_error

_READ_ONLY: t.Final = "25006"  # read_only_sql_transaction; also "during recovery"

# admin_shutdown, crash_shutdown, cannot_connect_now.
_AWAY: t.Final = frozenset({"57P01", "57P02", "57P03"})
_FULL: t.Final = frozenset({"53300"})  # too_many_connections
# invalid_authorization_specification, invalid_password, invalid_catalog_name,
# insufficient_privilege.
_LOGIN_REFUSED: t.Final = frozenset({"28000", "28P01", "3D000", "42501"})
# admin_shutdown, crash_shutdown, database_dropped, idle_session_timeout,
# idle_in_transaction_session_timeout, transaction_timeout: the server hangs up.
_LOST: t.Final = frozenset({"57P01", "57P02", "57P04", "57P05", "25P03", "25P04"})
_CONNECTION_EXCEPTION: t.Final = "08"  # a class of SQLSTATEs

_FULL_TEXTS: t.Final = (
    "too many clients already",
    "remaining connection slots are reserved",  # for superusers, from 16 also others
    "too many connections for role",
    "too many connections for database",
    "no more connections allowed",  # PgBouncer's max_client_conn
)
# Names are left out: they are quoted.
_LOGIN_TEXTS: t.Final = (
    "authentication failed",  # by whatever method
    "no pg_hba.conf entry for",
    "pg_hba.conf rejects connection",
    'role "" does not exist',
    'role "" is not permitted to log in',
    'database "" does not exist',
    'permission denied for database ""',
    "no password supplied",  # libpq
    "no such database",  # PgBouncer, as is the next
    "no such user",
)
_AWAY_TEXTS: t.Final = (
    # starting up, shutting down, in recovery mode, not (yet) accepting connections
    "the database system is ",
    "terminating connection ",
    "timeout expired",  # libpq and psycopg 3
    "server closed the connection unexpectedly",
    "SSL connection has been closed unexpectedly",
    "SSL SYSCALL error: EOF detected",
    "unexpected eof while reading",  # OpenSSL 3
    "Temporary failure in name resolution",  # EAI_AGAIN of glibc, in libpq's words
)
# What the system says of a socket, wherever it stands.
_AWAY_ERRNOS: t.Final = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.EHOSTDOWN,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
    errno.EAGAIN,  # a Unix socket whose queue is full; the server cannot fork
)
# libpq and the two drivers of a connection that is gone, or of answers that do not
# fit together, as after two threads have read from one connection.
_LOST_TEXTS: t.Final = (
    "terminating connection ",
    "server closed the connection",
    "could not receive data from server",
    "could not send data to server",
    "no connection to the server",
    "connection not open",
    "connection already closed",
    "connection pointer is NULL",
    "the connection is closed",
    "the connection is lost",
    "connection has been closed unexpectedly",
    "SSL SYSCALL error",
    "SSL error: ",
    "lost synchronization with server",
    "another command is already in progress",
    "insufficient data in ",
    "unexpected field count in ",
    "unexpected response from server",
    "unexpected asyncStatus",
    "without prior row description",
    "message contents do not agree with length",
)
# Why, where the SQLSTATE or its text tells. psycopg2 passes on neither when the server
# ends a session: it only says that the line was closed.
_WHY_LOST: t.Final = {
    "25P03": Loss.IDLE_IN_TRANSACTION,
    "25P04": Loss.LONG_TRANSACTION,
    "57P01": Loss.TERMINATED,
    "57P02": Loss.SHUT_DOWN,
    "57P05": Loss.IDLE,
}
_WHY_BY_TEXT: t.Final = {
    "due to idle-in-transaction timeout": Loss.IDLE_IN_TRANSACTION,
    "due to transaction timeout": Loss.LONG_TRANSACTION,
    "due to idle-session timeout": Loss.IDLE,
    "due to administrator command": Loss.TERMINATED,
    "because of crash of another server process": Loss.SHUT_DOWN,
    "due to unexpected postmaster exit": Loss.SHUT_DOWN,
    "bad record mac": Loss.OUT_OF_STEP,
    "wrong version number": Loss.OUT_OF_STEP,
    "lost synchronization with server": Loss.OUT_OF_STEP,
    "another command is already in progress": Loss.OUT_OF_STEP,
    "insufficient data in ": Loss.OUT_OF_STEP,
    "unexpected field count in ": Loss.OUT_OF_STEP,
    "unexpected response from server": Loss.OUT_OF_STEP,
    "unexpected asyncStatus": Loss.OUT_OF_STEP,
    "without prior row description": Loss.OUT_OF_STEP,
    "message contents do not agree with length": Loss.OUT_OF_STEP,
}
# Classes of PEP 249 whose texts are about the statement, and may quote it.
_ABOUT_STATEMENTS: t.Final = frozenset(
    {"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"}
)
_QUOTED: t.Final = re.compile(r'"[^"\n]*"')
# psycopg 3 adds the failures of all addresses after that of the last one.
_SUMMARY: t.Final = "\nMultiple connection attempts failed"
_ATTEMPT: t.Final = "connection to server "  # begins each address's lines, from 14 on


def connect_failure(error: BaseException) -> ConnectFailure | None:
    """Tell whether a failed connect may pass by itself."""
    original = driver_error(error)
    if isinstance(original, OSError):  # of an app's own creator
        return network_failure(original)
    state = sqlstate_of(original)
    if state is None:
        return _by_text(str(original)) if _is_of_connection(original) else None
    if state in _FULL:
        return ConnectFailure.FULL
    if state in _AWAY or state.startswith(_CONNECTION_EXCEPTION):
        return ConnectFailure.AWAY
    return None


def refuses_login(error: BaseException) -> bool:
    """Tell whether the server does not let this user in, or not into this database."""
    original = driver_error(error)
    state = sqlstate_of(original)
    if state is not None:
        return state in _LOGIN_REFUSED
    if not _is_of_connection(original) or connect_failure(original) is not None:
        return False
    text = _last_attempt(str(original))
    return any(each in text for each in _LOGIN_TEXTS)


def means_lost(error: BaseException) -> bool:
    """Tell whether the session is gone or out of step."""
    original = driver_error(error)
    state = sqlstate_of(original)
    if state is not None:
        # What ends a session is FATAL. dblink and postgres_fdw tell of another
        # server's end with the same SQLSTATE, as an ERROR of a session that is well.
        return _severity_of(original) != "ERROR" and (
            state in _LOST or state.startswith(_CONNECTION_EXCEPTION)
        )
    if not _is_of_connection(original):
        return False
    text = _QUOTED.sub('""', str(original))
    return any(each in text for each in _LOST_TEXTS)


def why_lost(error: BaseException) -> Loss:
    """Tell why a session is gone. The text comes first: 57P01 is also what the
    sessions of a server say that crashed.
    """
    original = driver_error(error)
    text = _QUOTED.sub('""', str(original))
    for words, loss in _WHY_BY_TEXT.items():
        if words in text:
            return loss
    return _WHY_LOST.get(sqlstate_of(original) or "", Loss.UNKNOWN)


def means_read_only(error: BaseException) -> bool:
    """Tell whether a write was refused in a read-only transaction or on a standby."""
    return sqlstate_of(driver_error(error)) == _READ_ONLY


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error of psycopg 3, psycopg2 or pg8000."""
    states = [getattr(error, name, None) for name in ("sqlstate", "pgcode")]
    first = error.args[0] if error.args else None
    if isinstance(first, dict):  # pg8000: the fields of the server's message
        states.append(first.get("C"))
    return next((each for each in states if isinstance(each, str) and each), None)


def _severity_of(error: BaseException) -> str | None:
    first = error.args[0] if error.args else None
    if isinstance(first, dict):  # pg8000
        return first.get("V")
    return getattr(getattr(error, "diag", None), "severity_nonlocalized", None)


def _is_of_connection(error: BaseException) -> bool:
    classes = {each.__name__ for each in type(error).__mro__}
    return "Error" in classes and _ABOUT_STATEMENTS.isdisjoint(classes)


def _last_attempt(text: str) -> str:
    """Return what is said of the last address that was tried: of a host that has two,
    the one on which no server listens says nothing, and the one that refuses the
    password all.
    """
    # Names and paths are quoted, and may be made of the very words looked for.
    text = _QUOTED.sub('""', text.partition(_SUMMARY)[0])
    return text.rpartition(_ATTEMPT)[2]


def _by_text(text: str) -> ConnectFailure | None:
    text = _last_attempt(text)
    if any(each in text for each in _FULL_TEXTS):
        return ConnectFailure.FULL
    if any(each in text for each in _AWAY_TEXTS):
        return ConnectFailure.AWAY
    if any(os.strerror(each) in text for each in _AWAY_ERRNOS):
        return ConnectFailure.AWAY
    # No Unix socket. A certificate that is not there is said in other words.
    if f"failed: {os.strerror(errno.ENOENT)}" in text:
        return ConnectFailure.AWAY
    # psycopg 3 looks names up by itself.
    if f"[Errno {int(socket.EAI_AGAIN)}]" in text:
        return ConnectFailure.AWAY
    return None
