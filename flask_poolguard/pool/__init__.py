"""The mechanism: a pool of connections that are fit to be handed out."""

from __future__ import annotations

from .connect_breaker import gave_up, give_up
from .fair_queue import Claim
from .fork import keep_from_finalising, orphan
from .greenlets import Trouble, are_threads_greenlets, trouble_of
from .guarded_pool import GuardedPool
from .housekeeper import Chore, housekeeper
from .policy import Policy
from .recycle import Recycle, derive
from .session_probe import UnpooledEntry
from .slot import GuardedRecord
from .types import (
    NO_CALLBACKS,
    Attempt,
    CloseReason,
    NullCallbacks,
    Obstacle,
    PoolCallbacks,
    Renewable,
)

__all__ = [
    "NO_CALLBACKS",
    "Attempt",
    "Chore",
    "Claim",
    "CloseReason",
    "GuardedPool",
    "GuardedRecord",
    "NullCallbacks",
    "Obstacle",
    "Policy",
    "PoolCallbacks",
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
