"""CONTRIBUTING.md: its examples are applied to a copy of the tree, and work there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.app_server import REPOSITORY

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(
    r"^```(?P<language>diff|python|console)\n(?P<text>.*?)^```$", re.M | re.S
)
FILE = re.compile(r"# ([\w/.]+)\n")
# What an example needs of the tree, and no environment, server's data or build.
COPIED = (
    "CHANGES.md",
    "README.md",
    "benchmarks",
    "docs",
    "example_app",
    "flask_poolguard",
    "pyproject.toml",
    "tests",
    "tools",
)
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Example:
    """A section whose blocks change the tree and then try the change."""

    title: str
    text: str

    def __str__(self) -> str:
        return self.title

    def apply(self, tree: Path) -> None:
        """Write its files and apply its patches."""
        for block in BLOCK.finditer(self.text):
            if block["language"] == "python":
                name = FILE.match(block["text"])
                assert name, "the first line of a new file's block is its path"
                (tree / name[1]).write_text(block["text"][name.end() :])
            elif block["language"] == "diff":
                run(tree, "git apply -", block["text"])

    def commands(self) -> Iterator[str]:
        """Yield what it tells to run."""
        for block in BLOCK.finditer(self.text):
            if block["language"] == "console":
                yield from re.findall(r"^\$ (.*)$", block["text"], re.M)


EXAMPLES = [
    Example(*section.split("\n", 1))
    for section in PAGE.split("\n## ")[1:]
    if "```console" in section
]


def run(tree: Path, command: str, given: str = "") -> None:
    """Run a command in the copy, whose package comes before the one installed."""
    env = {name: os.environ[name] for name in os.environ if "PYTEST" not in name}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tree,
        env={
            **env,
            "GIT_CEILING_DIRECTORIES": str(tree.parent),  # no repository around it
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(tree),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        input=given,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of what the examples change and run."""
    left_out = shutil.ignore_patterns("__pycache__", ".*_cache", "_build")
    for name in COPIED:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=left_out)
        else:
            shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


class TestExamples:
    @pytest.mark.process
    @pytest.mark.parametrize("example", EXAMPLES, ids=str)
    def test_can_be_applied_and_pass_their_checks(
        self, example: Example, tree: Path
    ) -> None:
        """As a reader does it: the files, the patches, then the commands."""
        programs = re.findall(
            r"(?:^|&& )(\w[\w-]*)", "\n".join(example.commands()), re.M
        )
        missing = {each for each in programs if not (BIN / each).exists()}
        if missing:
            pytest.skip(f"of the dependency group lint, not installed here: {missing}")
        example.apply(tree)
        for command in example.commands():
            run(tree, command)

    def test_are_there_for_each_thing_that_is_added(self) -> None:
        assert [str(each) for each in EXAMPLES] == [
            "Add a figure",
            "Add a finding",
            "Add a setting",
            "Add a database",
        ]


class TestPage:
    def test_names_only_targets_that_make_has(self) -> None:
        rules = (REPOSITORY / "Makefile").read_text()
        targets = set(re.findall(r"^([a-z-]+):", rules, re.M))
        named = {
            word
            for words in re.findall(r"(?:^|`)make ((?:[a-z-]+\b ?)+)", PAGE, re.M)
            for word in words.split()
        }
        assert len(named) > 8
        assert named <= targets

    def test_has_a_row_for_every_room(self) -> None:
        section = PAGE.partition("## Rooms\n")[2].partition("\n## ")[0]
        named = set(re.findall(r"`([a-z_]+)`", section))
        package = REPOSITORY / "flask_poolguard"
        rooms = {each.parent.name for each in package.glob("*/__init__.py")}
        assert rooms <= named

    def test_says_what_ci_runs(self) -> None:
        """Each target of `.ci/run`, where that file is at hand."""
        script = REPOSITORY / ".ci" / "run"
        if not script.exists():
            pytest.skip("the source distribution has no .ci")
        run_there = re.findall(r"\bmake ([a-z-]+)", script.read_text())
        section = PAGE.partition("`.ci/run` is what CI runs")[2].partition("\n\n")[0]
        assert run_there
        assert [each for each in run_there if each not in section] == []

    def test_has_no_dead_links(self) -> None:
        targets = re.findall(r"\]\(((?!http)[^)#]+)", PAGE)
        assert targets
        assert [each for each in targets if not (REPOSITORY / each).exists()] == []
