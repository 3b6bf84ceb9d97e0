"""Ask a server for a page, many at a time, each client again as soon as it can.

    python -m benchmarks.load PORT PATH CLIENTS WARM_SECONDS SECONDS

Prints what it saw as JSON. One thread and plain sockets, so that it takes little of
the processors that it shares with the server.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

from benchmarks.processes import run_python

HOST = "127.0.0.1"
# How long to wait for the answers that are under way at the end.
DRAIN_SECONDS = 40.0
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Seen:
    """What clients saw.

    :ivar done: answers with status 200 within the time that is measured.
    :ivar in_time: answers with any status within that time.
    :ivar latencies: seconds of each request that was answered within that time or was
        under way at its end, of any status. To leave out what began before would
        leave out those who wait longest.
    :ivar timeouts: how many of these were answered with status 503.
    :ivar failures: how many ended in any other way.
    :ivar broken: of these, how many got no answer: the worker was killed.
    :ivar answered: all that were answered, before and after that time too.
    :ivar clients_core: the share of a core that the clients took.
    :ivar app_seconds: of a processor that the app took, for all that were answered.
    """

    seconds: float
    done: int = 0
    in_time: int = 0
    latencies: list[float] = field(default_factory=list)
    timeouts: int = 0
    failures: int = 0
    broken: int = 0
    answered: int = 0
    clients_core: float = 0.0
    app_seconds: float = 0.0


class Client:
    """One connection with a request under way."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self.begin()

    def begin(self) -> None:
        """Connect."""
        self.socket = socket.create_connection((HOST, self._port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """Send the request."""
        self.answer = b""
        self.began_at = time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> int | None:
        """Read what is there; return the status when all is, 0 if it broke off."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        self.answer += data
        head, found, body = self.answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if found and length and len(body) >= int(length[1]):
            return int(head.split(b" ", 2)[1])
        return None if data else 0

    @property
    def closes(self) -> bool:
        """Tell whether the server will close the connection."""
        return b"connection: close" in self.answer.lower()


def load(port: int, path: str, clients: int, warm: float, seconds: float) -> Seen:
    """Ask for a while.

    :param warm: seconds before anything counts.
    """
    seen = Seen(seconds)
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        client = Client(port, request)
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.ask()
    start = time.perf_counter() + warm
    end = start + seconds
    processor = time.process_time()
    while selector.get_map() and time.perf_counter() < end + DRAIN_SECONDS:
        for key, _ in selector.select(1.0):
            client = key.data
            status = client.read()
            if status is None:
                continue
            now = time.perf_counter()
            seen.answered += status != 0
            if now >= start:
                seen.latencies.append(now - client.began_at)
                seen.timeouts += status == 503
                seen.failures += status not in (200, 503)
                seen.broken += status == 0
            if start <= now < end:
                seen.in_time += status != 0
                seen.done += status == 200
            if now >= end or status == 0 or client.closes:
                selector.unregister(client.socket)
                client.socket.close()
            if now >= end:
                continue
            if client.socket.fileno() < 0:
                client.begin()
                selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask()
    seen.failures += len(selector.get_map())
    seen.clients_core = (time.process_time() - processor) / (warm + seconds)
    return seen


def load_from_outside(
    port: int, path: str, *, clients: int, warm: float, seconds: float
) -> Seen:
    """Do the same in a process of its own."""
    arguments = (str(each) for each in (port, path, clients, warm, seconds))
    return Seen(**json.loads(run_python("-m", "benchmarks.load", *arguments)))


def main() -> None:
    """Ask, and print what was seen."""
    _, port, path, clients, warm, seconds = sys.argv
    seen = load(int(port), path, int(clients), float(warm), float(seconds))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
