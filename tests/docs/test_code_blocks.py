"""Every code block of README.md and docs/ is run, or says why it is not.

With ``DOCS_WRITE=1`` in the environment, outputs that differ are written into the page.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.support import forked_python
from tests.support.app_server import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    *sorted(
        path
        for path in (REPOSITORY / "docs").rglob("*.md")
        if "_build" not in path.parts
    ),
]
# The tests of these pages run each block, and look at what comes of it.
RUN_ELSEWHERE = {
    "README.md": "tests/process/test_readme.py",
    "docs/background-work.md": "tests/process/test_background_work.py",
    "docs/testing.md": "tests/process/test_testing_page.py",
}
NEEDS = re.compile(r"^<!-- needs: (mariadb|postgresql)(, alone)? -->$", re.M)
FENCE = re.compile(
    r"(?P<above>[^\n]*)\n(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n]+)\n"
    r".*?\n(?P=indent)(?P=fence)(?=\n|$)",
    re.S,
)
REASON = re.compile(r"<!-- not run: \S.{8,}-->$")
RUN = ("<!-- output",)
# Fewer is better; a new one must be needed.
MOST_NOT_RUN = 20
SECONDS = 100


def name_of(page: Path) -> str:
    """Return a page's path within the repository."""
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.timeout(250)
@pytest.mark.parametrize(
    "page", [each for each in PAGES if name_of(each) not in RUN_ELSEWHERE], ids=name_of
)
def test_its_blocks_run(page: Path, request: pytest.FixtureRequest) -> None:
    """In a process of its own, on the server that it names or on SQLite."""
    text = page.read_text()
    if not re.search(r"```(python|console)|<!-- output", text):
        return
    env = {name: os.environ[name] for name in os.environ if name != "DATABASE_URL"}
    if found := NEEDS.search(text):
        if found[2]:  # what it shows would name other tests' sessions
            request.getfixturevalue("own_server")
        url = request.getfixturevalue(f"{found[1]}_url")
        env["DATABASE_URL"] = url.render_as_string(hide_password=False)
    writing = ["--write"] if "DOCS_WRITE" in os.environ else []
    command = [sys.executable, "-m", "tests.docs.run_page", *writing, str(page)]
    done = forked_python.run(command, env=env, seconds=SECONDS)
    if done.returncode:
        # On a machine that is overloaded for a moment, commands rightly say so.
        done = forked_python.run(command, env=env, seconds=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("page", "test"), RUN_ELSEWHERE.items())
def test_those_run_elsewhere_are(page: str, test: str) -> None:
    """The test of the page exists and names it."""
    assert Path(page).name in (REPOSITORY / test).read_text()


def blocks_not_run() -> list[tuple[str, str]]:
    """Return the line above each block that no test runs, by the block's place."""
    found = []
    for page in PAGES:
        text = page.read_text()
        if name_of(page) in RUN_ELSEWHERE:
            text = text.replace("```python", "```sh")
        for block in FENCE.finditer(text):
            line = text.count("\n", 0, block.start("fence")) + 1
            is_output = block["language"] in ("text", "json")
            if is_output or block["language"].startswith("{code-block} py"):
                found.append((f"{name_of(page)}:{line}", block["above"].strip()))
    return [each for each in found if not each[1].startswith(RUN)]


def test_what_is_not_run_says_why() -> None:
    """Above a block that is not run stands ``<!-- not run: reason -->``."""
    silent = [place for place, above in blocks_not_run() if not REASON.match(above)]
    assert silent == []


def test_no_more_are_left_out_than_before() -> None:
    assert len(blocks_not_run()) <= MOST_NOT_RUN
