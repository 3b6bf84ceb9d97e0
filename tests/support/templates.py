"""Make the first state of a server's data once, and copy it ever after."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

# Names a folder that all workers of one test run share.
FOLDER_VARIABLE = "POOLGUARD_TESTS_TEMPLATES"


def make_folder() -> Path:
    """Make the folder that this process and its children share."""
    folder = Path(tempfile.mkdtemp(prefix="poolguard-templates-"))
    os.environ[FOLDER_VARIABLE] = str(folder)
    atexit.register(remove_folder, folder, os.getpid())
    return folder


def remove_folder(folder: Path, owner_pid: int) -> None:
    """Remove the folder, unless this is a forked child of the one who made it."""
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)


def copy_template(name: str, make: Callable[[Path], None], target: Path) -> None:
    """Copy a template to a place that does not exist yet, making it if need be.

    :param make: fills the folder that it is given; called once per test run.
    """
    known = os.environ.get(FOLDER_VARIABLE)
    folder = Path(known) if known else make_folder()
    template = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            unfinished = folder / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(template)
    # `cp` keeps owner and mode, which `shutil.copytree` does not.
    subprocess.run(["cp", "-Rp", str(template), str(target)], check=True)
