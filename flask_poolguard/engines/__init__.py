"""Find an app's engines and put guarded pools on them."""

from __future__ import annotations

from .connecting import carries_label
from .effects import check_followed
from .finding import Found, find, plain, sync_engine_of
from .guarding import Guarded, guard, resize
from .late import reconfigure
from .pending import watch
from .registry import Registry

__all__ = [
    "Found",
    "Guarded",
    "Registry",
    "carries_label",
    "check_followed",
    "find",
    "guard",
    "plain",
    "reconfigure",
    "resize",
    "sync_engine_of",
    "watch",
]
