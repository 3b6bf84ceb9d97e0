"""What the errors of MySQL, MariaDB and their drivers mean.

They are told apart by number, which needs no message: servers translate messages
(``lc_messages``). 1000 to 1999 and from 3000 on are the servers' numbers, 2000 to 2999
the client's, from the MySQL and the MariaDB error reference. Both products share those
below 1900.
"""

from __future__ import annotations

import re
import socket
import typing as t

from .network_errors import network_failure
from .types import ConnectFailure, Loss, driver_error

_UNKNOWN_HOST: t.Final = 2005
_USER_LIMIT_EXCEEDED: t.Final = 1226
_OPTION_PREVENTS_STATEMENT: t.Final = 1290
_WSREP_NOT_READY: t.Final = 1047

_AWAY: t.Final = frozenset(
    {
        1053,  # the server shuts down
        1077,  # normal shutdown
        1079,  # shutdown complete
        1152,  # aborted connection
        1158,  # error, 1159: timeout, reading communication packets
        1159,
        1160,  # error, 1161: timeout, writing communication packets
        1161,
        1184,  # aborted connection, with the reason
        2002,  # cannot connect (Unix socket; MariaDB's client: TCP too)
        2003,  # cannot connect (TCP; PyMySQL: Unix socket too)
        2006,  # the server has gone away
        2012,  # error in the server's handshake
        2013,  # lost, here: during the handshake
        2055,  # lost, with the system's error
        3032,  # MySQL: the server is in offline mode
        9001,  # ProxySQL: no server of the host group in time
    }
)
_FULL: t.Final = frozenset(
    {
        1040,  # too many connections
        1041,  # out of memory
        1135,  # cannot create a thread
        1203,  # the user has max_user_connections, set for all users
    }
)
_LOGIN_REFUSED: t.Final = frozenset(
    {
        1044,  # this user may not use this database
        1045,  # wrong password, or no such user
        1049,  # no such database
        1130,  # no user may come from this host
        1251,  # the client does not know how this account is to be checked
        1524,  # the server does not know it
        1698,  # the account is checked by something else than a password
        1862,  # the password has expired
        2059,  # the client lacks what checks this account
        3118,  # MySQL: the account is locked
        4151,  # MariaDB: the account is locked
    }
)
_LOST: t.Final = frozenset(
    {
        1053,  # the server shuts down
        1077,  # normal shutdown
        1079,  # shutdown complete
        1080,  # forced close of a thread
        1152,  # aborted connection
        1153,  # packet bigger than max_allowed_packet: the server hangs up
        1154,  # read error from the connection pipe
        1155,  # error from fcntl()
        1156,  # packets out of order
        1157,  # cannot uncompress a packet
        1158,  # error, 1159: timeout, reading packets
        1159,
        1160,  # error, 1161: timeout, writing packets
        1161,
        1184,  # aborted connection, with the reason
        1835,  # malformed packet
        1927,  # MariaDB: the connection was killed
        2006,  # the server has gone away
        2013,  # lost during a query
        2014,  # commands out of sync
        2020,  # packet bigger than the client's max_allowed_packet: it hangs up
        2027,  # malformed packet
        2045,  # shared memory: abandoned
        2055,  # lost, with the system's error
        3169,  # MySQL: the session was killed
        4031,  # MySQL: disconnected for inactivity
    }
)
# What PyMySQL says without a number. Its AssertionError: a packet was shorter than
# what it is said to hold.
_LOST_TEXTS: t.Final = (
    "Packet sequence number wrong",
    "Result length not requested length",
    "Already closed",
)
# Why, where the number tells; the other numbers say that the line is dead.
_WHY_LOST: t.Final = {
    1053: Loss.SHUT_DOWN,
    1077: Loss.SHUT_DOWN,
    1079: Loss.SHUT_DOWN,
    1080: Loss.KILLED,
    1153: Loss.TOO_BIG,
    1156: Loss.OUT_OF_STEP,
    1157: Loss.OUT_OF_STEP,
    1835: Loss.OUT_OF_STEP,
    1927: Loss.KILLED,
    2014: Loss.OUT_OF_STEP,
    2020: Loss.TOO_BIG,
    2027: Loss.OUT_OF_STEP,
    3169: Loss.KILLED,
    4031: Loss.IDLE,
}
# What PyMySQL adds to 2013 when its read_timeout, or to 2006 when its write_timeout is
# up: the text of the socket's error, over TCP and TLS. The system's own ETIMEDOUT is
# worded "[Errno 110] Connection timed out".
_NO_ANSWER: t.Final = re.compile(r"\W(The (read|write) operation )?timed out\W")
# OpenSSL of a stream that two have written to or read from.
_BAD_RECORD: t.Final = re.compile("bad[ _]record[ _]mac", re.IGNORECASE)
_READ_ONLY: t.Final = frozenset(
    {
        1036,  # table is read-only: what MariaDB says of all if innodb_read_only is on
        1836,  # running in read-only mode
        1874,  # InnoDB is in read-only mode
    }
)
# 1290 names the option that is in the way, never translated: also secure-file-priv,
# skip-grant-tables and others.
_READ_ONLY_OPTION: t.Final = re.compile(r"--[\w-]*read[-_]only\b")


def connect_failure(error: BaseException) -> ConnectFailure | None:
    """Tell whether a failed connect may pass by itself.

    PyMySQL turns the system's error into 2003 and keeps it as
    ``original_exception``, which also tells an unknown host from a name server that
    does not answer. The clients in C give getaddrinfo's number in 2005's message.
    """
    original = driver_error(error)
    cause = getattr(original, "original_exception", None)
    for each in (original, cause):
        if isinstance(each, OSError):
            return network_failure(each)
    code = code_of(original)
    if code in _AWAY:
        return ConnectFailure.AWAY
    if code in _FULL:
        return ConnectFailure.FULL
    text = str(original)
    if code == _UNKNOWN_HOST and f"({int(socket.EAI_AGAIN)})" in text:
        return ConnectFailure.AWAY
    if code == _WSREP_NOT_READY and "WSREP" in text:  # Galera: not in the cluster yet
        return ConnectFailure.AWAY
    # Other resources are limits per hour, which do not pass while a thread waits.
    if code == _USER_LIMIT_EXCEEDED and "max_user_connections" in text:
        return ConnectFailure.FULL
    return None


def refuses_login(error: BaseException) -> bool:
    """Tell whether the server does not let this user in."""
    return code_of(driver_error(error)) in _LOGIN_REFUSED


def means_lost(error: BaseException) -> bool:
    """Tell whether the session is gone or out of step."""
    original = driver_error(error)
    if code_of(original) in _LOST:
        return True
    # PyMySQL's InterfaceError of a connection that it has closed already.
    if original.args == (0, ""):
        return True
    return any(text in str(original) for text in _LOST_TEXTS) and (
        code_of(original) is None
    )


def why_lost(error: BaseException) -> Loss:
    """Tell why a session is gone, by the number and what PyMySQL adds to it."""
    original = driver_error(error)
    text, code = str(original), code_of(original)
    if code in _WHY_LOST:
        return _WHY_LOST[code]
    if _BAD_RECORD.search(text) or any(each in text for each in _LOST_TEXTS[:2]):
        return Loss.OUT_OF_STEP
    if _NO_ANSWER.search(text) and "Connection timed out" not in text:
        return Loss.NO_ANSWER
    return Loss.UNKNOWN


def means_read_only(error: BaseException) -> bool:
    """Tell whether the server refused a write because it is read-only.

    Not 1792, which says that the transaction is read-only: its owner wanted that.
    """
    original = driver_error(error)
    code = code_of(original)
    if code == _OPTION_PREVENTS_STATEMENT:
        return _READ_ONLY_OPTION.search(str(original)) is not None
    return code in _READ_ONLY


def code_of(error: BaseException) -> int | None:
    """Return the number of a driver's error, if it has one."""
    if isinstance(error, OSError):
        return None
    first = error.args[0] if error.args else None
    for code in (first, getattr(error, "errno", None)):
        if isinstance(code, int):
            return code
    return None
