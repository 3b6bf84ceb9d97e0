"""Find an app's engines and put guarded pools on them."""

from __future__ import annotations

from .budgets import standing_of
from .connect_args import carries_label
from .discover import Found, find, plain, sync_engine_of
from .first_errors import explain, watch
from .fixed_settings import check_followed, not_followed
from .install import Guarded, guard, resize
from .reconfigure import reconfigure
from .registry import Registry, Waiting, forget_engine, note_waiting, taken

__all__ = [
    "Found",
    "Guarded",
    "Registry",
    "Waiting",
    "carries_label",
    "check_followed",
    "explain",
    "find",
    "forget_engine",
    "guard",
    "not_followed",
    "note_waiting",
    "plain",
    "reconfigure",
    "resize",
    "standing_of",
    "sync_engine_of",
    "taken",
    "watch",
]
