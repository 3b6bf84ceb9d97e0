"""The lines that advice ends in, to be copied into an app's configuration."""

from __future__ import annotations

from ..report.advice_model import Advice
from ..report.text import Page


def lines_to_copy(advice: Advice, page: Page) -> list[str]:
    """Return the lines to write into the app's configuration.

    A budget instead of sizes is a comment beside them: both would be too much.
    """
    # Not wrapped: they are copied.
    lines = [f"  {line}" for line in advice.lines]
    instead = [f"  {line}" for line in advice.budget_lines]
    if lines and instead:
        lines += ["  # or, so that all workers of a host share what the server has:"]
        lines += [f"  # {line}" for line in advice.budget_lines]
    if lines and any(each.is_short for each in advice.binds):
        return [
            *page.wrap(
                "NOT ENOUGH: there is too little room. What fits into it, and makes"
                " requests wait:"
            ),
            *lines,
        ]
    if lines:
        return ["Write", *lines]
    if instead:
        return [
            *page.wrap(
                "No size to change. So that all workers of a host share what the server"
                " has, instead of an equal part for each, write"
            ),
            *instead,
        ]
    if any(each.refusal is None for each in advice.binds):
        return page.wrap("Nothing to change.")
    return []
