"""Parts that all notes have in common."""

from __future__ import annotations

import typing as t

# How a note begins, so that it can be told from others'.
_PREFIX: t.Final = "Flask-PoolGuard: "


def note(what: str, cause: str, remedy: str, see: str) -> str:
    """Return a note.

    :param see: with what ``flask pool explain`` shows a section of docs/errors.md: a
        number, an SQLSTATE, or a part of the error's text without quotes.
    """
    return (
        f"{_PREFIX}{what}\nCause: {cause}\nRemedy: {remedy}\n"
        f"See: flask pool explain {see}"
    )


def add_note(error: BaseException, text: str) -> None:
    """Add a note (PEP 678) that every traceback shows, unless it has one of ours."""
    if not has_note(error):
        error.add_note(text)


def has_note(error: BaseException) -> bool:
    """Tell whether an error carries a note of ours."""
    return any(
        isinstance(each, str) and each.startswith(_PREFIX)
        for each in getattr(error, "__notes__", ())
    )


def cause_of(text: str) -> str:
    """Return the line of a note that tells the cause."""
    return next((line for line in text.splitlines() if line.startswith("Cause: ")), "")


def seconds(value: float) -> str:
    """Return a time as a person would say it: ``0.25 s``, ``4.2 s``, ``650 s``."""
    if value >= 10:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"
