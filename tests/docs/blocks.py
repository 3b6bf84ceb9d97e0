"""What the code blocks of a page do when they are run, and what they must print.

A page is parsed by Sybil; all its blocks share one namespace and one folder.

- A ```` ```python ```` block is run. If its first line is ``# name.py``, it is written
  to that file and imported; files that are no module, and tests, are only written.
- A ```` ```console ```` block is a transcript: lines that begin with ``$`` are run by
  bash in the folder, and what follows must be what they print.
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
import signal
import socket
import subprocess
import sys
import tempfile
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
COMMAND_SECONDS = 60


class Page:
    """One page that is run in the current folder."""

    def __init__(self, path: Path, *, may_write: bool = False) -> None:
        """Parse the page.

        :param may_write: whether outputs that differ are to be noted in `rewritten`.
        """
        parsers = (
            CodeBlockParser(language="python", evaluator=self.run_python),
            self.find_transcripts,
            self.find_outputs,
        )
        self.document = Document.parse(str(path), *parsers)
        self.document.namespace["__name__"] = "shop"  # for Flask(__name__)
        self.rewritten: list[tuple[int, int, str]] = []
        self._may_write = may_write
        self._printed = ""
        self._groups: list[int] = []

    def run(self) -> None:
        """Run all blocks, then end what commands have left running."""
        try:
            for example in self.document.examples():
                example.evaluate()
        finally:
            for group in self._groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)

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
            self.rewritten.append((start, end, printed))
            return None
        return f"Expected:\n{expected}\nPrinted:\n{printed}"

    def _shell(self, command: str) -> str:
        """Run a command; what it leaves in the background ends with the page."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["bash", "-c", command],
                env={**os.environ, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._groups.append(process.pid)
            process.wait(COMMAND_SECONDS)
            output.seek(0)
            return _settled(output.read().decode())


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
