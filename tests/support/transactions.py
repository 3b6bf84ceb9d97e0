"""Look for open transactions of MariaDB and MySQL."""

from __future__ import annotations

import time

from sqlalchemy import Connection

from tests.support.database_server import DatabaseServer


def innodb_transactions(server: DatabaseServer, thread_id: int) -> int:
    """Return how many transactions of InnoDB a session has open."""
    # The server renews this table only if nobody has read it for 0.1 s.
    time.sleep(0.15)
    ((count,),) = server.query(
        "SELECT COUNT(*) FROM information_schema.INNODB_TRX"
        f" WHERE trx_mysql_thread_id = {thread_id}"
    )
    return int(count)


def transaction_is_open(connection: Connection, server: DatabaseServer) -> bool:
    """Tell whether a session has a transaction open."""
    if server.product == "MariaDB":  # one that has read nothing of InnoDB counts too
        return bool(connection.exec_driver_sql("SELECT @@in_transaction").scalar())
    thread_id = connection.connection.driver_connection.thread_id()  # type: ignore[union-attr] # PyMySQL's
    return innodb_transactions(server, thread_id) > 0
