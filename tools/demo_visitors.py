"""The visitors of the demo: what they ask of the running example app, and how often."""

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

PAGES = ["/", "/members", "/journal", "/api/books", "/?q=moby"]
READERS, REQUESTS_PER_READER, PAUSE_SECONDS = 3, 500, 0.05
SLEEPERS, REQUESTS_PER_SLEEPER = 5, 20

# A busy machine needs more than the second that a request takes.
REQUEST_TIMEOUT_SECONDS = 20.0


class Answer(NamedTuple):
    """What the desk sent back; status 0 if there was no answer."""

    status: int
    body: str = ""
    location: str = ""


class Desk:
    """The running app as its visitors see it: an HTTP server on a loopback port.

    It counts the answers, times them, and notes those that are no success.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()  # protects the four below
        self.slowest_seconds: dict[str, float] = {}
        self.answered: Counter[str] = Counter()
        self.workers: set[str] = set()
        self.unexpected: list[str] = []

    @property
    def url(self) -> str:
        """Return where a browser finds it."""
        return f"http://127.0.0.1:{self._port}"

    def slowest(self, paths: Iterable[str]) -> tuple[str, float]:
        """Return which of the paths took longest, and the seconds of that answer."""
        with self._lock:
            times = [(self.slowest_seconds.get(each, 0.0), each) for each in paths]
        seconds, path = max(times)
        return path, seconds

    def forget_times(self) -> None:
        """Begin to look for the slowest answers anew."""
        with self._lock:
            self.slowest_seconds.clear()

    def visit(self, path: str, form: str | None = None, expected: int = 200) -> Answer:
        """Send one request and return the answer.

        :param form: an encoded form to post, or None to get the page.
        :param expected: the HTTP status that is no surprise; a 409 never is one,
            because another visitor may have been quicker.
        """
        began = time.monotonic()
        try:
            answer, worker = self._send(path, form)
        except (OSError, http.client.HTTPException) as error:
            answer, worker = Answer(0, repr(error)), None
        took = time.monotonic() - began
        with self._lock:
            self.slowest_seconds[path] = max(took, self.slowest_seconds.get(path, 0.0))
            if answer.status:
                self.answered[path] += 1
            if worker:
                self.workers.add(worker)
            if answer.status not in (expected, 409):
                reason = answer.status or answer.body
                self.unexpected.append(f"{path} was answered with {reason}")
        return answer

    def _send(self, path: str, form: str | None) -> tuple[Answer, str | None]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=REQUEST_TIMEOUT_SECONDS
        )
        try:
            if form is None:
                connection.request("GET", path)
            else:
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                connection.request("POST", path, form, kind)
            response = connection.getresponse()
            body = response.read().decode()
            location = response.headers.get("Location", "")
            worker = response.headers.get("X-Worker-Pid")
            return Answer(response.status, body, location), worker
        finally:
            connection.close()


class Traffic:
    """The visitors: threads that read, borrow and dawdle until told to stop.

    :param slow_path: what those ask for who dawdle.
    """

    def __init__(self, desk: Desk, slow_path: str) -> None:
        self._desk = desk
        self._slow_path = slow_path
        self._stopping = threading.Event()
        roles = [(self._read, READERS), (self._dawdle, SLEEPERS)]
        self._threads = [
            threading.Thread(target=role, args=(number,), daemon=True)
            for role, count in roles
            for number in range(count)
        ]

    def start(self) -> None:
        """Let the visitors in."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask the visitors to go, and wait until they have their last answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(REQUEST_TIMEOUT_SECONDS)

    def _read(self, number: int) -> None:
        """Look at the pages; every tenth time borrow a book and bring it back."""
        for turn in range(REQUESTS_PER_READER):
            if turn % 10 == number:
                self._borrow()
            self._desk.visit(PAGES[turn % len(PAGES)])
            if self._stopping.wait(PAUSE_SECONDS):
                return

    def _borrow(self) -> None:
        listed = self._desk.visit("/api/books").body or '{"books": []}'
        on_shelf = [
            book["id"] for book in json.loads(listed)["books"] if book["on_shelf"]
        ]
        if not on_shelf:
            return
        page = f"/books/{on_shelf[0]}"
        member = re.search(r'<option value="(\d+)">', self._desk.visit(page).body)
        if member:
            lent = self._desk.visit(f"{page}/loans", f"member_id={member[1]}", 303)
            if loan := re.search(r"#loan-(\d+)$", lent.location):
                self._desk.visit(f"/loans/{loan[1]}/return", "", 303)

    def _dawdle(self, _: int) -> None:
        """Keep a slow request under way, one after the other."""
        for _ in range(REQUESTS_PER_SLEEPER):
            if self._stopping.is_set():
                return
            self._desk.visit(self._slow_path, "")
