"""The sections of the docs on findings and errors, and which one a text means.

``findings.md`` and ``errors.md`` beside this module are links to the pages in
``docs/``, so that a wheel has them too.
"""

from __future__ import annotations

import difflib
import re
import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

# More than any error text has; what follows in a pasted log is not looked at.
_LONGEST: t.Final = 10_000

_HEADING: t.Final = re.compile(r"^## (.*)$", re.MULTILINE)
_CODE_SPAN: t.Final = re.compile(r"`([^`]+)`")
# The line of a section that lists numbers and SQLSTATEs.
_CODES: t.Final = re.compile(r"^\*\*Codes\.\*\* (.*?)(?=\n\n|\Z)", re.M | re.S)
_CODE: t.Final = re.compile(r"\b(?:\d{4}|\d[0-9A-Z]{4})\b")
# A code within a longer text: (2006, …; ERROR 1045 (28000): …; 'C': '28P01' of pg8000.
# A number that stands alone there may be a year, or a count of rows.
_CODE_IN_TEXT: t.Final = re.compile(
    r"(?:\(|\b(?:error|errno|code|sqlstate)\b\W{0,2}|'C': ')([0-9A-Z]{4,5})\b",
    re.IGNORECASE,
)
_SQLSTATE: t.Final = re.compile(r"\b\d[0-9]?[0-9A-Z]*[A-Z][0-9A-Z]*\b")
# A link to a section: docs/errors.md#2006-mysql-server-has-gone-away
_ANCHOR: t.Final = re.compile(r"(findings|errors)\.(?:md|html)#([\w-]+)\W*$")
# How a finding, and a note on an error, end; under any name of the group of commands.
_ASKED: t.Final = re.compile(r"flask \S+ explain (.+)")
# A finding as `flask pool status` and the log show it.
_FINDING: t.Final = re.compile(
    r"\b(?:critical|warning|info)\W+([a-z-]+)", re.IGNORECASE
)
# What a text must have in common with a section's, unless it has all of one: words, and
# letters. Of fewer, any two texts have some.
_FEWEST_WORDS: t.Final = 3
_FEWEST_LETTERS: t.Final = 4
# A text that as many sections have means none of them.
_MOST_SECTIONS: t.Final = 4


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a page.

    :ivar code: of the finding; "" for an error.
    :ivar title: its heading, in Markdown.
    :ivar body: what stands under it, in Markdown.
    """

    code: str
    title: str
    body: str

    @property
    def name(self) -> str:
        """What to type to have it explained: its code or the error's text."""
        return self.code or _spans(self.title)[0]

    @property
    def anchor(self) -> tuple[str, str]:
        """Its page and the heading's anchor, as MyST and code hosts make it."""
        title = re.sub(r"[^\w\s-]", "", self.title.lower()).strip()
        return ("findings" if self.code else "errors"), title.replace(" ", "-")

    @property
    def codes(self) -> frozenset[str]:
        """The numbers and SQLSTATEs that stand for it."""
        lists = [] if self.code else [self.title, *_CODES.findall(self.body)]
        return frozenset(_CODE.findall(" ".join(lists)))

    def texts(self) -> Iterator[str]:
        """Yield the texts by which it can be found, as words between spaces."""
        lead, _, rest = self.body.partition("\n**Cause")
        if not self.code:
            for span in [*_spans(self.title), *_spans(lead if rest else "")]:
                yield _words(span)
        for span in _spans(self.body):
            words = _words(span)
            if words.count(" ") > _FEWEST_WORDS:  # and not the name of a setting
                yield words


@dataclass(frozen=True, slots=True)
class Found:
    """The sections that a text means, best first, or else those that are near.

    :ivar near: names of sections.
    """

    sections: tuple[Section, ...] = ()
    near: tuple[str, ...] = ()


def read_sections() -> list[Section]:
    """Return all sections, those of findings first, in the order of their pages."""
    folder = resources.files(__package__)
    findings, errors = (
        _HEADING.split(folder.joinpath(f"{name}.md").read_text("utf-8"))[1:]
        for name in ("findings", "errors")
    )
    return [
        *(
            Section(title.strip("`"), title, body)
            for title, body in zip(findings[::2], findings[1::2], strict=True)
        ),
        *(
            Section("", title, body)
            for title, body in zip(errors[::2], errors[1::2], strict=True)
        ),
    ]


def find(text: str, sections: Sequence[Section]) -> Found:
    """Return the sections that a text means.

    :param text: a finding's code, an error's number or SQLSTATE, or a part of an
        error's text, in any case.
    """
    text = text[:_LONGEST]
    text = next(reversed(_ASKED.findall(text)), text)
    found = (
        _by_name(text, sections)
        or _by_code(text, sections)
        or _by_text(_words(text), sections)
    )
    if len(found) > _MOST_SECTIONS:
        return Found(near=tuple(each.name for each in found[:_MOST_SECTIONS]))
    return Found(tuple(found), () if found else _near(text, sections))


def _by_name(text: str, sections: Sequence[Section]) -> list[Section]:
    """Return those whose code or whole heading it is, or that it points to."""
    words = _words(text)
    anchor = _ANCHOR.search(text)
    codes = {each.lower() for each in _FINDING.findall(text)}
    return [
        each
        for each in sections
        if (words.strip() and words in (_words(each.code), _words(each.title)))
        or (anchor is not None and anchor.groups() == each.anchor)
    ] or [each for each in sections if each.code in codes - {""}]


def _by_code(text: str, sections: Sequence[Section]) -> list[Section]:
    """Return the section of the first known number or SQLSTATE."""
    alone = re.fullmatch(r"\W*(\w{4,5})\W*", text.upper())
    codes = [alone[1]] if alone else []
    codes += [each.upper() for each in _CODE_IN_TEXT.findall(text)]
    codes += _SQLSTATE.findall(text.upper())
    for code in codes:
        found = [each for each in sections if code in each.codes]
        if found:
            return found
    return []


def _by_text(words: str, sections: Sequence[Section]) -> list[Section]:
    """Return those of which the text has the heading, or else those with which it has
    the longest row of words in common; errors first.
    """
    scores = []
    for section in sections:
        longest = max((_in_common(words, each) for each in section.texts()), default=0)
        titles = [] if section.code else map(_words, _spans(section.title))
        whole = max((len(each) for each in titles if each in words), default=0)
        scores.append(((whole, longest), section))
    best = max(score for score, _ in scores)
    found = [section for score, section in scores if score == best and any(score)]
    return sorted(found, key=lambda section: bool(section.code))


def _in_common(words: str, text: str) -> int:
    """Return how many letters the longest row of words has that both texts have.

    0 if that says nothing: it is neither all of one of them nor of some length.
    """
    parts = text.split()
    for length in range(len(parts), 0, -1):
        for start in range(len(parts) - length + 1):
            row = f" {' '.join(parts[start : start + length])} "
            if row in words:
                is_whole = row in (words, text) and len(row) - 2 >= _FEWEST_LETTERS
                return len(row) if is_whole or length >= _FEWEST_WORDS else 0
    return 0


def _near(text: str, sections: Sequence[Section]) -> tuple[str, ...]:
    """Return the names that are spelled most like a text, or like one of its words."""
    names = {" ".join(_parts(each.name)): each.name for each in sections}
    names |= {code.lower(): code for each in sections for code in each.codes}
    words = _parts(text)
    asked = dict.fromkeys([" ".join(words)[:200], *words[:20]])
    near = [
        names[each]
        for one in asked
        for each in difflib.get_close_matches(one, names, n=3, cutoff=0.7)
    ]
    return tuple(dict.fromkeys(near))[:_MOST_SECTIONS]


def _words(text: str) -> str:
    """Return a text's words between spaces; all numbers are alike."""
    alike = ("0" if each.isdigit() else each for each in _parts(text))
    return f" {' '.join(alike)} "


def _parts(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))


def _spans(text: str) -> list[str]:
    """Return what stands between backticks."""
    return [" ".join(each.split()) for each in _CODE_SPAN.findall(text)]
