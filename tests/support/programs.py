"""Run the programs of `tests.apps`, each of which prints what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.app_server import REPOSITORY


def run_program(name: str, *arguments: str) -> dict[str, Any]:
    """Run a program in a process of its own; return the JSON that it prints."""
    result = subprocess.run(
        [sys.executable, "-m", f"tests.apps.{name}", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found
