"""Keep what tests download, so that it is fetched once per machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder in which downloads outlive the test run."""
    if os.geteuid() == 0:
        # Root's home is closed to the account that runs the server.
        return Path("/var/cache/poolguard-tests")
    known = os.environ.get("XDG_CACHE_HOME")
    return (Path(known) if known else Path.home() / ".cache") / "poolguard-tests"


@contextmanager
def locked_cache(lock: str) -> Iterator[Path]:
    """Give that folder while nobody else who names the same lock has it."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder
