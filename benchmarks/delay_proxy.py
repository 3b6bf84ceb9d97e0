"""Stand between a client and its server, as far away as wanted.

    python -m benchmarks.delay_proxy HOST PORT SECONDS

Prints the port on which it listens. It is a process of its own, so that its work does
not hold up the client's threads.
"""

from __future__ import annotations

import contextlib
import queue
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from benchmarks.processes import REPOSITORY
from tests.support.processes import Daemon
from tests.support.proxy import TCPProxy
from tests.support.waiting import wait_until


class DelayProxy(TCPProxy):
    """Pass everything on later than it came."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        """Start to listen.

        :param seconds: how long each direction takes.
        """
        self._seconds = seconds
        super().__init__(host, port)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        # A segment that waits for others would add a delay that nobody ordered.
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        chunks: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._spawn(self._deliver, chunks, target)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                chunks.put((time.monotonic() + self._seconds, data))
        chunks.put((time.monotonic(), b""))
        self._end(source)

    def _deliver(
        self, chunks: queue.SimpleQueue[tuple[float, bytes]], target: socket.socket
    ) -> None:
        while True:
            due, data = chunks.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            with contextlib.suppress(OSError):
                target.sendall(data)
        self._end(target)


class CountingProxy(TCPProxy):
    """Count how often a client speaks."""

    turns = 0

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        if target.getpeername() != self._target:
            super()._pump(source, target)
            return
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.turns += 1
                target.sendall(data)
        self._end(source)
        self._end(target)


@contextlib.contextmanager
def delayed(url: sa.URL, seconds: float) -> Iterator[sa.URL]:
    """Give the address of a server that is farther away.

    :param seconds: how long each direction takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(
            [
                *(sys.executable, "-u", "-m", "benchmarks.delay_proxy"),
                *(str(url.host), str(url.port), str(seconds)),
            ],
            log=Path(folder) / "log",
            cwd=REPOSITORY,
        )
        try:
            wait_until(
                lambda: re.search(r"^\d+\n", daemon.log_text()) or not daemon.alive
            )
            yield url.set(port=int(daemon.log_text()))
        finally:
            daemon.stop()


def main() -> None:
    """Pass on until the end."""
    _, host, port, seconds = sys.argv
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with DelayProxy(host, int(port), float(seconds)) as proxy:
        print(proxy.port)
        ended.wait()


if __name__ == "__main__":
    main()
