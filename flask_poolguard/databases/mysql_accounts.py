"""Connection limits of an account of MySQL or MariaDB."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from .mysql_sessions import ProcessList
from .types import ConnectionLimit, ServerSession

Rows = list[tuple[t.Any, ...]]

# Asks the server; None if the user may not ask or the server does not know.
Ask = Callable[[str], Rows | None]

# The session's value is the one in force: the account's own, else the global one.
_LIMIT: t.Final = (
    "SELECT @@session.max_user_connections, @@global.max_user_connections,"
    " CURRENT_USER()"
)
# Each user may see its own account's.
_PRIVILEGES: t.Final = (
    "SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES"
    " WHERE PRIVILEGE_TYPE IN ('CONNECTION ADMIN', 'SUPER')"
)
_ACCOUNTS: t.Final = "SELECT User FROM mysql.user"
# The first MariaDB in which SUPER does not include CONNECTION ADMIN.
_SPLIT: t.Final = (11, 0, 1)


def limit_of_account(
    ask: Ask,
    user: str,
    mariadb: tuple[int, ...] | None,
    sessions: ProcessList | None,
) -> tuple[ConnectionLimit, ...]:
    """Return the limit of the account that the session was given, if there is one.

    :param user: as which the session logged in.
    :param mariadb: the version of a MariaDB server, None of any other.
    :param sessions: as far as the user may see them.
    """
    rows = ask(_LIMIT)
    if not rows or int(rows[0][0]) <= 0:  # 0 for none; MariaDB's -1 lets no client in
        return ()
    limit, of_all = map(int, rows[0][:2])
    name, _, host = str(rows[0][2]).rpartition("@")
    remedy = "the account's limit (ALTER USER … WITH MAX_USER_CONNECTIONS …)"
    if limit == of_all:
        if mariadb is not None and _is_exempt(ask, f"'{name}'@'{host}'", mariadb):
            return ()
        remedy = "the server's max_user_connections"
    # Else it is an anonymous account, which others use under other names.
    used = _count(ask, user, sessions) if name == user else None
    return (ConnectionLimit("user", user, limit, used, remedy),)


def _is_exempt(ask: Ask, grantee: str, mariadb: tuple[int, ...]) -> bool:
    """Tell whether MariaDB's global limit does not apply to an account.

    That takes a privilege of the account itself, not of a role, and leaves the
    account's own limit in force (check_for_max_user_connections() in
    https://github.com/MariaDB/server/blob/10.11/sql/sql_connect.cc, and
    https://mariadb.com/kb/en/grant/#connection-admin). On MySQL no privilege has this
    effect, only the administrative interface (the same function of its server).
    """
    own = {str(name) for who, name in ask(_PRIVILEGES) or () if str(who) == grantee}
    return "CONNECTION ADMIN" in own or ("SUPER" in own and mariadb < _SPLIT)


def _count(ask: Ask, user: str, sessions: ProcessList | None) -> int | None:
    """Count the account's sessions, without the asking one.

    The server lists names, which ``app@localhost`` and ``app@%`` share, and to who has
    the PROCESS privilege those of all accounts (without it MariaDB 10.11 lists the own
    account's only, MySQL the own name's). All of one name from one place were given
    the same account.
    """
    if sessions is None or sessions.own is None or sessions.own.user != user:
        return None
    places = [_place(each) for each in sessions.others if each.user == user]
    is_certain = set(places) <= {_place(sessions.own)} or _is_only(ask, user)
    return len(places) if is_certain else None


def _place(session: ServerSession) -> str:
    """Return where a session comes from, without its port; "" for the socket."""
    return (session.client or "").rpartition(":")[0]


def _is_only(ask: Ask, user: str) -> bool:
    """Tell whether a name is known to be that of one account; an anonymous one goes by
    any name.
    """
    rows = ask(_ACCOUNTS) or ()
    return sum(str(name) in (user, "") for (name,) in rows) == 1
