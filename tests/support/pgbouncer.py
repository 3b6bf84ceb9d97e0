"""Run a private PgBouncer, a pooler that stands before a PostgreSQL server."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path
from typing import Any, ClassVar

import psycopg2
from sqlalchemy import URL

from tests.support.private_server import MissingServerError, PrivateServer
from tests.support.processes import service_account

REMEDY = "Install it: apt-get install pgbouncer (as root)."
# Debian keeps it out of a user's PATH.
PLACES = "/usr/sbin:/usr/local/sbin"


class PgBouncer(PrivateServer):
    """Pool the connections to one database."""

    product: ClassVar[str] = "PgBouncer"

    def __init__(self, target: URL, **settings: str | int) -> None:
        """Prepare; nothing happens before `start`.

        :param target: the database.
        :param settings: of its section `[pgbouncer]`.
        """
        super().__init__()
        self.settings = settings
        self._target = target
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=PLACES)
        if program is None:
            raise MissingServerError(self.product, REMEDY)
        self._program = program

    @property
    def url(self) -> URL:
        """Return the URL of the database by way of the pooler."""
        return self._target.set(port=self.port)

    @property
    def socket_path(self) -> Path:
        """Return the path of its Unix socket."""
        return self.folder / f".s.PGSQL.{self.port}"

    def _account(self) -> pwd.struct_passwd | None:
        return service_account("postgres")

    def _copy_data(self) -> None:
        pass

    def _command(self) -> list[str | Path]:
        target = self._target
        settings: dict[str, Any] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": self.folder,
            "auth_type": "any",
            "pool_mode": "transaction",
            **self.settings,
        }
        lines = [
            "[databases]",
            f"{target.database} = host={target.host} port={target.port}"
            f" user={target.username} password={target.password}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        file = self.folder / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        return [self._program, file]

    def _connect_errors(self) -> type[Exception]:
        return psycopg2.Error

    def _ask(self) -> None:
        psycopg2.connect(
            host=str(self.folder), port=self.port, dbname=self._target.database
        ).close()

    def _set_up(self) -> None:
        pass
