"""Notes on transactions that an earlier error broke."""

from __future__ import annotations

from .facts import First
from .wording import cause_of, note, seconds


def explain_pending(first: First, now: float) -> str:
    """Return the note of a ``PendingRollbackError``.

    :param now: monotonic seconds.
    """
    when = "" if first.at is None else f", {seconds(now - first.at)} before"
    kind = "" if first.kind is None else f" ({first.kind})"
    what = (
        f"the first error of this transaction was, at {first.site}{kind}{when}:\n"
        f"  {first.text}"
    )
    cause = "the code caught that error and went on without a rollback."
    if first.note:
        reason = cause_of(first.note).removeprefix("Cause: ")
        cause += f" Of that error: {reason}"
    return note(
        what,
        cause,
        "call rollback() on the Session or Connection where that error is caught, or"
        " let it pass.",
        "until invalid transaction is rolled back",
    )
