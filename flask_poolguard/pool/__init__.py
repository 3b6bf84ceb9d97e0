"""The pool: hands out only usable connections, oldest request first. Without Flask."""

from __future__ import annotations

from .fair_queue import FairQueue
from .fork import after_fork_in_child, keep_from_finalising, orphan
from .greenlets import (
    Blocker,
    are_threads_greenlets,
    blocker_of,
    find_blockers,
    would_thread_run_on,
)
from .guarded_pool import GuardedPool
from .holders import Holders, Returning
from .housekeeper import Chore, Tended, housekeeper
from .idle_connections import close_longest_idle
from .idle_filler import filling_thread
from .idle_limits import SHARE_OF_LIMIT
from .late_patch import after_late_patch, late_patch
from .liveness import answers_within
from .outage import gave_up, give_up
from .pid import current_pid
from .places import Places
from .session_probe import UnpooledEntry
from .slot import GuardedRecord
from .types import (
    Attempt,
    Claim,
    CloseReason,
    Obstacle,
    Policy,
    PoolCallbacks,
    Recycle,
    Renewable,
    WaitingQueue,
)

__all__ = [
    "SHARE_OF_LIMIT",
    "Attempt",
    "Blocker",
    "Chore",
    "Claim",
    "CloseReason",
    "FairQueue",
    "GuardedPool",
    "GuardedRecord",
    "Holders",
    "Obstacle",
    "Places",
    "Policy",
    "PoolCallbacks",
    "Recycle",
    "Renewable",
    "Returning",
    "Tended",
    "UnpooledEntry",
    "WaitingQueue",
    "after_fork_in_child",
    "after_late_patch",
    "answers_within",
    "are_threads_greenlets",
    "blocker_of",
    "close_longest_idle",
    "current_pid",
    "filling_thread",
    "find_blockers",
    "gave_up",
    "give_up",
    "housekeeper",
    "keep_from_finalising",
    "late_patch",
    "orphan",
    "would_thread_run_on",
]
