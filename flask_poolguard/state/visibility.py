"""Whether other processes count this one as a worker.

Imports nothing: commands decide it before the app is imported.
"""

from __future__ import annotations

_is_hidden = False


def hide_process() -> None:
    """Keep no state file in this process, which is no worker, from now on."""
    global _is_hidden
    _is_hidden = True


def is_hidden() -> bool:
    """Tell whether that was said."""
    return _is_hidden
