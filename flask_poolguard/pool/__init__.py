"""The mechanism: a pool of connections that are fit to be handed out."""

from __future__ import annotations

from .guarded import GuardedPool, Policy
from .inherited import InheritedConnection, keep_from_finalising
from .observer import NULL_OBSERVER, CloseReason, NullObserver, Observer
from .record import GuardedRecord
from .recycle import Recycle, derive

__all__ = [
    "NULL_OBSERVER",
    "CloseReason",
    "GuardedPool",
    "GuardedRecord",
    "InheritedConnection",
    "NullObserver",
    "Observer",
    "Policy",
    "Recycle",
    "derive",
    "keep_from_finalising",
]
