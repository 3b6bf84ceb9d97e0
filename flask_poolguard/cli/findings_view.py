"""Findings as text, and which of them say that a list is incomplete."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable

import click

from ..report.model import Finding, Report, Server
from ..report.text import Page
from ..report.verdict import Verdict

COLOURS: t.Final = {
    "critical": "red",
    "warning": "yellow",
    "info": "cyan",
    "ok": "green",
    "unknown": "magenta",
}

# Of workers, of their connections, or of what these do, something is missing, or old.
_OF_GAPS: t.Final[tuple[str, ...]] = (
    "layout",
    "left-out",
    "other-user",
    "server-unreachable",
    "server-view",
    "session-gone",
    "state-file",
    "state-folder",
    "stopped",
    "unavailable",
)
# A default folder's name that another user has taken, and an outage that is over.
_HIDE_NOTHING: t.Final = (("state-folder", "info"), ("unavailable", "info"))


def gaps(report: Report) -> tuple[Finding, ...]:
    """Return the findings for which holders, or what these do, are missing.

    A server that is nearly full says all the same who is there; one that refuses to be
    asked does not.
    """
    codes = _OF_GAPS
    if any(server.failure == "full" for server in report.servers):
        codes += ("full",)
    if not report.workers:  # beside those of this deployment they are another one
        codes += ("other-deployment",)
    return tuple(
        each
        for each in report.findings
        if each.code in codes and (each.code, each.level) not in _HIDE_NOTHING
    )


def verdict_lines(verdict: Verdict, page: Page) -> list[str]:
    """Return the verdict, with which every command begins."""
    return levelled(verdict.level, f" {verdict.text}", page)


def levelled(
    level: str, text: str, page: Page, first: str = "", rest: str = "  "
) -> list[str]:
    """Return a text that begins with its level, in that level's colour.

    :param first: indents the first line, and ``rest`` the others.
    """
    name = level.upper()
    line, *more = page.wrap(f"{name} {text}", first, rest)
    styled = click.style(name, fg=COLOURS[level], bold=True)
    return [line.replace(name, styled, 1), *more]


def other_sizes(differences: Iterable[str], page: Page) -> list[str]:
    """Return which workers run with other sizes than are configured."""
    return [
        line
        for each in differences
        for line in levelled("warning", f"other-sizes: {each}", page)
    ]


def hidden(servers: Iterable[Server]) -> list[str]:
    """Return what cannot be seen of servers' sessions, and why, each once."""
    reasons = (each for server in servers for each in server.sessions_hidden)
    return list(dict.fromkeys(reasons))


def hidden_lines(
    servers: Iterable[Server], page: Page, first: str = "", rest: str = "  "
) -> list[str]:
    """Return the same as a sentence; nothing if all can be seen."""
    text = "; ".join(hidden(servers))
    return page.wrap(f"Not to be seen: {text}.", first, rest) if text else []


def render(
    findings: Iterable[Finding],
    page: Page,
    heading: str = "Findings",
    *,
    with_fix: bool = True,
) -> list[str]:
    """Return findings one below the other, under a heading if there are any."""
    lines = []
    for finding in findings:
        text = f"{finding.code}: {finding.message}"
        lines += levelled(finding.level, text, page, "  ", "    ")
        if with_fix:
            lines += page.wrap(f"fix: {finding.fix}", "    ", "      ")
    return [heading, *lines] if lines else []
