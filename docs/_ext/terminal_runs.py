"""Runs of ``flask pool`` on terminals of their own, for pictures of what they print.

The app is ``cafe/cafe.py``, on SQLite. All commands are run once, when the first
picture needs one, side by side: about six seconds.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pty
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pool_charts import Lost, at_once
from svg_terminal import COLUMNS, ESCAPE, Terminal

APP = Path(__file__).with_name("cafe") / "cafe.py"
LONGEST_SECONDS = 60
STATUS = "flask --app cafe pool status"
DOCTOR = "flask --app cafe pool doctor --seconds 0"
TUNE = (
    "flask --debug --app cafe pool tune --url /menu --processes 1 --threads 6"
    " --max-size 4 --rounds 1 --seconds 0.3"
)
# A verdict goes on in lines that are indented.
VERDICT = re.compile(r".+(?:\n +.+)*")


@functools.cache
def outputs() -> dict[str, str]:
    """Return what each command prints."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        in_trouble, tuned = at_once(
            lambda: while_in_trouble(folder), lambda: printed(TUNE, folder)
        )
    return {**in_trouble, TUNE: tuned}


def while_in_trouble(folder: Path) -> dict[str, str]:
    """Return what the commands print that look at a running app."""
    with cafe(folder):
        status, doctor = at_once(
            lambda: printed(STATUS, folder), lambda: printed(DOCTOR, folder)
        )
    return {STATUS: status, DOCTOR: doctor}


@contextlib.contextmanager
def cafe(folder: Path) -> Iterator[None]:
    """Run the app until it is in trouble, and keep it there."""
    with (
        subprocess.Popen(  # noqa: S603 (our own app)
            [sys.executable, str(APP)],
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
        killed_late(process),
    ):
        if not (process.stdout and process.stdout.readline()):
            raise Lost("the app has ended")
        yield


def printed(command: str, folder: Path) -> str:
    """Return what a command prints on a terminal, with its escape sequences."""
    terminal, inner = pty.openpty()
    with (
        tempfile.TemporaryFile() as errors,
        open(terminal, "rb", buffering=0) as screen,
        subprocess.Popen(  # noqa: S603 (the commands of this module)
            [sys.executable, "-m", *command.split()],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=inner,
            stderr=errors,
        ) as process,
        killed_late(process),
    ):
        os.close(inner)
        output = b"".join(iter(lambda: _read(screen.fileno()), b"")).decode()
        errors.seek(0)
        if not output:
            raise Lost(errors.read().decode().strip() or f"{command} printed nothing")
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "web1", output)


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # how Linux says that the command has closed its terminal
        return b""


@contextlib.contextmanager
def killed_late(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the build end if a process does not."""
    timer = threading.Timer(LONGEST_SECONDS, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def environment() -> dict[str, str]:
    """Return the builder's variables without those that change what is printed."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLASK_", "POOLGUARD_", "NO_COLOR"))
    }
    path = [str(APP.parent), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {
        "COLUMNS": str(COLUMNS),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": os.pathsep.join(path),
        "TERM": "xterm-256color",
    }


def screen(command: str, needs: str, shows: str) -> Terminal:
    """Return a command's picture.

    :param needs: what the output must have.
    :param shows: what is to be seen besides the verdict.
    """
    output = outputs()[command]
    plain = ESCAPE.sub("", output).replace("\r", "")
    verdict = VERDICT.match(plain)
    if verdict is None or needs not in plain:
        raise Lost(f"{command} printed:\n{plain}")
    says = " ".join(verdict[0].split())
    alt = f"“{command}” in a terminal. {shows} The verdict is: {says}"
    return Terminal(alt, command, output)


TERMINALS: dict[str, Callable[[], Terminal]] = {
    "status": lambda: screen(
        STATUS,
        "Held now",
        "The levels of the findings are in colour, and so are, in the table of workers,"
        " a pool with all connections out, its waiting request and the time for which"
        " a connection is held.",
    ),
    "doctor": lambda: screen(
        DOCTOR,
        "explain leak",
        "Each finding begins with its level in colour: a pool that is used up,"
        " connections that are held for long, and a leak.",
    ),
    "tune": lambda: screen(
        TUNE,
        "POOLGUARD_POOL_SIZE =",
        "The size to set, notes with their levels in colour, and a table of pool sizes"
        " with throughput and latency.",
    ),
}
