"""Findings as text, and which of them say that a list is incomplete."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable

import click

from ..report.model import Finding, Report, Server
from ..report.text import Page
from ..report.verdict import verdict

COLOURS: t.Final = {"critical": "red", "warning": "yellow", "info": "cyan"}

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


def verdict_lines(report: Report, page: Page) -> list[str]:
    """Return the verdict on what was found, with which every report begins."""
    level, text = verdict(report.findings, report.workers)
    name = level.upper() if level else "OK"
    first, *rest = page.wrap(f"{name}  {text}", rest="  ")
    colour = "green" if level is None else COLOURS.get(level, "magenta")
    return [first.replace(name, click.style(name, fg=colour, bold=True), 1), *rest]


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
        level = finding.level.upper()
        text = f"{level} {finding.code}: {finding.message}"
        first, *rest = page.wrap(text, "  ", "    ")
        styled = click.style(level, fg=COLOURS[finding.level], bold=True)
        lines += [first.replace(level, styled, 1), *rest]
        if with_fix:
            lines += page.wrap(f"fix: {finding.fix}", "    ", "      ")
    return [heading, *lines] if lines else []
