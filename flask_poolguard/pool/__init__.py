"""The pool: hands out only usable connections, oldest request first. Without Flask."""

from __future__ import annotations

from .fork import after_fork_in_child, keep_from_finalising, orphan
from .greenlets import Blocker, are_threads_greenlets, blocker_of, find_blockers
from .guarded_pool import GuardedPool
from .housekeeper import Chore, Tended, housekeeper
from .idle_limits import SHARE_OF_LIMIT, derive
from .outage import gave_up, give_up
from .session_probe import UnpooledEntry
from .slot import GuardedRecord
from .types import (
    NO_CALLBACKS,
    NO_HOLDERS,
    Attempt,
    Claim,
    CloseReason,
    Holders,
    Obstacle,
    Policy,
    PoolCallbacks,
    Recycle,
    Renewable,
    Returning,
    Served,
)

__all__ = [
    "NO_CALLBACKS",
    "NO_HOLDERS",
    "SHARE_OF_LIMIT",
    "Attempt",
    "Blocker",
    "Chore",
    "Claim",
    "CloseReason",
    "GuardedPool",
    "GuardedRecord",
    "Holders",
    "Obstacle",
    "Policy",
    "PoolCallbacks",
    "Recycle",
    "Renewable",
    "Returning",
    "Served",
    "Tended",
    "UnpooledEntry",
    "after_fork_in_child",
    "are_threads_greenlets",
    "blocker_of",
    "derive",
    "find_blockers",
    "gave_up",
    "give_up",
    "housekeeper",
    "keep_from_finalising",
    "orphan",
]
