"""The packages of two trees, and processes that measure them.

Only the package is taken from a tree; the measuring code is always this one's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Self, cast

from benchmarks.processes import REPOSITORY

PACKAGE = "flask_poolguard"


class NotMeasuredError(RuntimeError):
    """A tree could not be had, or not be measured; one line says why."""


@contextlib.contextmanager
def trees(base: str) -> Iterator[tuple[Path, Path]]:
    """Give folders with nothing but the package: of another commit, and of this tree.

    :raises NotMeasuredError: the base is no commit with the package.
    """
    try:
        commit = git("rev-parse", "--verify", "--end-of-options", f"{base}^{{commit}}")
    except NotMeasuredError as error:
        reason = f"No commit to compare with: {base!r} ({error})"
        raise NotMeasuredError(reason) from error
    with tempfile.TemporaryDirectory() as folder:
        # Of equal length, and both copies, so that nothing but the code differs.
        there, here = Path(folder, "base"), Path(folder, "here")
        archive = Path(folder, "base.tar")
        git("archive", f"--output={archive}", commit, PACKAGE)
        with tarfile.open(archive) as packed:
            packed.extractall(there, filter="data")
        shutil.copytree(
            REPOSITORY / PACKAGE,
            here / PACKAGE,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        yield there, here


def git(*arguments: str) -> str:
    """Return what git prints.

    :raises NotMeasuredError: with the first line that git complains with.
    """
    try:
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    except OSError as error:
        raise NotMeasuredError(f"git cannot be run: {error}") from error
    except subprocess.CalledProcessError as error:
        line = error.stderr.strip().partition("\n")[0]
        raise NotMeasuredError(f"git {arguments[0]}: {line}") from error


class Tree:
    """A process that measures the guard of one tree, batch by batch."""

    def __init__(self, name: str, folder: Path, urls: Mapping[str, str]) -> None:
        """Prepare it; the process is started by `with`.

        :param name: the measurement's.
        :param urls: of database servers.
        """
        self._folder = folder
        paths = [str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH")]
        self._env = {
            **os.environ,
            "BENCHMARK_SERVERS": json.dumps(dict(urls)),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            # Else the package of the current folder would come first.
            "PYTHONSAFEPATH": "1",
        }
        # Compiled files of the package go into its folder.
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._command = [
            *(sys.executable, "-m", "benchmarks.one_tree"),
            *(name, str(folder)),
        ]

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=REPOSITORY,
            env=self._env,
        )
        self._input = cast("IO[str]", self._process.stdin)
        self._output = cast("IO[str]", self._process.stdout)
        try:
            self.figures: list[str] = json.loads(self._answer())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._process, self._errors, contextlib.suppress(BrokenPipeError):
            self._input.close()  # by which it ends
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def batch(self, figure: str) -> float:
        """Run a batch; return what it found.

        :raises NotMeasuredError: if the process failed.
        """
        with contextlib.suppress(BrokenPipeError):  # it ended, and has said why
            self._input.write(f"{figure}\n")
            self._input.flush()
        return float(self._answer())

    def _answer(self) -> str:
        answer = self._output.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or ["it said nothing"]
            raise NotMeasuredError(f"{self._folder.name}: {lines[-1]}")
        return answer
