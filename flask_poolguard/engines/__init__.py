"""Find an app's engines and put guarded pools on them."""

from __future__ import annotations

from .finding import Found, find, plain
from .guarding import Guarded, guard, resize
from .pending import watch

__all__ = ["Found", "Guarded", "find", "guard", "plain", "resize", "watch"]
