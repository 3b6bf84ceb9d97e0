"""What servers that run a Flask app as in production have in common."""

from __future__ import annotations

import os
import re
import signal
import sys
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.processes import Daemon
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
# The environment of whoever runs the tests may name a proxy; ours is loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class AppServerError(RuntimeError):
    """A server of an app did not start or stop as it should."""


class AppServer(ABC):
    """Run an app in processes of its own, on a free loopback port."""

    # How the server's log says where it listens.
    listening = re.compile(r"http://127\.0\.0\.1:(\d+)")
    # Whether it may be a fork of a process that has the app's libraries loaded.
    forked = True

    def __init__(
        self,
        app: str,
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Prepare a server; nothing happens before `start`.

        :param app: what to import, such as `example_app:create_app()`; it is
            looked for in the folder, then in the repository.
        :param folder: where log and configuration are written.
        :param env: what to add to the environment.
        :param arguments: what to add to the command line.
        """
        self.app = app
        self.folder = folder
        self.port = 0
        self.log = folder / f"{type(self).__name__}-{id(self):x}.log"
        self._env = dict(env or {})
        self._arguments = arguments
        self._daemon: Daemon | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.app} at {self.base_url}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Return the address of the app, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return the id of the process that was started."""
        return self._running_daemon().pid

    def start(self, *, seconds: float = 30.0) -> None:
        """Start the server and wait until it takes requests.

        :param seconds: how long to wait at most.
        :raises AppServerError: with the end of the log, if it does not start.
        """
        self.stop()
        # What an earlier start wrote would be taken for this one's.
        self.log.unlink(missing_ok=True)
        paths = [str(self.folder), str(REPOSITORY)]
        inherited = os.environ.get("PYTHONPATH")
        self._daemon = Daemon(
            [sys.executable, *self._command(), *self._arguments],
            log=self.log,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    paths + ([inherited] if inherited else [])
                ),
                "PYTHONUNBUFFERED": "1",
                **self._env,
            },
            cwd=self.folder,
            forked=self.forked,
        )
        try:
            self._wait_until(self._is_ready, seconds, "takes requests")
        except BaseException:
            self.stop()
            raise
        found = self.listening.search(self.log_text())
        assert found is not None
        self.port = int(found[1])

    def stop(self, *, seconds: float = 10.0) -> None:
        """Let the server finish its requests and end; kill it if it does not.

        :param seconds: how long to wait before it is killed.
        """
        if self._daemon is not None:
            self._daemon.stop(signal.SIGTERM, seconds=seconds)
            self._daemon = None

    def get(self, path: str, *, seconds: float = 30.0) -> tuple[int, str]:
        """Return status and body of the answer to a GET.

        :param seconds: how long each read may take.
        """
        return self._send(path, None, seconds)

    def post(self, path: str, *, seconds: float = 30.0) -> tuple[int, str]:
        """Return status and body of the answer to a POST without data.

        :param seconds: how long each read may take.
        """
        return self._send(path, b"", seconds)

    def _send(self, path: str, data: bytes | None, seconds: float) -> tuple[int, str]:
        try:
            with OPENER.open(self.base_url + path, data, timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def log_text(self) -> str:
        """Return everything that server and app wrote since the last start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _running_daemon(self) -> Daemon:
        if self._daemon is None:
            raise AppServerError(f"{self!r} is not running")
        return self._daemon

    def _wait_until(self, condition: object, seconds: float, what: str) -> None:
        assert callable(condition)
        daemon = self._running_daemon()
        try:
            wait_until(lambda: condition() or not daemon.alive, seconds=seconds)
        except TimeoutError:
            reason = f"waited {seconds:g} s"
        else:
            if daemon.alive:
                return
            reason = f"it ended with status {daemon.process.returncode}"
        raise AppServerError(
            f"In vain for the moment that {self.app} {what}: {reason}\n"
            f"{daemon.log_tail()}"
        )

    def _is_ready(self) -> bool:
        return self.listening.search(self.log_text()) is not None

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the arguments of Python that run the server on port 0."""
