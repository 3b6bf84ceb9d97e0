"""The findings of a report, worst first, as text and as JSON."""

from __future__ import annotations

import typing as t
from collections import Counter
from collections.abc import Iterator

import click

from ..report.model import LEVELS, Finding, Level, Report
from ..report.text import Page
from ..report.verdict import verdict_of
from .findings_view import COLOURS, hidden, hidden_lines, verdict_lines
from .status_view import headline

_COUNTED: t.Final = {
    "critical": ("critical", "critical"),
    "warning": ("warning", "warnings"),
    "info": ("could be better", "could be better"),
}


def render_diagnosis(report: Report, level: Level, page: Page, group: str) -> str:
    """Return the findings from a level on, and how many there are of each.

    :param group: what the app calls these commands.
    """
    sections = [
        [*verdict_lines(verdict_of(report), page), *page.wrap(headline(report))]
    ]
    shown = _from(report, level)
    sections += [list(_describe(finding, page, group)) for finding in shown]
    unseen = hidden_lines(report.servers, page)
    sections += [unseen] if unseen else []
    sections.append(list(_summary(report, len(shown), page)))
    return "\n\n".join("\n".join(lines) for lines in sections)


def diagnosis_dict(report: Report, level: Level) -> dict[str, t.Any]:
    """Return the same, before it is JSON; ``counts`` are of all levels."""
    whole = report.to_dict()
    names = ("schema_version", "taken_at", "app")
    shown = {id(finding) for finding in _from(report, level)}
    return {
        **{name: whole[name] for name in names},
        "looked_at": {
            "host": report.host,
            "workers": len(report.workers),
            "pools": sum(len(worker.pools) for worker in report.workers),
            "servers": len(_servers(report)),
            "sessions_hidden": hidden(report.servers),
        },
        "counts": _counts(report),
        "findings": [
            each
            for each, finding in zip(whole["findings"], report.findings, strict=True)
            if id(finding) in shown
        ],
    }


def is_critical(report: Report) -> bool:
    """Tell whether something needs to be done now."""
    return any(finding.level == "critical" for finding in report.findings)


def _from(report: Report, level: Level) -> list[Finding]:
    wanted = LEVELS[: LEVELS.index(level) + 1]
    return [finding for finding in report.findings if finding.level in wanted]


def _describe(finding: Finding, page: Page, group: str) -> Iterator[str]:
    level = finding.level.upper()
    styled = click.style(level, fg=COLOURS[finding.level], bold=True)
    yield f"{styled} {finding.code}"
    yield from page.wrap(finding.message, "  ", "  ")
    if finding.consequence:
        yield from page.wrap(f"so: {finding.consequence}", "  ", "    ")
    yield from page.wrap(f"fix: {finding.fix}", "  ", "    ")
    see = f"see: flask {group} explain {finding.code}"
    yield from page.wrap(see, "  ", "    ")


def _summary(report: Report, shown: int, page: Page) -> Iterator[str]:
    number = len(report.findings)
    if not number:
        text = f"No findings. Looked at {_looked_at(report)}."
        yield from page.wrap(text)
        return
    parts = [
        f"{count} {_COUNTED[level][count != 1]}"
        for level, count in _counts(report).items()
        if count
    ]
    text = ", ".join(parts)
    if shown < number:
        text += f" ({number - shown} not shown)"
    yield text


def _looked_at(report: Report) -> str:
    pools = sum(len(worker.pools) for worker in report.workers)
    servers = _servers(report)
    parts = [
        _number(len(report.workers), "worker"),
        f"{_number(pools, 'pool')} and the settings",
        _number(len(servers), "server"),
    ]
    text = ", ".join(parts)
    return f"{text} ({', '.join(servers)})" if servers else text


def _servers(report: Report) -> list[str]:
    """Return the products of the servers that answered, by bind."""
    return [each.product for each in report.servers if each.product and each.reachable]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _counts(report: Report) -> dict[str, int]:
    counts = Counter(finding.level for finding in report.findings)
    return {level: counts[level] for level in LEVELS}
