"""MySQL and MariaDB, through PyMySQL, mysqlclient or any DB-API driver."""

from __future__ import annotations

import typing as t

from .base import Connection, IdleLimit, ServerView, cursor_of

# CLIENT_INTERACTIVE, from the client/server protocol's capability flags.
_CLIENT_INTERACTIVE: t.Final = 1024


class MySQL:
    """Reads the session's ``wait_timeout``."""

    def idle_limit(self, connection: Connection) -> IdleLimit:
        """Ask for ``@@session.wait_timeout``: neither the global value, an
        ``init_command`` nor CLIENT_INTERACTIVE can be derived from one another.

        A SELECT that reads no table starts no InnoDB transaction.
        """
        with cursor_of(connection) as cursor:
            cursor.execute("SELECT @@session.wait_timeout")
            seconds = float(cursor.fetchone()[0])
        name = "wait_timeout"
        if getattr(connection, "client_flag", 0) & _CLIENT_INTERACTIVE:
            # The server copied interactive_timeout into the session's wait_timeout.
            name = "wait_timeout (from interactive_timeout)"
        return IdleLimit(seconds, f"{name} {seconds:g} s")

    def server_id(self, connection: Connection) -> int | None:
        """Return the connection id from the handshake."""
        try:
            return int(connection.thread_id())
        except Exception:  # a driver without it, or a connection already closed
            return None

    def is_in_mid_query(self, connection: Connection) -> bool:
        """Tell whether an unbuffered (server-side) cursor of PyMySQL is unread:
        a rollback would first fetch all that is left.
        """
        result = getattr(connection, "_result", None)
        return bool(getattr(result, "unbuffered_active", False))

    def view(self, connection: Connection) -> ServerView:
        """Ask for version, limits and sessions.

        Without the PROCESS privilege the server lists the user's own sessions only;
        ``Threads_connected`` always counts everybody's.
        """
        with cursor_of(connection) as cursor:
            cursor.execute(
                "SELECT VERSION(), @@global.wait_timeout, @@max_connections,"
                " CONNECTION_ID()"
            )
            version, seconds, maximum, me = cursor.fetchone()
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
            connected = int(cursor.fetchone()[1])
            cursor.execute("SELECT ID FROM information_schema.PROCESSLIST")
            ids = frozenset(int(row[0]) for row in cursor.fetchall()) - {int(me)}
        return ServerView(
            product=_product(str(version)),
            idle_limit=IdleLimit(float(seconds), f"wait_timeout {float(seconds):g} s"),
            max_connections=int(maximum),
            connections=max(connected - 1, 0),
            session_ids=ids,
        )


def _product(version: str) -> str:
    """Turn ``10.11.6-MariaDB-0+deb12u1`` or ``8.0.36`` into a name and a number."""
    number = version.removeprefix("5.5.5-").partition("-")[0]
    return f"{'MariaDB' if 'mariadb' in version.lower() else 'MySQL'} {number}"
