"""What gevent's monkey patches replace, as it was."""

from __future__ import annotations

import sys
import typing as t


def unpatched(module: t.Any, name: str) -> t.Any:
    """Return a function or class as it was before gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched(module.__name__):
        return monkey.get_original(module.__name__, name)
    return getattr(module, name)
