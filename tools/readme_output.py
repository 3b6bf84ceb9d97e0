"""Write into README.md what the commands print for the app that README.md shows.

``make readme`` runs this. It takes the app from README.md, runs it with ``flask run``,
sends the requests that README.md tells to send, and puts the output of each command
between that command's marks. What differs from run to run (process id, host, times,
folder, thread numbers, SQLite's version) is replaced in the report before it is
rendered, so that lines break where they would. ``--check`` changes nothing and ends
with 1 if README.md shows something else.
"""

import contextlib
import dataclasses
import difflib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from click.testing import CliRunner
from flask import Flask
from flask.cli import FlaskGroup

from flask_poolguard.cli import current
from flask_poolguard.report import Report, make_report

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MARKED = re.compile(
    r"(?P<begin><!-- output of flask --app shop (?P<command>[a-z ]+) -->\n```text\n)"
    r"(?P<output>.*?)(?P<end>```\n<!-- end of output -->)",
    re.S,
)
APP = re.compile(r"```python\n(# shop\.py\n.*?)```", re.S)
LISTENS = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")

REQUESTS = 3  # one more than the app's pool has connections
WAITED_SECONDS = 5.0  # from here on doctor takes the wait for critical
READY_TIMEOUT_SECONDS = 60.0
# On a busy machine the requests may be over before the last command looks.
ATTEMPTS = 3

# What stands in README.md for what differs from run to run.
PID = 4123
HOST = "web1"
TAKEN_AT = "2026-01-05T10:00:00.000+00:00"
SECONDS = 7.8
PLACE = "/srv"
AGES = frozenset({"held_seconds", "longest_held_seconds", "oldest_wait_seconds"})
PATTERNS = (
    (re.compile(r"\b\d+(\.\d)?s\b"), f"{SECONDS}s"),
    (re.compile(r"\b\d+\.\d s\b"), f"{SECONDS} s"),
    (re.compile(r"\bSQLite [\d.]+"), "SQLite 3.40.1"),
)


class OutputError(Exception):
    """The output could not be made; the message says why."""


def settle(report: Report, folder: Path) -> Report:
    """Return a report in which everything that differs from run to run is replaced.

    :param folder: where the app is.
    """
    pids = {worker.pid for worker in report.workers}
    threads: dict[str, str] = {}

    def settled(value: Any, name: str = "") -> Any:
        if name == "host" and value is not None:
            return HOST
        if isinstance(value, str):
            for pid in pids:
                value = re.sub(rf"\b{pid}\b", str(PID), value)
            for pattern, text in PATTERNS:
                value = pattern.sub(text, value)
            if name == "thread":
                number = threads.setdefault(value, str(len(threads) + 1))
                value = re.sub(r"\d+", number, value, count=1)
            return value.replace(str(folder.parent), PLACE)
        if name in AGES and value is not None:
            return SECONDS
        if name == "pid":
            return PID
        if isinstance(value, tuple):
            return tuple(settled(each) for each in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [each.name for each in dataclasses.fields(value) if each.init]
            return dataclasses.replace(
                value, **{each: settled(getattr(value, each), each) for each in fields}
            )
        return value

    same: Report = settled(report)
    return dataclasses.replace(same, taken_at=TAKEN_AT)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the app as README.md tells, and yield the address of the server."""
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "shop", "run", "--port", "0"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not (found := LISTENS.search(log.read_text())):
            if server.poll() is not None or time.monotonic() > deadline:
                raise OutputError(f"the app does not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield found[1]
    finally:
        server.kill()  # in the middle of its requests, whose answers are not read
        server.wait()


def ask(url: str) -> None:
    """Send a request whose answer does not matter."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError):  # the server is ended first
        opener.open(url).close()


def fill_pool(url: str, app: Flask) -> None:
    """Send the requests, and return once the last of them has waited for long."""
    for _ in range(REQUESTS):
        threading.Thread(target=ask, args=(f"{url}/slow",), daemon=True).start()
    state = app.extensions["poolguard"]
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with app.app_context():
            report = make_report(
                app, state.config, state.engines, with_this_process=False
            )
        waits = [
            pool.oldest_wait_seconds or 0.0
            for worker in report.workers
            for pool in worker.pools
        ]
        if waits and max(waits) >= WAITED_SECONDS:
            return
        time.sleep(0.1)
    raise OutputError("no request waits for a connection")


def printed(command: str, app: Flask, folder: Path) -> str:
    """Return what a command prints about the running app, without what differs."""

    def make_settled(*arguments: Any, **options: Any) -> Report:
        return settle(make_report(*arguments, **options), folder)

    group = FlaskGroup(create_app=lambda: app)
    with mock.patch.object(current, "make_report", make_settled):
        result = CliRunner().invoke(group, command.split())
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def app_of(readme: str, folder: Path) -> Flask:
    """Write the app that README.md shows to the folder, and return it."""
    found = APP.search(readme)
    if not found:
        raise OutputError("README.md has no app that begins with # shop.py")
    (folder / "shop.py").write_text(found[1])
    sys.path.insert(0, str(folder))
    app: Flask = import_module("shop").create_app()
    return app


def rewritten(readme: str) -> str:
    """Return README.md's text with the output of now."""
    with tempfile.TemporaryDirectory(prefix="poolguard-readme-") as temporary:
        folder = Path(temporary).resolve() / "shop"
        folder.mkdir()
        os.environ["XDG_RUNTIME_DIR"] = temporary  # of the state files
        os.environ.pop("DATABASE_URL", None)
        app = app_of(readme, folder)
        commands = [found["command"] for found in MARKED.finditer(readme)]
        if not commands:
            raise OutputError("README.md has no marks of a command's output")
        for _ in range(ATTEMPTS):
            with serving(folder) as url:
                fill_pool(url, app)
                outputs = {each: printed(each, app, folder) for each in commands}
            if all(each.startswith("CRITICAL") for each in outputs.values()):
                break
        else:
            raise OutputError(f"the pool did not stay full: {outputs}")
    return MARKED.sub(
        lambda found: found["begin"] + outputs[found["command"]] + found["end"], readme
    )


def main() -> int:
    """Write or check README.md and return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as on Ctrl-C
    os.environ["TZ"] = "UTC"
    time.tzset()
    before = README.read_text()
    try:
        after = rewritten(before)
    except OutputError as error:
        print(f"README.md's output cannot be made: {error}", file=sys.stderr)
        return 2
    if "--check" not in sys.argv[1:]:
        README.write_text(after)
        return 0
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "README.md", "now", lineterm=""
    )
    print("\n".join(lines), end="")
    return int(before != after)


if __name__ == "__main__":
    raise SystemExit(main())
