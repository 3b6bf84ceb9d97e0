"""Fetch SQLAlchemy's own tests of its pools, and run them on a pool of our choice.

They are part of the source distribution only, from where they test the SQLAlchemy
that is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL

from tests.support.app_server import REPOSITORY
from tests.support.downloads import locked_cache
from tests.support.processes import Daemon

POOL_TESTS = "test_pool.py"
RECONNECT_TESTS = "test_reconnect.py"
FOLDER = "test/engine"

# What the tests need of the source distribution besides the installed package.
NEEDED_FOLDERS = ("test/engine/", "lib/sqlalchemy/testing/")
NEEDED_FILES = (
    *("pyproject.toml", "setup.cfg"),
    *("test/__init__.py", "test/conftest.py", "test/requirements.py"),
)

DOWNLOAD_SECONDS = 60
# The longest of the tests takes 5 s; one that waits for ever is named when it fails.
TEST_SECONDS = 25
RUN_SECONDS = 100


class MissingSuiteError(RuntimeError):
    """SQLAlchemy's tests cannot be had here."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The tests of SQLAlchemy {sqlalchemy.__version__} cannot be had. They are"
            " in its source distribution, which pip fetches from the package index"
            f" that it is configured for. ({reason})"
        )


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """What became of SQLAlchemy's tests.

    :ivar outcomes: by test id, without what depends on pool and database.
    :ivar pools: how many pools were made, by the names of their classes.
    :ivar sqlalchemy: the file of the SQLAlchemy that was tested.
    :ivar log: what pytest printed.
    """

    outcomes: dict[str, str]
    pools: dict[str, int]
    sqlalchemy: str
    log: str

    def tests(self, outcome: str) -> set[str]:
        """Return the tests that were `passed`, `failed`, `skipped` or `xfailed`."""
        return {test for test, found in self.outcomes.items() if found == outcome}

    def summary(self) -> str:
        """Return pytest's last line and the pools that were made, for people."""
        pools = ", ".join(f"{n} {name}" for name, n in sorted(self.pools.items()))
        last_line = self.log.strip().rpartition("\n")[2].strip("= ")
        return f"{last_line}; pools made: {pools}"


def fetch_archive() -> Path:
    """Return the installed SQLAlchemy's source distribution, downloaded if need be.

    :raises MissingSuiteError: if it cannot be had here.
    """
    if not hasattr(tarfile, "data_filter"):
        raise MissingSuiteError("Unpacking it safely takes Python 3.11.4 or newer.")
    name = f"sqlalchemy-{sqlalchemy.__version__}"
    try:
        with locked_cache(f"{name}.lock") as cache:
            archive = cache / f"{name}.tar.gz"
            if not archive.exists():
                _download(archive)
    except subprocess.CalledProcessError as error:
        raise MissingSuiteError(_last_line(error.stderr)) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingSuiteError(str(error)) from error
    return archive


def _download(archive: Path) -> None:
    """Fetch the archive, all or nothing. pip checks the index's hash of it."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as name:
        # Only SQLAlchemy is wanted as source: pip asks it for its metadata, and
        # building the tools for that from source too takes minutes.
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input"),
                *("--disable-pip-version-check", "--retries", "1"),
                *("--no-deps", "--no-binary", "sqlalchemy", "--dest", name),
                f"sqlalchemy=={sqlalchemy.__version__}",
            ],
            check=True,
            capture_output=True,
            encoding="utf-8",
            timeout=DOWNLOAD_SECONDS,
        )
        (found,) = Path(name).glob("*.tar.gz")
        found.rename(archive)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else text.strip()[-200:]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the tests; return the folder to run them in."""
    with tarfile.open(archive) as tar:
        members = list(_needed(tar))
        tar.extractall(folder, members, filter="data")
    (root,) = folder.iterdir()
    return root


def _needed(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        path = member.name.partition("/")[2]
        if path in NEEDED_FILES or path.startswith(NEEDED_FOLDERS):
            yield member


class SuiteProcess:
    """Run SQLAlchemy's tests in a process of their own.

    :param pool: `stock` or `guarded`.
    :param files: which tests, by file.
    :param url: a database that nobody else uses; none is SQLite in memory.
    :param folder: an empty one to work in.
    """

    def __init__(
        self,
        archive: Path,
        *,
        pool: str,
        files: Sequence[str],
        url: URL | None,
        folder: Path,
    ) -> None:
        # SQLite's tests leave files in it, so no two runs share one.
        root = unpack(archive, folder / "source")
        self._result = folder / "result.json"
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short"),
            *("-p", "no:cacheprovider", "-p", "pytest_timeout"),
            *("-p", "tests.support.guarded_suite_plugin"),
            *("--timeout", str(TEST_SECONDS)),
            *("--suite-pool", pool, "--suite-result", str(self._result)),
            *(f"{FOLDER}/{name}" for name in files),
        ]
        if url is not None:
            command += ["--dburi", url.render_as_string(hide_password=False)]
        self._process = Daemon(
            command, log=folder / "log.txt", env=_environment(), cwd=root
        )
        self._deadline = time.monotonic() + RUN_SECONDS

    def finish(self) -> SuiteRun:
        """Wait for the end and return what was found."""
        try:
            self._process.process.wait(max(self._deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            tail = self._process.log_tail()
            raise AssertionError(f"It took over {RUN_SECONDS} s:\n{tail}") from None
        finally:
            self.stop()
        log = self._process.log_text()
        assert self._result.exists(), log
        return SuiteRun(log=log, **json.loads(self._result.read_text()))

    def stop(self) -> None:
        """End it, if it has not ended."""
        self._process.stop()


def _environment() -> dict[str, str]:
    """Return variables that keep our test run's settings out of SQLAlchemy's."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_")
    }
    return env | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        # SQLAlchemy's conftest then takes the package that is installed, instead of
        # looking for the source distribution's.
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
