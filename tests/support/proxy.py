"""Stand between a client and its server, and misbehave on command."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from abc import ABC, abstractmethod
from typing import Self

from sqlalchemy import URL

HOST = "127.0.0.1"
# How long a thread that is told to end may take, in seconds.
JOIN_SECONDS = 5.0
# "Linger for no time": closing sends RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def shut(end: socket.socket) -> None:
    """Close a socket, and wake up whoever reads from it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


class Listener(ABC):
    """Accept connections on a free loopback port, in a thread."""

    def __init__(self) -> None:
        self._listener = self._listen()
        # Where closing a socket does not wake up `accept`, this does.
        self._listener.settimeout(0.2)
        self.host: str
        self.port: int
        self.host, self.port = self._listener.getsockname()
        self.connections = 0
        self._closed = threading.Event()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        # Protects the two lists, which several threads add to.
        self._lock = threading.Lock()
        self._spawn(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self, *, reset: bool = False) -> None:
        """Close all connections that are open now.

        :param reset: by RST, as a firewall or a reboot does.
        """
        with self._lock:
            # From now on they are ours: a thread that wakes up leaves them alone,
            # lest its FIN gets ahead of the RST.
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                # Wakes up its reader; writing is shut only if a FIN is wanted.
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Close everything and wait for the threads to end."""
        self._closed.set()
        shut(self._listener)
        self.cut()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(JOIN_SECONDS)

    def _listen(self) -> socket.socket:
        return socket.create_server((HOST, 0), backlog=256)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            self._keep(client)
            self._serve(client)

    def _keep(self, end: socket.socket) -> None:
        """Remember a socket, to close it in the end."""
        with self._lock:
            self._ends.append(end)
        if self._closed.is_set():
            self._end(end)

    def _end(self, end: socket.socket) -> None:
        """Close a socket, unless `cut` does so at this moment."""
        with self._lock:
            if end not in self._ends:
                return
            self._ends.remove(end)
        shut(end)

    def _spawn(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    @abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Look after a connection without blocking."""


class SilentServer(Listener):
    """Accept connections and never say a word, like a machine that hangs."""

    def _serve(self, client: socket.socket) -> None:
        pass


class TCPProxy(Listener):
    """Pass on what a client and a server send each other, until told otherwise."""

    def __init__(self, target_host: str, target_port: int) -> None:
        """Start to listen.

        :param target_port: TCP port of the server, which need not run yet.
        """
        self._target = (target_host, target_port)
        self._flowing = threading.Event()
        self._flowing.set()
        super().__init__()

    @classmethod
    def before(cls, url: URL) -> Self:
        """Start to listen, before the server of a database."""
        assert url.host is not None
        assert url.port is not None
        return cls(url.host, url.port)

    def drop(self) -> None:
        """Become a black hole: connections stay open and nothing comes through.

        New connections are accepted, by nobody. What is sent, and that an end
        was closed, is held back until `resume`.
        """
        self._flowing.clear()

    def resume(self) -> None:
        """Pass everything on again, first what was held back."""
        self._flowing.set()

    @property
    def passes_on(self) -> bool:
        """Whether anybody is connected."""
        with self._lock:
            return bool(self._ends)

    def close(self) -> None:
        """Close everything and wait for the threads to end."""
        self._closed.set()
        self._flowing.set()
        super().close()

    def _serve(self, client: socket.socket) -> None:
        self._spawn(self._connect, client)

    def _connect(self, client: socket.socket) -> None:
        self._flowing.wait()
        try:
            server = socket.create_connection(self._target, timeout=JOIN_SECONDS)
        except OSError:
            self._end(client)
            return
        server.settimeout(None)
        self._keep(server)
        self._spawn(self._pump, server, client)
        self._pump(client, server)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        """Copy one direction until either end closes, then close the other."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                target.sendall(self._changed(data))
        self._flowing.wait()
        self._end(source)
        self._end(target)

    def _changed(self, data: bytes) -> bytes:
        """Return what is sent in place of what came."""
        return data


class RenumberingProxy(TCPProxy):
    """Tell clients other numbers of their sessions than the server does, as poolers do.

    It needs connections in the clear.
    """

    # PostgreSQL's BackendKeyData with its length; the start of MySQL's handshake,
    # which begins with its sequence number, the first, the protocol and the version.
    _POSTGRESQL = re.compile(rb"(K\0\0\0\x0c)(.{4})", re.S)
    _MYSQL = re.compile(rb"^(...\0\x0a\d[^\0]*\0)(.{4})", re.S)

    def _changed(self, data: bytes) -> bytes:
        for pattern in (self._POSTGRESQL, self._MYSQL):
            data = pattern.sub(lambda found: found[1] + b"\x00\x00\x30\x39", data, 1)
        return data
