"""Run a private MariaDB server."""

from __future__ import annotations

import contextlib
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pymysql

from tests.support.database_server import APP_PASSWORD, APP_USER, DatabaseServer
from tests.support.private_server import MissingServerError
from tests.support.processes import service_account
from tests.support.waiting import wait_until

REMEDY = "Install it: apt-get install mariadb-server (as root)."
# Debian keeps servers out of a user's PATH.
PLACES = "/usr/sbin:/usr/local/sbin:/usr/libexec"

# Small and forgetful: a test's data need not survive a power cut.
FAST_SETTINGS: dict[str, str | int] = {
    "aria_pagecache_buffer_size": "1M",
    "innodb_buffer_pool_size": "8M",
    "innodb_fast_shutdown": 2,
    "innodb_flush_log_at_trx_commit": 0,
    "innodb_log_file_size": "4M",
    "innodb_use_native_aio": 0,
    "key_buffer_size": "1M",
    "max_connections": 300,
    "performance_schema": "OFF",
    "skip_name_resolve": "ON",
    "sync_frm": "OFF",
}

CREATE_DATABASE = "CREATE DATABASE {} CHARACTER SET utf8mb4"
LIST_SESSIONS = "SELECT id, user FROM information_schema.processlist WHERE db = %s"
COUNT_OBJECTS = (
    "SELECT"
    " (SELECT count(*) FROM information_schema.tables WHERE table_schema = %s)"
    " + (SELECT count(*) FROM information_schema.routines WHERE routine_schema = %s)"
    " + (SELECT count(*) FROM information_schema.events WHERE event_schema = %s)"
    " + (SELECT count(*) FROM information_schema.schemata WHERE schema_name = %s"
    " AND default_character_set_name <> 'utf8mb4')"
)
# "Unknown thread id": the session has ended by itself.
NO_SUCH_THREAD = 1094


def variable_arguments(settings: dict[str, str | int]) -> list[str]:
    """Return server variables as arguments of a command line."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


class MariaDBServer(DatabaseServer):
    """Run a private MariaDB server."""

    product: ClassVar[str] = "MariaDB"
    default_driver: ClassVar[str] = "mysql+pymysql"
    admin_user: ClassVar[str] = "root"

    @property
    def socket_path(self) -> Path:
        """Return the path of the server's Unix socket."""
        return self.folder / "socket"

    def tls_query(self) -> dict[str, str]:
        """Return what a URL needs so that PyMySQL checks the certificate."""
        return {"ssl_ca": str(self.certificate.certificate_file)}

    def session_ids(
        self, *, user: str = APP_USER, database: str | None = None
    ) -> set[int]:
        """Return the ids of client sessions other than the one that asks."""
        rows = self.query(
            "SELECT id, user, db FROM information_schema.processlist"
            " WHERE id <> connection_id() AND command <> 'Daemon'"
        )
        return {
            row[0]
            for row in rows
            if user in ("", row[1]) and database in (None, row[2])
        }

    def _account(self) -> pwd.struct_passwd | None:
        return service_account("mysql")

    def _program(self, *names: str) -> str:
        for name in names:
            found = (
                shutil.which(name, path=str(self._bin_dir))
                if self._bin_dir
                else shutil.which(name) or shutil.which(name, path=PLACES)
            )
            if found:
                return found
        raise MissingServerError(self.product, REMEDY)

    def _copy_data(self) -> None:
        server = self._program("mariadbd")
        install = self._program("mariadb-install-db")
        made = self.folder / "template"
        command = [
            *(install, "--no-defaults", f"--datadir={made}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
            *("--skip-name-resolve", "--innodb-log-file-size=4M"),
            # Servers that start clear away each other's tables in a shared one.
            f"--tmpdir={self.folder}",
        ]
        self._copy_template(server, command, made)

    def _command(self) -> list[str | Path]:
        settings = {**FAST_SETTINGS, **self._tls_settings(), **self.settings}
        return [
            self._program("mariadbd"),
            "--no-defaults",
            *self._paths(),
            *variable_arguments(settings),
        ]

    def _paths(self) -> list[str | Path]:
        return [
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder}",
            f"--pid-file={self.folder / 'pid'}",
            f"--socket={self.socket_path}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
        ]

    def _tls_settings(self) -> dict[str, str | int]:
        if self._certificate is None:
            return {}
        return {
            "ssl_cert": str(self._certificate.certificate_file),
            "ssl_key": str(self._certificate.key_file),
        }

    def _connect_errors(self) -> type[Exception]:
        return pymysql.Error

    def _run(self, sql: str, database: str | None) -> list[tuple[Any, ...]]:
        with self._admin_cursor(database) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    @contextlib.contextmanager
    def _admin_cursor(
        self, database: str | None = None
    ) -> Iterator[pymysql.cursors.Cursor]:
        """Give a cursor of an administrator's session, which then ends."""
        connection = pymysql.connect(
            unix_socket=str(self.socket_path),
            user=self.admin_user,
            database=database,
            autocommit=True,
            connect_timeout=5,
            read_timeout=30,
        )
        with connection, connection.cursor() as cursor:
            yield cursor

    def _set_up(self) -> None:
        self.execute(f"CREATE USER {APP_USER}@'%' IDENTIFIED BY '{APP_PASSWORD}'")
        self.execute(rf"GRANT ALL ON `test\_%`.* TO {APP_USER}@'%'")

    def _create_database(self, name: str) -> None:
        self.execute(CREATE_DATABASE.format(name))

    def _drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name}")

    def _is_as_new(self, name: str) -> bool:
        with self._admin_cursor() as cursor:

            def sessions() -> list[tuple[int, str]]:
                cursor.execute(LIST_SESSIONS, [name])
                return list(cursor.fetchall())

            for session_id, _ in sessions():
                try:
                    cursor.execute(f"KILL CONNECTION {session_id:d}")
                except pymysql.OperationalError as error:
                    if error.args[0] != NO_SUCH_THREAD:
                        raise
            try:
                wait_until(lambda: not sessions(), what="the sessions' end")
            except TimeoutError:
                return False
            cursor.execute(COUNT_OBJECTS, [name] * 4)
            if cursor.fetchall() != ((0,),):
                cursor.execute(f"DROP DATABASE {name}")
                cursor.execute(CREATE_DATABASE.format(name))
            return True

    def _kill_session(self, session_id: int) -> None:
        try:
            self.execute(f"KILL CONNECTION {session_id:d}")
        except pymysql.OperationalError as error:
            if error.args[0] != NO_SUCH_THREAD:
                raise
