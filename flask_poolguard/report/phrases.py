"""Phrases that several rules use."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ..engines import Guarded
    from ..state.status import Holder


def key_of(guarded: Guarded, name: str) -> str:
    """Return the key to change for a setting: where it was set, or could be."""
    setting = getattr(guarded.settings, name)
    if not setting.is_default:
        return t.cast(str, setting.origin)
    if guarded.bind == "default":
        return f"POOLGUARD_{name.upper()}"
    return f"POOLGUARD_BINDS[{guarded.bind!r}][{name!r}]"


def connections(count: int) -> str:
    """Return a number of connections in words."""
    return f"{count} connection" if count == 1 else f"{count} connections"


def workers(count: int) -> str:
    """Return a number of workers in words."""
    return f"{count} worker" if count == 1 else f"{count} workers"


def line_of(holder: Holder) -> str:
    """Return who holds a connection, taken where."""
    if holder.endpoint is None and holder.site is None:
        return "a connect that has not ended"
    return f"{holder.endpoint or '(unknown)'} at {holder.site or 'an unknown line'}"


def size_key(guarded: Guarded, name: str) -> str:
    """Return the key of ``pool_size`` or ``max_overflow``, or where that is set if the
    engine keeps its own pool.
    """
    if guarded.tracker.facts.pool_class == "GuardedPool":
        return key_of(guarded, name)
    return f"{name} of the engine of bind {guarded.bind!r}"
