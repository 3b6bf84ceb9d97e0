"""Make the environment of a project, and fetch its tests, once per machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.suites.projects import COMMON, Project
from tests.support.downloads import locked_cache

DOWNLOAD_SECONDS = 300
INSTALL_SECONDS = 900

_PIP = ("-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")


class MissingProjectError(RuntimeError):
    """A project or its tests cannot be had here."""

    def __init__(self, project: Project, error: Exception) -> None:
        output = str(getattr(error, "stderr", None) or "").strip()[-1000:]
        super().__init__(
            f"{project.requirement} cannot be had here. pip fetches it from the package"
            f" index that it is configured for; its tests come from"
            f" {project.git or 'its source distribution'}. ({error}) {output}"
        )


@dataclass(frozen=True, slots=True)
class Environment:
    """What a suite is run with.

    :ivar python: the interpreter that has the project and what its tests import.
    :ivar archive: the project's source, with its tests.
    """

    python: Path
    archive: Path


def prepare(project: Project) -> Environment:
    """Return the project's environment, made if need be.

    :raises MissingProjectError: if it cannot be had here.
    """
    name = f"{project.package}-{project.version}"
    try:
        with locked_cache(f"suite-{name}.lock") as cache:
            archive = cache / f"suite-{name}.tar.gz"
            if not archive.exists():
                _fetch(project, archive)
            folder = cache / f"suite-{name}-{_fingerprint(project)}"
            if not folder.exists():
                _install(project, folder)
    # OSError: no git, say.
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingProjectError(project, error) from error
    return Environment(folder / "bin" / "python", archive)


def _fingerprint(project: Project) -> str:
    """Return what tells environments apart: the requirements and the Python."""
    words = [sys.version, project.requirement, *project.requirements, *COMMON]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _fetch(project: Project, archive: Path) -> None:
    """Put the project's source into the cache, all or nothing."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as name:
        folder = Path(name)
        if project.git is None:
            _download(project, folder)
        else:
            _clone(project.git, project, folder)
        (found,) = folder.glob("*.tar.gz")
        found.rename(archive)


def _download(project: Project, folder: Path) -> None:
    _run(
        *(sys.executable, *_PIP, "download", "--no-deps", "--dest", str(folder)),
        # Not `:all:`: what builds the package need not be built itself.
        *("--no-binary", project.package, f"{project.package}=={project.version}"),
        seconds=DOWNLOAD_SECONDS,
    )


def _clone(url: str, project: Project, folder: Path) -> None:
    clone = folder / "clone"
    prefix = f"{project.package}-{project.version}/"
    _run(
        *("git", "-c", "advice.detachedHead=false", "clone", "--quiet"),
        *("--depth", "1", "--branch", project.version, url, str(clone)),
        seconds=DOWNLOAD_SECONDS,
    )
    _run(
        *("git", "-C", str(clone), "archive", "--format=tar.gz"),
        *(f"--prefix={prefix}", "--output", str(folder / "tests.tar.gz"), "HEAD"),
        seconds=DOWNLOAD_SECONDS,
    )


def _install(project: Project, folder: Path) -> None:
    """Make a virtual environment where it stays; one that is not whole is removed."""
    made = folder.with_name(f"{folder.name}.unfinished")
    venv.create(made, with_pip=True, clear=True)
    _run(
        *(str(made / "bin" / "python"), *_PIP, "install", project.requirement),
        *(*project.requirements, *COMMON),
        seconds=INSTALL_SECONDS,
    )
    # Only its scripts know where it was made, and none of them is used.
    made.rename(folder)


def install_guard(checkout: Path, folder: Path) -> None:
    """Install a checkout's package, without what it requires, into a folder.

    It is installed, not only found on a path, so that Flask sees its entry points.
    """
    _run(
        *(sys.executable, *_PIP, "install", "--no-deps", "--target", str(folder)),
        str(checkout),
        seconds=INSTALL_SECONDS,
    )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a project's source; return its root."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def _run(*command: str, seconds: float) -> None:
    subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", timeout=seconds
    )
