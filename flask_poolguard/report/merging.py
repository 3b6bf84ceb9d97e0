"""One finding for what is the same of several binds."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .model import Finding
from .phrases import listed

# How findings name a bind; their summaries without quotes.
_BIND: t.Final = re.compile(r"\b[Bb]ind '([^']*)'")
# A setting of one bind, which has the name of the setting of all.
_KEY: t.Final = re.compile(r"POOLGUARD_BINDS\['[^']*'\]\['(\w+)'\]")


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, those that differ in nothing but the bind as one."""
    groups: dict[tuple[str | None, ...], list[Finding]] = {}
    for each in findings:
        groups.setdefault(_without_bind(each), []).append(each)
    return [_as_one(group) for group in groups.values()]


def _without_bind(finding: Finding) -> tuple[str | None, ...]:
    texts = (finding.message, finding.fix, finding.consequence, finding.summary)
    return (
        finding.level,
        finding.code,
        *(
            None if each is None else _neutral(each, _bind_of(finding))
            for each in texts
        ),
    )


def _neutral(text: str, bind: str | None) -> str:
    text = _KEY.sub(lambda key: f"POOLGUARD_{key[1].upper()}", text)
    return (
        text
        if bind is None
        else re.sub(rf"\b([Bb]ind) '?{re.escape(bind)}\b'?", r"\1", text)
    )


def _bind_of(finding: Finding) -> str | None:
    """Return the one bind that a finding speaks of."""
    names = set(_BIND.findall(finding.message))
    return names.pop() if len(names) == 1 else None


def _as_one(group: Sequence[Finding]) -> Finding:
    first = group[0]
    binds = list(dict.fromkeys(filter(None, map(_bind_of, group))))
    if len(binds) < 2:
        return first
    others = listed([repr(each) for each in binds[1:]])
    message = _BIND.sub(rf"\g<0> (and likewise {others})", first.message, count=1)
    return replace(first, message=message)
