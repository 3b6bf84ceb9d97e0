"""What Python's socket and name-lookup errors mean for a failed connect."""

from __future__ import annotations

import errno
import socket
import typing as t

from .types import ConnectFailure

# ConnectionError and TimeoutError have classes of their own.
_PASSING: t.Final = frozenset(
    {
        errno.EADDRNOTAVAIL,  # all local ports in use
        errno.EAGAIN,  # a Unix socket whose queue of connects is full
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
    }
)
# Of ssl's errors, those that mean an end in the middle of the handshake; the others
# (a certificate that is refused, no TLS on the other side) are there to stay. By name,
# because `ssl` need not be imported, and many apps never do.
_CUT_OFF: t.Final = frozenset({"SSLEOFError", "SSLSyscallError", "SSLZeroReturnError"})


def network_failure(error: OSError) -> ConnectFailure | None:
    """Tell whether an error that a socket met while connecting may pass by itself."""
    return ConnectFailure.AWAY if _passes(error) else None


def _passes(error: OSError) -> bool:
    if isinstance(error, socket.gaierror):
        # The others say that the name does not exist, or that the question is wrong.
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, FileNotFoundError):
        # No Unix socket, as while the server restarts. Python names the file only if
        # one was opened: a certificate or password file that is missing.
        return error.filename is None
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    classes = {each.__name__ for each in type(error).__mro__}
    if "SSLError" in classes:  # its errno is OpenSSL's, not the system's
        return not _CUT_OFF.isdisjoint(classes)
    return error.errno in _PASSING
