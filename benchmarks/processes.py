"""Python processes that measurements start in the repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def run_python(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Return what Python prints, with these arguments.

    :param env: its environment; this process's if None.
    :raises subprocess.CalledProcessError: it failed.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=env,
    ).stdout
