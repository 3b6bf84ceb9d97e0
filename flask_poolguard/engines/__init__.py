"""Find an app's engines and put guarded pools on them."""

from __future__ import annotations

from .connecting import carries_label
from .finding import Found, find, plain
from .guarding import Guarded, guard, resize
from .pending import watch

__all__ = [
    "Found",
    "Guarded",
    "carries_label",
    "find",
    "guard",
    "plain",
    "resize",
    "watch",
]
