"""The wording of notes that errors carry: pure functions of known facts.

A note says what happened, the most likely cause, what to do, and where the docs say
more. Collecting the facts is the business of those who have them.
"""

from __future__ import annotations

from .broken_transactions import explain_pending
from .facts import First, HolderFacts, Lost, Neighbours
from .losses import explain_loss
from .refusals import (
    Room,
    explain_away,
    explain_budget,
    explain_full,
    explain_login,
    explain_timeout,
)
from .wording import add_note, has_note

__all__ = [
    "First",
    "HolderFacts",
    "Lost",
    "Neighbours",
    "Room",
    "add_note",
    "explain_away",
    "explain_budget",
    "explain_full",
    "explain_login",
    "explain_loss",
    "explain_pending",
    "explain_timeout",
    "has_note",
]
