"""Adds to an error what its request had taken, in debug mode only.

Flask's own page of the error shows its notes (PEP 678).
"""

from __future__ import annotations

import typing as t

from flask import got_request_exception, has_request_context, request

from ..error_notes.wording import seconds
from ..log_lines import debug
from ..tracking.request_checkouts import Request, Taken, taken_by

if t.TYPE_CHECKING:
    from flask import Flask

# Not that of the notes that explain an error: one does not stand in for the other.
_PREFIX: t.Final = "Flask-PoolGuard, in debug mode: this request took "

# A page of an error is to show the error.
_MOST_SHOWN: t.Final = 10


def begin(app: Flask) -> None:
    """Add to each error that leaves an app's code what its request had taken."""
    got_request_exception.connect(_raised, app)


def _raised(sender: Flask, exception: BaseException, **extra: object) -> None:
    try:
        if sender.debug and has_request_context():
            _add_note(exception, taken_by(request.environ))
    except Exception:
        debug("guard_failed", "An error got no note of what was taken", exc_info=True)


def _add_note(error: BaseException, found: Request) -> None:
    notes = getattr(error, "__notes__", [])
    # An error may be raised by several requests.
    notes[:] = [each for each in notes if not str(each).startswith(_PREFIX)]
    if found.count:
        error.add_note(describe(found))


def describe(found: Request) -> str:
    """Return what a request has taken, a line each."""
    count = "1 connection" if found.count == 1 else f"{found.count} connections"
    lines = [f"{_PREFIX}{count}"]
    lines += [_line(each) for each in found.taken[:_MOST_SHOWN]]
    more = found.count - len(lines) + 1
    if more > 0:
        lines.append(f"  and {more} more")
    return "\n".join(lines)


def _line(taken: Taken) -> str:
    held, waited = taken.held(), taken.waited
    how = "still out, for" if taken.is_out() else "held for"
    return (
        f"  {taken.tracker.facts.bind} at {taken.site()}, {how} {_time(held)}, waited"
        f" {_time(waited)}"
    )


def _time(value: float | None) -> str:
    return "?" if value is None else seconds(value)
