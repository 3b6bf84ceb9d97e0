"""Each leak as a Python warning at the line that took the connection."""

from __future__ import annotations

import typing as t
import warnings

from ..errors import Leak, LeakWarning
from ..log_lines import warn

if t.TYPE_CHECKING:
    from .checkout import Checkout

# Which leaks Python has shown a warning of, as it notes that for each module. Emptied
# when there are more: an app may compile code at run time.
_shown: dict[t.Any, t.Any] = {}
MOST_SHOWN: t.Final = 1024


def warn_of(checkout: Checkout, leak: Leak) -> LeakWarning | None:
    """Warn of a leak at its line; return the warning if a filter makes it an error."""
    if len(_shown) > MOST_SHOWN:
        _shown.clear()
    callsite = checkout.callsite
    try:
        warnings.warn_explicit(
            LeakWarning(leak.summary(), leak),
            LeakWarning,
            callsite.filename or "<unknown>",
            callsite.line,
            registry=_shown,
        )
    except LeakWarning as warning:
        return warning
    except Exception:  # an app's own warnings.showwarning
        warn("guard_failed", "A leak could not be shown as a warning", exc_info=True)
    return None
