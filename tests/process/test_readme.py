"""README.md shows what the commands print."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.app_server import REPOSITORY

pytestmark = pytest.mark.process


class TestOutput:
    def test_is_that_of_the_app_that_it_shows(self) -> None:
        """Run beside the app, each command prints what README.md shows."""
        checked = subprocess.run(
            [sys.executable, "tools/readme_output.py", "--check"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), (
            "README.md shows something else: run `make readme` and look at the change"
        )
