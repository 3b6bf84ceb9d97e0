"""What MySQL and MariaDB tell of other sessions."""

from __future__ import annotations

import typing as t
from collections.abc import Collection

from .base import Connection, cursor_of
from .mysql_errors import means_lost

# Without the PROCESS privilege: the user's own sessions.
_SESSIONS: t.Final = "SELECT ID, COMMAND FROM information_schema.PROCESSLIST"
# Needs the PROCESS privilege, even for the user's own transactions. InnoDB looks anew
# only if nobody has read it for 0.1 s (storage/innobase/trx/trx0i_s.cc).
_TRANSACTIONS: t.Final = "SELECT trx_mysql_thread_id FROM information_schema.INNODB_TRX"


def session_states(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    """Ask what sessions do; without the PROCESS privilege an open transaction cannot
    be seen, and its session counts as idle.
    """
    if not ids:
        return {}
    with cursor_of(connection) as cursor:
        cursor.execute(_SESSIONS)
        commands = {int(row[0]): str(row[1]) for row in cursor.fetchall()}
        shown = {each: commands[each] for each in ids if each in commands}
        resting = {each for each, command in shown.items() if command == "Sleep"}
        in_transaction = _in_transaction(cursor) if resting else set()
    return {each: _state(each, resting, in_transaction) for each in shown}


def _state(each: int, resting: set[int], in_transaction: set[int]) -> str:
    if each not in resting:
        return "running a query"
    return "idle in transaction" if each in in_transaction else "idle"


def _in_transaction(cursor: t.Any) -> set[int]:
    try:
        cursor.execute(_TRANSACTIONS)
        return {int(row[0]) for row in cursor.fetchall()}
    except Exception as error:
        # 1227: no PROCESS privilege. Whatever it is, "idle" remains true.
        if means_lost(error):
            raise
        return set()
