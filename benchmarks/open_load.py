"""Ask a server for a page at a fixed rate, however long its answers take.

    python -m benchmarks.open_load PORT PATH RATE WARM_SECONDS SECONDS

Prints what it saw as JSON. Each request has a connection of its own, and its latency
counts from the moment at which it was due, so that a late client does not make the
server look quicker. One thread and plain sockets, as in `load`.
"""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field

from benchmarks.load import HOST, Client
from benchmarks.processes import run_python

# When a client gives a request up.
PATIENCE_SECONDS = 10.0
# How long to wait at the end for what is under way.
DRAIN_SECONDS = 0.5


@dataclass
class Arrived:
    """What clients saw.

    :ivar seconds: the time that is measured.
    :ivar latencies: seconds of each answer with status 200 within that time.
    :ivar timeouts: answers with status 503 within that time.
    :ivar failures: requests that ended in any other way within that time.
    :ivar given_up: requests that a client gave up, at any time.
    :ivar unanswered: requests under way when the round ended, after a short wait.
    :ivar late_seconds: by how much a request was begun too late, at most.
    :ivar clients_core: the share of a core that the clients took.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    timeouts: int = 0
    failures: int = 0
    given_up: int = 0
    unanswered: int = 0
    late_seconds: float = 0.0
    clients_core: float = 0.0


class Request(Client):
    """One request on a connection of its own."""

    def __init__(self, port: int, request: bytes, due: float) -> None:
        self.due = due
        super().__init__(port, request)

    def begin(self) -> None:
        """Begin to connect; the socket can be written to when that is done."""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((HOST, self._port))


class OpenLoop:
    """The requests under way, and what was seen of those that ended."""

    def __init__(self, port: int, path: str, warm: float, seconds: float) -> None:
        self.seen = Arrived(seconds)
        self._port = port
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
        ).encode()
        self._selector = selectors.DefaultSelector()
        # By the time at which they were due.
        self._under_way: deque[Request] = deque()
        self._begins = time.perf_counter()
        self._start = self._begins + warm
        self._end = self._start + seconds

    def run(self, rate: float) -> None:
        """Send requests until the end, and wait a moment for the last answers.

        :param rate: requests per second.
        """
        processor = time.process_time()
        number = 0
        while True:
            now = time.perf_counter()
            due = self._begins + number / rate
            if due >= self._end:
                if now >= self._end + DRAIN_SECONDS or not self._selector.get_map():
                    break
                due = now + 0.01
            elif due <= now:
                self._send(due, now)
                number += 1
                continue
            self._give_up(now)
            for key, _ in self._selector.select(due - now):
                self._go_on(key.data)
        took = time.perf_counter() - self._begins
        self.seen.clients_core = (time.process_time() - processor) / took
        self.seen.unanswered = len(self._selector.get_map())
        for key in list(self._selector.get_map().values()):
            self._end_of(key.data)

    def _send(self, due: float, now: float) -> None:
        self.seen.late_seconds = max(self.seen.late_seconds, now - due)
        request = Request(self._port, self._request, due)
        self._selector.register(request.socket, selectors.EVENT_WRITE, request)
        self._under_way.append(request)

    def _go_on(self, request: Request) -> None:
        if self._selector.get_key(request.socket).events == selectors.EVENT_WRITE:
            with contextlib.suppress(OSError):  # reading will tell
                request.ask()
            self._selector.modify(request.socket, selectors.EVENT_READ, request)
            return
        status = request.read()
        if status is None:
            return
        self._end_of(request)
        now = time.perf_counter()
        if self._start <= now < self._end:
            if status == 200:
                self.seen.latencies.append(now - request.due)
            self.seen.timeouts += status == 503
            self.seen.failures += status not in (200, 503)

    def _give_up(self, now: float) -> None:
        while self._under_way and self._under_way[0].due + PATIENCE_SECONDS <= now:
            request = self._under_way.popleft()
            if request.socket.fileno() >= 0:
                self._end_of(request)
                self.seen.given_up += 1

    def _end_of(self, request: Request) -> None:
        self._selector.unregister(request.socket)
        request.socket.close()


def arrive(port: int, path: str, rate: float, warm: float, seconds: float) -> Arrived:
    """Ask for a while.

    :param rate: requests per second.
    :param warm: seconds before anything counts.
    """
    loop = OpenLoop(port, path, warm, seconds)
    loop.run(rate)
    return loop.seen


def arrive_from_outside(
    port: int, path: str, *, rate: float, warm: float, seconds: float
) -> Arrived:
    """Do the same in a process of its own."""
    arguments = (str(each) for each in (port, path, rate, warm, seconds))
    return Arrived(**json.loads(run_python("-m", "benchmarks.open_load", *arguments)))


def main() -> None:
    """Ask, and print what was seen."""
    _, port, path, rate, warm, seconds = sys.argv
    # Many requests may be under way at once.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    seen = arrive(int(port), path, float(rate), float(warm), float(seconds))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
