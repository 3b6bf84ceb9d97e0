"""docs/security.md promises nothing without a test."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
# After each sentence: tests of what it promises, or that it only gives advice.
TEST = re.compile(r"\s*% test: (\S+)")
ADVICE = re.compile(r"\s*% advice")
# What introduces a list, and what stands before all sections.
INTRODUCES = re.compile(r".*:$", re.S)


def blocks() -> Iterator[tuple[str, list[str]]]:
    """Yield each paragraph, table and item of a list with its markers."""
    text, markers = "", []
    _, _, body = PAGE.partition("\n## ")
    for line in [*body.splitlines()[1:], "- "]:
        is_marker = line.lstrip().startswith("%")
        if is_marker:
            markers.append(line)
            continue
        ends = line.startswith(("- ", "#")) or (not line and markers)
        if ends or (markers and line):
            if text.strip():
                yield " ".join(text.split()), markers
            text, markers = "", []
        elif not line and INTRODUCES.fullmatch(text.strip()):
            text = ""
        if not line.startswith("#"):
            text += f"{line}\n"


BLOCKS = [
    (text, markers)
    for text, markers in blocks()
    if not text.startswith("The files lie in") or "|" in text
]


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of a file's tests."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef)
            }
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return frozenset(found)


def test_has_its_sections() -> None:
    """A local user, a visitor, a peer; what is kept where; how to report."""
    assert re.findall(r"^## (.*)", PAGE, re.M) == [
        "What is kept where",
        "Another local user",
        "A web visitor",
        "A database peer",
        "To report a vulnerability",
    ]


@pytest.mark.parametrize(
    ("text", "markers"), BLOCKS, ids=[text[:40] for text, _ in BLOCKS]
)
def test_each_sentence_has_a_test(text: str, markers: list[str]) -> None:
    """Or is marked as advice, which promises nothing."""
    assert markers, text
    assert all(TEST.fullmatch(each) or ADVICE.fullmatch(each) for each in markers)
    if not ADVICE.fullmatch(markers[0]) and not text.startswith("|"):
        assert len(re.findall(r"\.(?= |$)", text)) == 1, "more than one sentence"


@pytest.mark.parametrize("name", sorted(set(TEST.findall(PAGE))))
def test_each_marker_names_a_test_that_exists(name: str) -> None:
    """And one that pytest collects."""
    path, _, rest = name.partition("::")
    assert rest in names_in(path)
    assert rest.rpartition("::")[2].startswith("test")


def test_there_are_many() -> None:
    """The page was read as it is meant to be."""
    assert len(BLOCKS) > 40
    assert len(set(TEST.findall(PAGE))) > 40
