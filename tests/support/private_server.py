"""Start and end a server that only this machine and this user can reach."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from tests.support.processes import Daemon
from tests.support.tls import Certificate
from tests.support.waiting import free_port

# Beyond this a Unix socket's path does not fit into `sockaddr_un`.
SOCKET_PATH_LIMIT = 107
# What every server's log says when it could not have its port.
PORT_IS_TAKEN = "Address already in use"


class MissingServerError(RuntimeError):
    """A server cannot be started because its programs are not installed."""

    def __init__(self, product: str, remedy: str) -> None:
        super().__init__(f"{product} is not installed. {remedy}")
        self.product, self.remedy = product, remedy

    def __reduce__(self) -> tuple[type[MissingServerError], tuple[str, str]]:
        return type(self), (self.product, self.remedy)


class ServerError(RuntimeError):
    """A server did not start, or is not the caller's to stop."""


@dataclass(frozen=True, slots=True)
class Loan:
    """What another process must know of a server to use it."""

    port: int
    folder: Path
    pid: int
    bin_dir: Path | None


class PrivateServer(ABC):
    """Run a server in a folder of its own, on a loopback port and a socket."""

    product: ClassVar[str]
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
        self._borrowed: Loan | None = None

    def __repr__(self) -> str:
        state = f"running, pid {self.pid}" if self.running else "stopped"
        return f"<{type(self).__name__} on port {self.port}, {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def loan(self) -> Loan:
        """Return what another process needs to use this server."""
        return Loan(self.port, self.folder, self.pid, self._bin_dir)

    def borrowed(self, loan: Loan) -> Self:
        """Return this server as one that another process runs.

        It can be used, but not stopped: other workers use it at the same time.
        """
        self.port, self.folder, self._bin_dir = loan.port, loan.folder, loan.bin_dir
        self._borrowed = loan
        return self

    @property
    def certificate(self) -> Certificate:
        """Return the server's certificate, which is its own authority."""
        if self._certificate is None:
            raise ServerError(f"This {self.product} was not made with tls=True")
        return self._certificate

    @property
    def running(self) -> bool:
        """Tell whether the server's process is there."""
        if self._borrowed is not None:
            return True  # else everything that asks it fails, and says so
        return self._daemon is not None and self._daemon.alive

    @property
    def pid(self) -> int:
        """Return the process id of the server."""
        if self._borrowed is not None:
            return self._borrowed.pid
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
        # A server that crashed, or that a test killed by its pid, is tidied up:
        # its watchdog would remove the folder in the end.
        self.stop()
        first = self.port == 0
        try:
            if first:
                self._prepare()
            while not self._launch():
                if not first:
                    raise ServerError(f"Port {self.port} of {self!r} was taken")
                # Somebody was faster since the port was found free.
                self.port = free_port()
            if first:
                self._set_up()
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Shut the server down in good order; its data stays for `start`."""
        self._must_be_ours()
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
        self._must_be_ours()
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

    def _must_be_ours(self) -> None:
        if self._borrowed is not None:
            raise ServerError(
                f"All workers use this {self.product}: a test that stops or "
                "reconfigures its server needs the fixture `own_server`"
            )

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

    def _launch(self, *, seconds: float = 30.0) -> bool:
        """Start the program and wait; return False if its port is taken."""
        self._daemon = daemon = Daemon(
            self._command(),
            log=self.folder / "log",
            account=self._account(),
            cwd=self.folder,
            clear_up=self.folder,
        )
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._connect_to_socket()
                self._ask()
            except (OSError, self._connect_errors()) as error:
                if daemon.alive and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.stop()
                if PORT_IS_TAKEN in daemon.log_tail():
                    return False
                status = daemon.process.returncode
                raise ServerError(
                    f"{self.product} did not start ({error}; status {status}):\n"
                    f"{daemon.log_tail()}"
                ) from error
            return True

    def _connect_to_socket(self) -> None:
        # PyMySQL 1.2 leaves a socket open when it cannot connect one.
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket_path))

    # What each product does its own way

    @property
    @abstractmethod
    def socket_path(self) -> Path:
        """Return the path of the server's Unix socket."""

    @abstractmethod
    def _account(self) -> pwd.struct_passwd | None: ...

    @abstractmethod
    def _copy_data(self) -> None: ...

    @abstractmethod
    def _command(self) -> list[str | Path]: ...

    @abstractmethod
    def _connect_errors(self) -> type[Exception]: ...

    @abstractmethod
    def _ask(self) -> None:
        """Connect and run a query, to see whether the server is up."""

    @abstractmethod
    def _set_up(self) -> None:
        """Make what the tests need, once the server is up for the first time."""
