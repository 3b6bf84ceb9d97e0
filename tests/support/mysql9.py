"""Run a private server of Oracle's MySQL 9, from Debian's unstable release.

As a program it fetches the server, so that no test has to wait for that, or says why it
cannot.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pymysql

from tests.support.app_server import REPOSITORY
from tests.support.database_server import APP_PASSWORD, APP_USER
from tests.support.downloads import locked_cache
from tests.support.mariadb import MariaDBServer, variable_arguments
from tests.support.not_tested import MARK
from tests.support.private_server import MissingServerError

REMEDY = (
    "tools/fetch-mysql9 unpacks it beside the system, on Debian on x86-64, for which "
    "the network must be reachable."
)
DOWNLOAD_SECONDS = 600
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
# Small and forgetful: a test's data need not survive a power cut.
FAST_SETTINGS: dict[str, str | int] = {
    "innodb_buffer_pool_size": "16M",
    "innodb_fast_shutdown": 2,
    "innodb_flush_log_at_trx_commit": 0,
    "innodb_redo_log_capacity": "8M",
    "innodb_use_native_aio": 0,
    "max_connections": 300,
    "mysqlx": "OFF",
    "performance_schema": "OFF",
    "secure_file_priv": "NULL",
    "skip_log_bin": "ON",
    "skip_name_resolve": "ON",
}


def fetch_root() -> Path:
    """Return the folder that MySQL 9 is unpacked in, downloaded if need be.

    :raises MissingServerError: if it cannot be had here.
    """
    script = REPOSITORY / "tools" / "fetch-mysql9"
    try:
        with locked_cache("mysql9.lock") as cache:
            folder = cache / "mysql9"
            subprocess.run(
                [script, folder],
                check=True,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no reason given"]
        raise MissingServerError("MySQL 9", f"{REMEDY} ({lines[-1]})") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingServerError("MySQL 9", f"{REMEDY} ({error})") from error
    return folder / "root"


class MySQLServer(MariaDBServer):
    """Run a private MySQL server, which its administrator asks as a MariaDB."""

    product: ClassVar[str] = "MySQL"

    def _ask(self) -> None:
        super()._ask()
        # Since its start the server knows no password's hash. Until it has seen one by
        # a safe way, it wants it encrypted with its public key, for which PyMySQL needs
        # a package that no app of these tests has.
        if self._has_app_user:
            pymysql.connect(
                unix_socket=str(self.socket_path), user=APP_USER, password=APP_PASSWORD
            ).close()

    _has_app_user = False

    def _set_up(self) -> None:
        super()._set_up()
        self._has_app_user = True
        self._ask()

    def _copy_data(self) -> None:
        if self._bin_dir is None:
            self._bin_dir = fetch_root()
        made = self.folder / "template"
        command = [
            *map(str, self._program_line()),
            "--initialize-insecure",
            f"--datadir={made}",
            "--innodb-redo-log-capacity=8M",
        ]
        self._copy_template(str(self._bin_dir), command, made)

    def _program_line(self) -> list[str | Path]:
        """Return what starts the program, with the C library that it was built for."""
        root = self._bin_dir
        assert root is not None
        libraries = root / LIBRARIES
        messages = root / "usr/share/mysql"
        return [
            libraries / "ld-linux-x86-64.so.2",
            "--library-path",
            libraries,
            root / "usr/sbin/mysqld",
            "--no-defaults",
            f"--basedir={root / 'usr'}",
            f"--lc-messages-dir={messages}",
            f"--character-sets-dir={messages / 'charsets'}",
            f"--plugin-dir={root / 'usr/lib/mysql/plugin'}",
        ]

    def _command(self) -> list[str | Path]:
        return [
            *self._program_line(),
            *self._paths(),
            *variable_arguments({**FAST_SETTINGS, **self._tls_settings()}),
            *variable_arguments(self.settings),
        ]


if __name__ == "__main__":
    try:
        fetch_root()
    except MissingServerError as error:
        print(f"{MARK}{error}", file=sys.stderr)
