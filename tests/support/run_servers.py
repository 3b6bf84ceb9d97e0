"""One database server of each product for all workers of a test run.

The process that the user started (xdist's controller, or pytest itself) runs them and
ends them; a worker asks it for one by a socket in the run's folder. Should that process
be killed, the servers' watchdogs end them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from tests.support.database_server import DatabaseServer
from tests.support.mariadb import MariaDBServer
from tests.support.mysql9 import MySQLServer
from tests.support.postgresql import PostgreSQLServer
from tests.support.postgresql13 import fetch_bin_dir
from tests.support.private_server import Loan, MissingServerError

PRODUCTS: dict[str, Callable[[], DatabaseServer]] = {
    "mariadb": MariaDBServer,
    "mysql9": MySQLServer,
    "postgresql": PostgreSQLServer,
    "postgresql13": lambda: PostgreSQLServer(bin_dir=fetch_bin_dir()),
}
SOCKET_NAME = "servers"


class RunServers:
    """Run the servers of a test run and lend them to its workers."""

    def __init__(self, folder: Path) -> None:
        """Prepare; a server is started when the first test needs it.

        :param folder: where workers find the socket; nobody else may enter it.
        """
        self._servers: dict[str, DatabaseServer] = {}
        self._locks = {product: threading.Lock() for product in PRODUCTS}
        self._listener = Listener(str(folder / SOCKET_NAME), family="AF_UNIX")
        threading.Thread(target=self._serve, name="run servers", daemon=True).start()

    def lend(self, product: str) -> DatabaseServer:
        """Return a product's server, started if it is not running yet.

        :raises MissingServerError: if its programs are not installed.
        """
        with self._locks[product]:
            if product not in self._servers:
                server = PRODUCTS[product]()
                server.start()
                self._servers[product] = server
            return self._servers[product]

    def close(self) -> None:
        """End all servers."""
        self._listener.close()
        for product, lock in self._locks.items():
            with lock:
                server = self._servers.pop(product, None)
            if server is not None:
                server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(
                target=self._answer, args=[connection], daemon=True
            ).start()

    def _answer(self, connection: Connection) -> None:
        # A worker that was killed does not hear the answer.
        with connection, contextlib.suppress(EOFError, OSError):
            try:
                connection.send(self.lend(connection.recv()).loan())
            except (MissingServerError, RuntimeError, OSError) as error:
                connection.send(error)


def borrow(product: str, folder: Path) -> DatabaseServer:
    """Return a server that the run's first process runs, from one of its workers.

    :param folder: the run's, which the workers inherit.
    :raises MissingServerError: if its programs are not installed.
    """
    with Client(os.fspath(folder / SOCKET_NAME), family="AF_UNIX") as connection:
        connection.send(product)
        answer: Loan | Exception = connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return PRODUCTS[product]().borrowed(answer)
