"""The mechanism: a pool of connections that are fit to be handed out."""

from __future__ import annotations

from .gate import gave_up, give_up
from .greenlets import Trouble, are_threads_greenlets, trouble_of
from .guarded import GuardedPool
from .handoff import Claim
from .housekeeper import Chore, housekeeper
from .inherited import keep_from_finalising, orphan
from .inquiry import UnpooledEntry
from .observer import (
    NULL_OBSERVER,
    Attempt,
    CloseReason,
    NullObserver,
    Observer,
    Obstacle,
    Renewable,
)
from .policy import Policy
from .record import GuardedRecord
from .recycle import Recycle, derive

__all__ = [
    "NULL_OBSERVER",
    "Attempt",
    "Chore",
    "Claim",
    "CloseReason",
    "GuardedPool",
    "GuardedRecord",
    "NullObserver",
    "Observer",
    "Obstacle",
    "Policy",
    "Recycle",
    "Renewable",
    "Trouble",
    "UnpooledEntry",
    "are_threads_greenlets",
    "derive",
    "gave_up",
    "give_up",
    "housekeeper",
    "keep_from_finalising",
    "orphan",
    "trouble_of",
]
