"""The Korean pages have the structure and the code of the English ones.

With ``DOCS_WRITE=1`` in the environment, blocks that differ are written into them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.app_server import REPOSITORY

PAGES = [
    ("README.md", "README.ko.md"),
    ("docs/quickstart.md", "docs/ko/quickstart.md"),
]
# A block with the comments around it, by which outputs are made and blocks are run; or
# a block that is run and not shown.
BLOCK = re.compile(
    r"(?:^<!-- (?!invisible)[^\n]*-->\n)*^(?P<fence>`{3,})\w[^\n]*\n.*?^(?P=fence)$"
    r"(?:\n<!-- end[^\n]*-->)?|^<!-- invisible-code-block.*?^-->$",
    re.M | re.S,
)
HEADING = re.compile(r"^(#+) ", re.M)
LINK = re.compile(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)")


def read(page: str) -> str:
    """Return the text of a page."""
    return (REPOSITORY / page).read_text()


def blocks_of(text: str) -> list[str]:
    """Return all code blocks of a page, as they stand there."""
    return [found[0] for found in BLOCK.finditer(text)]


def links_of(page: str) -> list[Path]:
    """Return to which files a page links."""
    prose = BLOCK.sub("", read(page))
    folder = (REPOSITORY / page).parent
    return [(folder / target).resolve() for target in LINK.findall(prose)]


@pytest.mark.parametrize(("english", "korean"), PAGES)
class TestKorean:
    def test_has_the_same_code_blocks_in_the_same_order(
        self, english: str, korean: str
    ) -> None:
        """Code is not translated, and outputs are those of now."""
        expected, text = blocks_of(read(english)), read(korean)
        if os.environ.get("DOCS_WRITE") and len(blocks_of(text)) == len(expected):
            left = iter(expected)
            text = BLOCK.sub(lambda _: next(left), text)
            (REPOSITORY / korean).write_text(text)
        assert expected
        assert blocks_of(text) == expected

    def test_has_a_heading_for_each_of_the_english_page(
        self, english: str, korean: str
    ) -> None:
        levels = [
            HEADING.findall(BLOCK.sub("", read(page))) for page in (english, korean)
        ]
        assert len(levels[0]) > 3
        assert levels[1] == levels[0]

    def test_links_to_what_the_english_page_links_to(
        self, english: str, korean: str
    ) -> None:
        """And to nothing else, but for each other, and for what is translated too."""
        translated = {
            (REPOSITORY / ours).resolve(): (REPOSITORY / theirs).resolve()
            for ours, theirs in PAGES
        }
        pair = {*translated, *translated.values()}
        expected = {translated.get(each, each) for each in links_of(english)} - pair
        assert set(links_of(korean)) - pair == expected
        assert [each for each in links_of(korean) if not each.exists()] == []

    def test_names_the_same_settings_and_commands(
        self, english: str, korean: str
    ) -> None:
        """What stands in code within the text is the same, in any order."""
        named = [
            {
                " ".join(code.split())
                for code in re.findall(r"(?<!`)`([^`]+)`", BLOCK.sub("", read(page)))
            }
            for page in (english, korean)
        ]
        assert named[0] <= named[1]

    def test_leaves_no_paragraph_in_english(self, english: str, korean: str) -> None:
        """Each has Korean letters."""
        prose = BLOCK.sub("", read(korean))
        paragraphs = [each for each in prose.split("\n\n") if len(each.split()) > 6]
        assert len(paragraphs) > 5
        assert [each for each in paragraphs if not re.search("[가-힣]", each)] == []


def test_each_page_links_to_the_other() -> None:
    """A reader of either finds the other."""
    assert (REPOSITORY / "README.ko.md").resolve() in links_of("README.md")
    for english, korean in PAGES:
        assert (REPOSITORY / english).resolve() in links_of(korean)
