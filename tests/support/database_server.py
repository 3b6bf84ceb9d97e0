"""What the private servers of every product have in common."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from sqlalchemy import URL

from tests.support.processes import Daemon
from tests.support.tls import Certificate
from tests.support.waiting import free_port, wait_until

# The account of the apps under test. The password is one that no other text
# contains, so that a test can search for it.
APP_USER = "app"
APP_PASSWORD = "s3cret-pw"
# Beyond this a Unix socket's path does not fit into `sockaddr_un`.
SOCKET_PATH_LIMIT = 107


class MissingServerError(RuntimeError):
    """A server cannot be started because its programs are not installed."""

    def __init__(self, product: str, remedy: str) -> None:
        super().__init__(f"{product} is not installed. {remedy}")


class ServerError(RuntimeError):
    """A server did not start."""


class DatabaseServer(ABC):
    """Run a private server that only this machine and this user can reach."""

    product: ClassVar[str]
    default_driver: ClassVar[str]
    admin_user: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self,
        *,
        tls: bool = False,
        bin_dir: Path | None = None,
        **settings: str | int,
    ) -> None:
        """Prepare a server; nothing happens before `start`.

        :param tls: whether it offers TLS, with a certificate of its own.
        :param bin_dir: where its programs are, found by itself if None.
        :param settings: server variables, with underscores.
        """
        self.settings = settings
        self.port = 0
        self.folder = Path()  # made by the first start
        self._tls = tls
        self._bin_dir = bin_dir
        self._certificate: Certificate | None = None
        self._daemon: Daemon | None = None

    def __repr__(self) -> str:
        state = f"running, pid {self.pid}" if self.running else "stopped"
        return f"<{type(self).__name__} on port {self.port}, {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Life and death

    @property
    def running(self) -> bool:
        """Tell whether the server's process is there."""
        return self._daemon is not None and self._daemon.alive

    @property
    def pid(self) -> int:
        """Return the process id of the server."""
        if self._daemon is None:
            raise ServerError(f"{self.product} is not started")
        return self._daemon.pid

    def process_ids(self) -> set[int]:
        """Return the ids of the processes that belong to the server."""
        return self._daemon.process_ids() if self._daemon else set()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if self.running:
            return
        first = self.port == 0
        try:
            if first:
                self._prepare()
            self._daemon = daemon = Daemon(
                self._command(),
                log=self.folder / "log",
                account=self._account(),
                cwd=self.folder,
                clear_up=self.folder,
            )
            self._wait_until_it_answers(daemon, seconds=30)
            if first:
                self._create_app_user()
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Shut the server down in good order; its data stays for `start`."""
        if self._daemon is not None:
            self._daemon.stop(self.stop_signal)
            self._daemon = None

    def restart(self, **settings: str | int) -> None:
        """Stop the server and start it on the same port, with changed settings."""
        self.stop()
        self.settings |= settings
        self.start()

    def kill(self) -> None:
        """Kill the server as a crash would; its data stays for `start`."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    def close(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        if self.port:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.port = 0

    def log_text(self) -> str:
        """Return the server's log, of all starts."""
        return (self.folder / "log").read_text(errors="replace")

    def _prepare(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="poolguard-"))
        account = self._account()
        if account is not None:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.port = free_port()
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_LIMIT:
            raise ServerError(
                f"The path of the server's socket, {self.socket_path}, is longer than "
                f"{SOCKET_PATH_LIMIT} bytes: set TMPDIR to a shorter folder"
            )
        if self._tls:
            self._certificate = Certificate.make(self.folder, account)
        self._copy_data()

    def _wait_until_it_answers(self, daemon: Daemon, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._connect_to_socket()
                self.query("SELECT 1")
            except (OSError, self._connect_errors()) as error:
                if not daemon.alive:
                    reason = f"ended with status {daemon.process.returncode}"
                elif time.monotonic() > deadline:
                    reason = f"does not answer within {seconds:g} s ({error})"
                else:
                    time.sleep(0.02)
                    continue
                raise ServerError(
                    f"{self.product} {reason}:\n{daemon.log_tail()}"
                ) from error
            return

    def _connect_to_socket(self) -> None:
        # PyMySQL 1.2 leaves a socket open when it cannot connect one.
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket_path))

    # For tests

    @property
    def certificate(self) -> Certificate:
        """Return the server's certificate, which is its own authority."""
        if self._certificate is None:
            raise ServerError(f"This {self.product} was not made with tls=True")
        return self._certificate

    def url(
        self,
        *,
        database: str | None = None,
        drivername: str | None = None,
        user: str = APP_USER,
        password: str | None = APP_PASSWORD,
        **query: str,
    ) -> URL:
        """Return the address of a database, by default for the app's account."""
        return URL.create(
            drivername or self.default_driver,
            username=user,
            password=password,
            host="127.0.0.1",
            port=self.port,
            database=database,
            query=query,
        )

    def create_database(self) -> str:
        """Create an empty database that the app's account owns; return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._create_database(name)
        return name

    def drop_database(self, name: str) -> None:
        """End the sessions of a database and remove it."""
        for session_id in self.session_ids(user="", database=name):
            with contextlib.suppress(TimeoutError):
                self.kill_session(session_id)
        self._drop_database(name)

    def execute(self, sql: str, *, database: str | None = None) -> None:
        """Run a statement as administrator, in a session of its own."""
        self._run(sql, database)

    def query(self, sql: str, *, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run a query as administrator, in a session of its own."""
        return self._run(sql, database)

    def kill_session(self, session_id: int) -> None:
        """End a session from the server's side and wait until it is gone."""
        self._kill_session(session_id)
        wait_until(
            lambda: session_id not in self.session_ids(user=""),
            what=f"the end of session {session_id} of {self.product}",
        )

    @abstractmethod
    def session_ids(
        self, *, user: str = APP_USER, database: str | None = None
    ) -> set[int]:
        """Return the ids of client sessions other than the one that asks.

        :param user: whose sessions, empty for everybody's.
        :param database: in which database, None for all.
        """

    # What each product does its own way

    @property
    @abstractmethod
    def socket_path(self) -> Path: ...

    @abstractmethod
    def tls_query(self) -> dict[str, str]:
        """Return what a URL needs so that the driver checks the certificate."""

    @abstractmethod
    def _account(self) -> pwd.struct_passwd | None: ...

    @abstractmethod
    def _copy_data(self) -> None: ...

    @abstractmethod
    def _command(self) -> list[str | Path]: ...

    @abstractmethod
    def _connect_errors(self) -> type[Exception]: ...

    @abstractmethod
    def _run(self, sql: str, database: str | None) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _create_app_user(self) -> None: ...

    @abstractmethod
    def _create_database(self, name: str) -> None: ...

    @abstractmethod
    def _drop_database(self, name: str) -> None: ...

    @abstractmethod
    def _kill_session(self, session_id: int) -> None: ...
