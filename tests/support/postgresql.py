"""Run a private PostgreSQL server."""

from __future__ import annotations

import contextlib
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psycopg2

from tests.support.database_server import APP_PASSWORD, APP_USER, DatabaseServer
from tests.support.private_server import MissingServerError
from tests.support.processes import service_account
from tests.support.waiting import wait_until

REMEDY = "Install it: apt-get install postgresql (as root)."
# Debian keeps each version in a folder of its own, none of them in PATH.
DEBIAN_FOLDERS = Path("/usr/lib/postgresql")

# Small and forgetful: a test's data need not survive a power cut.
FAST_SETTINGS: dict[str, str | int] = {
    "autovacuum": "off",
    # In the data folder: containers tend to have next to no /dev/shm, and there
    # a killed server would leave its memory behind.
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "full_page_writes": "off",
    "logging_collector": "off",
    "max_connections": 200,
    # For SQLAlchemy's own test of two-phase transactions.
    "max_prepared_transactions": 16,
    "max_wal_senders": 0,
    "shared_buffers": "16MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}

# Ends the other sessions of the database; counts them, ended or not.
END_SESSIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
# Below this number are the objects that every database has.
FIRST_OBJECT_ID = 16384
COUNT_OBJECTS = "SELECT " + " + ".join(
    f"(SELECT count(*) FROM {catalog} WHERE oid >= {FIRST_OBJECT_ID})"
    for catalog in (
        *("pg_class", "pg_proc", "pg_type", "pg_namespace", "pg_extension"),
        *("pg_largeobject_metadata", "pg_publication", "pg_event_trigger"),
    )
)
# What is set for the database itself, its prepared transactions, and the rights on what
# every database has.
SETTINGS = (
    "SELECT datconnlimit, datacl::text,"
    " (SELECT count(*) FROM pg_db_role_setting AS s WHERE s.setdatabase = d.oid),"
    " (SELECT count(*) FROM pg_prepared_xacts AS x WHERE x.database = d.datname), "
) + ", ".join(
    f"(SELECT md5(string_agg(c.oid || c.{prefix}acl::text, ' ' ORDER BY c.oid))"
    f" FROM {catalog} AS c WHERE c.oid < {FIRST_OBJECT_ID})"
    for catalog, prefix in (
        ("pg_class", "rel"),
        ("pg_proc", "pro"),
        ("pg_namespace", "nsp"),
    )
)
SETTINGS += " FROM pg_database AS d WHERE d.datname = current_database()"


def find_bin_dir() -> Path:
    """Return the folder of the newest PostgreSQL that is installed.

    :raises MissingServerError: if there is none.
    """
    in_path = shutil.which("postgres")
    if in_path and shutil.which("initdb"):
        return Path(in_path).parent
    found = [path.parent for path in DEBIAN_FOLDERS.glob("*/bin/postgres")]
    if not found:
        raise MissingServerError("PostgreSQL", REMEDY)
    return max(found, key=lambda folder: int(folder.parent.name.split(".")[0]))


class PostgreSQLServer(DatabaseServer):
    """Run a private PostgreSQL server."""

    product: ClassVar[str] = "PostgreSQL"
    default_driver: ClassVar[str] = "postgresql+psycopg2"
    admin_user: ClassVar[str] = "postgres"
    # "Fast": ends sessions instead of waiting for them.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    # Those of a database that nobody has changed yet.
    _new_settings: tuple[Any, ...] | None = None

    @property
    def socket_path(self) -> Path:
        """Return the path of the server's Unix socket."""
        return self.folder / f".s.PGSQL.{self.port}"

    def tls_query(self) -> dict[str, str]:
        """Return what a URL needs so that libpq checks the certificate."""
        certificate = str(self.certificate.certificate_file)
        return {"sslmode": "verify-full", "sslrootcert": certificate}

    def session_ids(
        self, *, user: str = APP_USER, database: str | None = None
    ) -> set[int]:
        """Return the ids of client sessions other than the one that asks."""
        rows = self.query(
            "SELECT pid, usename, datname FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return {
            row[0]
            for row in rows
            if user in ("", row[1]) and database in (None, row[2])
        }

    def kill(self) -> None:
        """Kill the server as a crash would; its data stays for `start`."""
        super().kill()
        pid_file = self.folder / "data" / "postmaster.pid"
        self._remove_shared_memory(pid_file)
        # A start would refuse while another process happens to have that pid.
        pid_file.unlink(missing_ok=True)

    def _remove_shared_memory(self, pid_file: Path) -> None:
        """Free the few bytes that a killed server leaves in the kernel."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            shared_memory_id = pid_file.read_text().splitlines()[6].split()[1]
            subprocess.run(
                ["ipcrm", "-m", shared_memory_id], check=False, capture_output=True
            )

    def _account(self) -> pwd.struct_passwd | None:
        return service_account("postgres")

    def _copy_data(self) -> None:
        if self._bin_dir is None:
            self._bin_dir = find_bin_dir()
        initdb = str(self._bin_dir / "initdb")
        made = self.folder / "template"
        command = [
            *(initdb, f"--pgdata={made}", f"--username={self.admin_user}"),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
            *("--encoding=UTF8", "--no-locale", "--no-sync"),
        ]
        self._copy_template(str(self._bin_dir), command, made)

    def _command(self) -> list[str | Path]:
        assert self._bin_dir is not None
        settings: dict[str, str | int] = {
            **FAST_SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": str(self.folder),
            # Below 14, roles would get MD5 passwords.
            "password_encryption": "scram-sha-256",
        }
        if self._certificate is not None:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self._certificate.certificate_file),
                "ssl_key_file": str(self._certificate.key_file),
            }
        settings |= self.settings
        # In the file and not on the command line, which ALTER SYSTEM cannot beat.
        lines = [
            "{} = '{}'\n".format(name, str(value).replace("'", "''"))
            for name, value in settings.items()
        ]
        (self.folder / "data" / "postgresql.conf").write_text("".join(lines))
        return [self._bin_dir / "postgres", "-D", self.folder / "data"]

    def _connect_errors(self) -> type[Exception]:
        return psycopg2.Error

    def _run(self, sql: str, database: str | None) -> list[tuple[Any, ...]]:
        with self._admin_cursor(database or "postgres") as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    @contextlib.contextmanager
    def _admin_cursor(self, database: str) -> Iterator[psycopg2.extensions.cursor]:
        """Give a cursor of an administrator's session, which then ends."""
        connection = psycopg2.connect(
            host=str(self.folder),
            port=self.port,
            user=self.admin_user,
            dbname=database,
            connect_timeout=5,
            options="-c idle_in_transaction_session_timeout=0",
        )
        try:
            # CREATE DATABASE refuses to run inside a transaction.
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def _set_up(self) -> None:
        self.execute(f"CREATE ROLE {APP_USER} LOGIN PASSWORD '{APP_PASSWORD}'")

    def _create_database(self, name: str) -> None:
        self.execute(f"CREATE DATABASE {name} OWNER {APP_USER}")
        if self._new_settings is None:
            (self._new_settings,) = self.query(SETTINGS, database=name)

    def _drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _is_as_new(self, name: str) -> bool:
        with self._admin_cursor(name) as cursor:

            def ask(sql: str) -> tuple[Any, ...]:
                cursor.execute(sql)
                row: tuple[Any, ...] = cursor.fetchall()[0]
                return row

            try:
                wait_until(lambda: ask(END_SESSIONS) == (0,), what="the sessions' end")
            except TimeoutError:
                return False
            if ask(COUNT_OBJECTS) != (0,):
                cursor.execute(f"DROP OWNED BY {APP_USER} CASCADE")
            if ask(COUNT_OBJECTS) != (0,) or ask(SETTINGS) != self._new_settings:
                return False
            # A session that was ended is counted before it disappears from the list.
            cursor.execute("SELECT pg_stat_reset()")
            return True

    def _kill_session(self, session_id: int) -> None:
        self.execute(f"SELECT pg_terminate_backend({session_id:d})")
