"""Drive a headless Chromium, by its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.support import not_tested
from tests.support.waiting import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = (
    "Chromium is not installed, so no page was looked at:"
    " apt-get install --no-install-recommends chromium"
)
ANSWER_SECONDS = 30.0


class BrowserError(Exception):
    """The browser refused a command, or ended."""


class Browser:
    """A browser with one tab.

    :ivar complaints: what the tab has written to its console, and what it threw.
    """

    def __init__(self, folder: Path, program: str) -> None:
        """Start it.

        :param folder: where it may write.
        """
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._ended = False
        ends = [*os.pipe(), *os.pipe()]
        # Out of the way of 3 and 4: it reads from the one and writes to the other.
        to_read, self._out, self._in, to_write = (
            fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in ends
        )
        for each in ends:
            os.close(each)
        script = f'exec "$@" 3<&{to_read} 4>&{to_write} {to_read}<&- {to_write}>&-'
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                script,
                "chromium",
                program,
                "--headless",
                "--no-sandbox",  # as root there is none
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-proxy-server",
                "--disable-background-networking",
                "--remote-debugging-pipe",
                f"--user-data-dir={folder / 'profile'}",
                "about:blank",
            ],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._session: str | None = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        pages: list[str] = []

        def has_tab() -> bool:
            found = self._ask("Target.getTargets")["targetInfos"]
            pages[:] = [each["targetId"] for each in found if each["type"] == "page"]
            return bool(pages)

        wait_until(has_tab, seconds=ANSWER_SECONDS, what="a tab")
        attached = self._ask("Target.attachToTarget", targetId=pages[0], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(ANSWER_SECONDS)
        os.close(self._in)
        os.close(self._out)

    def look(self, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Give the tab a size in pixels, and the page a colour scheme."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go to an address."""
        self._ask("Page.navigate", url=url)

    def press(self, key: str) -> None:
        """Press a key, such as ``Tab`` or ``Enter``."""
        code = {"Tab": 9, "Enter": 13}[key]
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def run(self, script: str) -> Any:
        """Return what a JavaScript expression says, awaited."""
        found = self._ask(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
        )
        if "exceptionDetails" in found:
            raise BrowserError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """Return what a reader sees of an element; nothing if it is not there."""
        found = f"document.querySelector({json.dumps(selector)})?.innerText"
        return str(self.run(f"{found} ?? ''"))

    def wait_for(self, text: str, selector: str = "body", seconds: float = 30) -> None:
        """Wait until an element says something."""
        try:
            wait_until(lambda: text in self.text(selector), seconds=seconds, what=text)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it says: {self.text()}") from error

    def picture(self, file: Path, most: int | None = None) -> None:
        """Save the page as it looks, as PNG.

        :param most: pixels of its height; None for all.
        """
        height = self.run("document.documentElement.scrollHeight")
        height = height if most is None else min(height, most)
        width = self.run("window.innerWidth")
        found = self._ask(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
        )
        file.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        with self._news:
            self._news.wait_for(
                lambda: number in self._answers or self._ended, ANSWER_SECONDS
            )
            answer = self._answers.pop(number, None)
        if answer is None or "error" in answer:
            raise BrowserError(f"{method}: {answer or 'no answer'}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> None:
        rest = b""
        while part := os.read(self._in, 65536):
            *messages, rest = (rest + part).split(b"\0")
            for each in map(json.loads, messages):
                self._take(each)
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            with self._news:
                self._answers[message["id"]] = message
                self._news.notify_all()
        elif message["method"] in (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
        ):
            self.complaints.append(json.dumps(message["params"])[:1000])


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser, or say that nothing could be looked at."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        not_tested.stop_test(MISSING)
    # Not a test's own folder: the path of its socket there would be too long.
    with (
        tempfile.TemporaryDirectory(
            prefix="poolguard-browser-", ignore_cleanup_errors=True
        ) as folder,
        Browser(Path(folder), program) as started,
    ):
        yield started
