"""The work that is repeated: GET requests or queries."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

Kind = t.Literal["url", "sql"]

# A path begins with a slash and SQL with a word, so neither can be taken for a weight.
_WEIGHTED: t.Final = re.compile(r"(?:(\d{1,6}):)?\s*(.*)", re.DOTALL)
_PATH: t.Final = re.compile(r"/(?!/)[^\s#]*")
_QUERY: t.Final = re.compile(r"(?:SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to do.

    :ivar text: a path with its query string, or one query.
    :ivar weight: how often, against the others.
    """

    kind: Kind
    text: str
    weight: int = 1

    def __str__(self) -> str:
        return f"GET {self.text}" if self.kind == "url" else self.text


def parse(kind: Kind, text: str) -> Work:
    """Read what was written on the command line: ``/path``, or ``3:/path``.

    :raises ValueError: says what is wrong, and what is right.
    """
    number, what = _WEIGHTED.findall(text)[0]
    weight, what = int(number or 1), what.strip()
    if weight < 1:
        raise ValueError(f"{text!r}: a weight is 1 or more, as in '3:{what}'")
    if kind == "url":
        if not _PATH.fullmatch(what):
            raise ValueError(
                f"{text!r} is not a path of this app: write it with one slash first,"
                " and its query string, as in '/search?q=x'; with a weight,"
                " '3:/search?q=x'"
            )
    else:
        what = what.rstrip(";").rstrip()
        if not _QUERY.match(what):
            raise ValueError(
                f"{text!r} is not a query: it begins with SELECT, WITH, VALUES or"
                " TABLE; with a weight, '3:SELECT …'"
            )
        if ";" in what:
            raise ValueError(
                f"{text!r} has a semicolon: give one query to each --sql, and build a"
                " literal ';' with CHR(59) or CHAR(59)"
            )
    return Work(kind, what, weight)
