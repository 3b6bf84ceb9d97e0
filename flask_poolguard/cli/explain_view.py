"""Sections of the docs as plain text: Markdown as far as those pages use it."""

from __future__ import annotations

import re
import textwrap
import typing as t
from collections.abc import Iterator, Sequence

import click

from ..report.text import Page
from .explanations import Section

_WIDEST: t.Final = 80

# Links keep their text, a reference to a class its last name, emphasis its words.
_MARKUP: t.Final = (
    (re.compile(r"\{\w+\}`~?[\w.]*?(\w+)`"), r"\1"),
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"(`[^`]*`)|\*\*((?:`[^`]*`|[^*`])+)\*\*"), r"\1\2"),
    (re.compile(r"(`[^`]*`)|(?<!\w)\*(?!\s)((?:`[^`]*`|[^*`])+)\*(?!\w)"), r"\1\2"),
)
_FENCE: t.Final = "```"
_ITEM: t.Final = "- "
_DEFINITION: t.Final = ": "


def render_section(section: Section, others: Sequence[Section], page: Page) -> str:
    """Return a section as text of at most 80 columns.

    :param others: sections that fit as well; they are named below it.
    """
    page = narrow(page)
    title = click.style("\n".join(page.wrap(_plain_title(section))), bold=True)
    blocks = ["\n".join(_block(each, page)) for each in _blocks(section.body)]
    if others:
        names = "; ".join(_plain_title(each) for each in others)
        blocks.append("\n".join(page.wrap(f"It may also be: {names}", rest="  ")))
    return "\n\n".join([title, *blocks])


def render_list(sections: Sequence[Section], command: str, page: Page) -> str:
    """Return the names of all sections, each on a line.

    :param command: as it is typed, without its argument.
    """
    page = narrow(page)
    findings = [each for each in sections if each.code]
    widest = max(len(each.code) for each in findings)
    lines = [f"{command} CODE explains one of these.", "", "Findings"]
    for each in findings:
        room = page.width - widest - 4
        summary = textwrap.shorten(_summary(each), room, placeholder=" …")
        lines.append(f"  {each.code.ljust(widest)}  {summary}")
    lines += ["", "Errors, by their number or a part of their text"]
    for each in sections:
        if not each.code:
            lines += page.wrap(_plain_title(each), "  ", "    ")
    return "\n".join(lines)


def narrow(page: Page) -> Page:
    """Return a page of 80 columns at most: longer lines of prose are hard to read."""
    return Page(min(page.width, _WIDEST), page.break_words)


def plain(text: str) -> str:
    """Return Markdown on one line, without mark-up; code keeps its backticks."""
    text = " ".join(text.split())
    for pattern, kept in _MARKUP:
        text = pattern.sub(kept, text)
    return text


def _plain_title(section: Section) -> str:
    return section.code or plain(section.title).replace("`", "")


def _summary(section: Section) -> str:
    """Return the first sentence of a section."""
    sentence = re.match(r".*?[.:](?=\s|$)", plain(next(_blocks(section.body))))
    return "" if sentence is None else sentence[0].removesuffix(":")


def _blocks(body: str) -> Iterator[str]:
    """Yield what empty lines separate; a fence is one block, with its empty lines."""
    block: list[str] = []
    is_fenced = False
    for line in body.splitlines():
        if line.startswith(_FENCE):
            is_fenced = not is_fenced
        if line.strip() or is_fenced:
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def _block(block: str, page: Page) -> Iterator[str]:
    lines = block.splitlines()
    if block.startswith(_FENCE):
        for line in lines[1:-1]:
            yield from _verbatim(line, page)
    elif block.startswith("    "):
        for line in lines:
            yield from _verbatim(line.removeprefix("    "), page)
    elif block.startswith("|"):
        yield from _table(lines, page)
    elif block.startswith(_ITEM):
        for item in re.split(r"^- ", block, flags=re.MULTILINE)[1:]:
            yield from page.wrap(plain(item), _ITEM, "  ")
    elif len(lines) > 1 and lines[1].startswith(_DEFINITION):
        yield from page.wrap(plain(lines[0]))
        text = "\n".join(lines[1:]).removeprefix(_DEFINITION)
        yield from page.wrap(plain(text), "  ", "  ")
    else:
        yield from page.wrap(plain(block))


def _verbatim(line: str, page: Page) -> Iterator[str]:
    """Yield a line of code, whose indent means something."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    yield from page.wrap(line.strip(), indent, indent + "  ") if line.strip() else [""]


def _table(lines: Sequence[str], page: Page) -> Iterator[str]:
    """Yield a row below the other: texts of some length do not fit side by side."""
    headings, _, *rows = ([each.strip() for each in _cells(line)] for line in lines)
    for first, *cells in rows:
        yield from page.wrap(plain(first))
        for heading, cell in zip(headings[1:], cells, strict=True):
            yield from page.wrap(f"{heading}: {plain(cell)}", "  ", "    ")


def _cells(line: str) -> list[str]:
    return line.strip().strip("|").split("|")
