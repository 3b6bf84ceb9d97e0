"""Limits, version and counters of a MySQL or MariaDB server."""

from __future__ import annotations

import re
import typing as t
from functools import partial

from .mysql_accounts import Rows, limit_of_account
from .mysql_sessions import read_process_list, sessions_query
from .types import IdleLimit, ServerView, is_same_session

# In one statement with others: ProxySQL answers a lone CONNECTION_ID() itself.
_SERVER: t.Final = "SELECT VERSION(), @@max_connections, CONNECTION_ID(), USER()"
_IDLE: t.Final = "SELECT @@global.wait_timeout"
_COUNTERS: t.Final = (
    "Threads_connected",
    "Uptime",
    "Connections",
    "Aborted_clients",
    "Connection_errors_max_connections",
    "Max_used_connections",
)
_STATUS: t.Final = "SHOW GLOBAL STATUS WHERE Variable_name IN ({})".format(
    ", ".join(f"'{name}'" for name in _COUNTERS)
)
# What keeps the most that were ever open from being compared with max_connections: it
# was another then, or connections of MariaDB's second port count with the others. MySQL
# has no such table.
_INCOMPARABLE: t.Final = (
    "SELECT VARIABLE_NAME FROM information_schema.SYSTEM_VARIABLES WHERE"
    " (VARIABLE_NAME = 'MAX_CONNECTIONS' AND GLOBAL_VALUE_ORIGIN = 'SQL')"
    " OR (VARIABLE_NAME = 'EXTRA_PORT' AND GLOBAL_VALUE <> '0')"
)
_CIPHER: t.Final = "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
# MariaDB's, in seconds; MySQL has none of them.
_TRANSACTION_LIMITS: t.Final = (
    "SHOW SESSION VARIABLES WHERE Variable_name IN ('idle_transaction_timeout',"
    " 'idle_readonly_transaction_timeout', 'idle_write_transaction_timeout')"
)


def server_view(
    cursor: t.Any, limit: IdleLimit, flagged: bool | None, handshake_id: int | None
) -> ServerView:
    """Ask for everything that the user may know.

    Without the PROCESS privilege the server lists the user's own sessions only;
    ``Threads_connected`` always counts those of all users. ``max_connections`` is what
    users have: the server keeps one more for an administrator.

    :param limit: the session's own idle limit.
    :param flagged: whether the driver said that it is interactive; None is unknown.
    """
    cursor.execute(_SERVER)
    version, maximum, me, account = cursor.fetchone()
    product, numbers = product_of(str(version)), _numbers(str(version))
    mariadb = numbers if product.startswith("MariaDB") else None
    user = str(account).rpartition("@")[0]
    status = {name: int(value) for name, value in _ask(cursor, _STATUS) or ()}
    rows = _ask(cursor, sessions_query())
    sessions = None if rows is None else read_process_list(rows)
    connected = status.pop("Threads_connected", None)
    if _ask(cursor, _INCOMPARABLE) != []:
        status.pop("Max_used_connections", None)
    (usual,) = next(iter(_ask(cursor, _IDLE) or ()), (None,))
    return ServerView(
        product=product,
        idle_limit=limit,
        max_connections=int(maximum),
        connections=None if connected is None else max(connected - 1, 0),
        version=numbers,
        reserved=0,
        user=user,
        limits=limit_of_account(partial(_ask, cursor), user, mariadb, sessions),
        sessions=None if sessions is None else sessions.others,
        counters=status or None,
        is_interactive=flagged,
        usual_idle_seconds=None if usual is None else float(usual),
        idle_in_transaction_limit=_transaction_limit(cursor),
        is_encrypted=_is_encrypted(cursor, handshake_id, int(me)),
        handshake_id=handshake_id,
        session_id=int(me),
    )


def _ask(cursor: t.Any, statement: str) -> Rows | None:
    """Return the rows, or None if the user may not ask or the server does not know."""
    try:
        cursor.execute(statement)
        return list(cursor.fetchall())
    except Exception:  # what else is known counts
        return None


def _transaction_limit(cursor: t.Any) -> IdleLimit | None:
    rows = _ask(cursor, _TRANSACTION_LIMITS)
    if rows is None:
        return None
    limits = [(float(value), str(name)) for name, value in rows if float(value) > 0]
    if not limits:
        return IdleLimit(None, "no idle_transaction_timeout")
    seconds, name = min(limits)
    return IdleLimit(seconds, f"{name} {seconds:g} s")


def _is_encrypted(cursor: t.Any, handshake_id: int | None, me: int) -> bool | None:
    """Ask the server; unknown behind a pooler, whose session it would speak of."""
    if handshake_id is None or not is_same_session(handshake_id, me):
        return None
    rows = _ask(cursor, _CIPHER)
    return bool(rows[0][1]) if rows else None


def product_of(version: str) -> str:
    """Turn ``10.11.6-MariaDB-0+deb12u1`` or ``8.0.36`` into a name and a number."""
    number = version.removeprefix("5.5.5-").partition("-")[0]
    return f"{'MariaDB' if 'mariadb' in version.lower() else 'MySQL'} {number}"


def _numbers(version: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version.removeprefix("5.5.5-"))
    return tuple(map(int, found.groups())) if found else None
