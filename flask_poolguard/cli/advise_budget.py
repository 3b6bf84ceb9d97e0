"""What advice says of a budget that is set, in sentences."""

from __future__ import annotations

from ..report.advice_model import BindAdvice


def within_budget(each: BindAdvice) -> str:
    """Return by what number the sizes went where the workers share a budget."""
    text = f"within a budget of {each.budget} for this host, which its workers share"
    if each.room is None or each.room >= (each.budget or 0):
        return text
    return f"{text}; {each.room_of} has room for no more than {each.room} of it"


def keeps_too_many(each: BindAdvice) -> str:
    """Return what happens where the workers keep more than their budget, and what to
    do.
    """
    remedy = (
        "Raise the server's limit, from which that follows"
        if each.budget_key is None
        else f"Raise {each.budget_key} to {each.budget_kept} if the server bears it"
        " (flask pool doctor)"
    )
    return (
        f"The workers of this host would keep {each.budget_kept} connections open, and"
        f" their budget is {each.budget}: each that is busy makes another close its"
        f" idle ones, again and again. {remedy}, or start fewer workers or threads."
    )
