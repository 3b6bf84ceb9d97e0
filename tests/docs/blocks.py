"""What the code blocks of a page do when they are run, and what they must print.

A page is parsed by Sybil; all its blocks share one namespace and one folder. The
database is SQLite, or what the page's first line asks for: ``<!-- needs: mariadb -->``
or ``postgresql``; with ``, alone`` on a server that no other test uses.

- A ```` ```python ```` block is run. If its first line is ``# name.py``, it is written
  to that file and imported; files that are no module, and tests, are only written.
- A ```` ```console ```` block is a transcript: lines that begin with ``$`` are run by
  bash in the folder, and what follows must be what they print.
  ``flask … run`` is a server: it goes on in the background, on a free port instead of
  5000, in the place of an earlier one. ``export`` is for all commands that follow.
- A ```` ```diff ```` block that begins with ``--- name.py`` and ``+++ name.py`` changes
  that file.
- A ```` ```text ```` block below ``<!-- output -->`` is what the Python blocks above
  it print.
- ``...`` in an output stands for any text. Below ``<!-- numbers differ -->`` (for a
  text block ``<!-- output, numbers differ -->``) numbers and line breaks are not
  compared.
- A block in ``<!-- invisible-code-block: python`` … ``-->`` is run, and not shown.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

CONSOLE = re.compile(
    r"^(?P<loose><!-- numbers differ -->\n)?```console\n(?P<text>.*?)^```$", re.M | re.S
)
OUTPUT = re.compile(
    r"^<!-- output(?P<loose>, numbers differ)? -->\n```(text|json)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
FILE = re.compile(r"# ([\w.-]+\.py)\n")
COMMAND = re.compile(r"^\$ (.*(?:\n> .*)*)\n?", re.M)
NUMBERS = re.compile(r"(?:\d+[hm])*\d+(?:[.,:]\d+)*")
SERVER = re.compile(r"flask .*\brun\b")
PORT = "localhost:5000"
COMMAND_SECONDS = 60
START_SECONDS = 30


class Page:
    """One page that is run in the current folder."""

    def __init__(self, path: Path, *, may_write: bool = False) -> None:
        """Parse the page.

        :param may_write: whether outputs that differ are to be noted in `rewritten`.
        """
        parsers = (
            CodeBlockParser(language="python", evaluator=self.run_python),
            CodeBlockParser(language="diff", evaluator=change_file),
            self.find_transcripts,
            self.find_outputs,
        )
        self.document = Document.parse(str(path), *parsers)
        self.document.namespace["__name__"] = "shop"  # for Flask(__name__)
        self.rewritten: list[tuple[int, int, str]] = []
        self._may_write = may_write
        self._printed = ""
        self._commands: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        os.environ["FLASK_RUN_PORT"] = str(self._port)

    def run(self) -> None:
        """Run all blocks, then end what commands have left running.

        Blocks that are not shown have ``closing``, for what is to end with the page.
        """
        with contextlib.ExitStack() as closing:
            closing.callback(self._end_commands)
            self.document.namespace["closing"] = closing
            for example in self.document.examples():
                example.evaluate()

    def text(self) -> str:
        """Return the page's text with the outputs of now."""
        text = self.document.text
        for start, end, output in sorted(self.rewritten, reverse=True):
            text = text[:start] + output + text[end:]
        return text

    def run_python(self, example: Example) -> None:
        """Run a block, or import it as the module that its first line names."""
        printed = io.StringIO()
        file = FILE.match(example.parsed)
        with contextlib.redirect_stdout(printed):
            if file is None:
                PythonEvaluator()(example)
            else:
                example.namespace.update(_module_of(file[1], example.parsed))
        self._printed += printed.getvalue()

    def find_transcripts(self, document: Document) -> Iterator[Region]:
        """Yield the page's transcripts."""
        for found in CONSOLE.finditer(document.text):
            yield Region(*found.span(), found, self.run_transcript)

    def find_outputs(self, document: Document) -> Iterator[Region]:
        """Yield what Python blocks are to print."""
        for found in OUTPUT.finditer(document.text):
            yield Region(*found.span(), found, self.check_output)

    def run_transcript(self, example: Example) -> str | None:
        """Run the commands of a transcript; say how their output differs."""
        text = example.parsed["text"]
        commands = list(COMMAND.finditer(text))
        ends = [each.start() for each in commands[1:]] + [len(text)]
        real = shown = ""
        is_same = True
        for command, end in zip(commands, ends, strict=True):
            output = self._shell(command[1].replace("\n> ", "\n"))
            expected = text[command.end() : end]
            is_same &= _matches(expected, output, loose=bool(example.parsed["loose"]))
            real += command[0] + output
            shown += command[0] + expected
        return None if is_same else self._differs(example, shown, real)

    def check_output(self, example: Example) -> str | None:
        """Say how what was printed since the last such block differs."""
        printed, self._printed = _settled(self._printed), ""
        expected = example.parsed["text"]
        if _matches(expected, printed, loose=bool(example.parsed["loose"])):
            return None
        return self._differs(example, expected, printed)

    def _differs(self, example: Example, expected: str, printed: str) -> str | None:
        if self._may_write:
            start, end = example.parsed.span("text")
            self.rewritten.append((start, end, f"{_without_ends(printed)}\n"))
            return None
        return f"Expected:\n{expected}\nPrinted:\n{printed}"

    def _end_commands(self) -> None:
        """End what commands have left in the background."""
        while self._commands:
            command = self._commands.pop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)
            command.wait()

    def _shell(self, command: str) -> str:
        """Run a command; what it leaves in the background ends with the page."""
        if command.startswith("export "):
            words = shlex.split(os.path.expandvars(command))[1:]
            for name, _, value in (word.partition("=") for word in words):
                os.environ[name] = value
            return ""
        is_server = SERVER.match(command) is not None
        if is_server:
            self._end_commands()
            command = f"exec {command}"  # so that its end is the server's
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["bash", "-c", command.replace(PORT, f"localhost:{self._port}")],
                env={**os.environ, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._commands.append(process)
            if is_server:
                self._wait_for(process)
                return ""
            process.wait(COMMAND_SECONDS)
            output.seek(0)
            return _settled(output.read().decode())

    def _wait_for(self, server: subprocess.Popen[bytes]) -> None:
        """Wait until the server takes connections."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            time.sleep(0.05)
        raise AssertionError(f"the server does not start: {server.args!r}")


def change_file(example: Example) -> None:
    """Replace in a file what a difference takes away by what it adds."""
    head, _, *lines = example.parsed.splitlines()
    path = Path(head.removeprefix("--- "))
    before, after = (
        "".join(f"{line[1:]}\n" for line in lines if line[:1] in signs)
        for signs in ("- ", "+ ")
    )
    text = path.read_text()
    assert text.count(before) == 1, f"{path} has not once:\n{before}"
    path.write_text(text.replace(before, after))


def _module_of(name: str, source: str) -> dict[str, object]:
    """Write a module, import it anew and return its names."""
    Path(name).write_text(source)
    stem = name.removesuffix(".py")
    if not stem.isidentifier() or stem.startswith("test_") or stem == "conftest":
        compile(source, name, "exec")
        return {}
    sys.modules.pop(stem, None)
    importlib.invalidate_caches()
    return dict(vars(importlib.import_module(stem)))


def _settled(output: str) -> str:
    """Replace in an output what no reader has: names of folder, host and database."""
    url = make_url(os.environ["DATABASE_URL"])
    output = output.replace(str(Path.cwd()), "/srv/shop")
    if url.host:
        output = output.replace(f"{url.host}:{url.port}", "db.example")
        output = output.replace(str(url.database), "shop")
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "web1", output)


def _matches(expected: str, printed: str, *, loose: bool) -> bool:
    """Tell whether an output is what a page shows.

    :param loose: do not compare numbers and line breaks.
    """
    shown, real = map(_without_ends, (expected, printed))
    if loose:
        shown, real = (
            NUMBERS.sub("0", " ".join(each.split())) for each in (shown, real)
        )
    pattern = ".*?".join(map(re.escape, shown.split("...")))
    return re.fullmatch(pattern, real, re.S) is not None


def _without_ends(text: str) -> str:
    """Return a text without empty lines around it and blanks at the ends of lines."""
    return "\n".join(map(str.rstrip, text.strip("\n").splitlines()))
