"""Flask-PoolGuard: database connections that come back, stay fresh and explain
themselves.

Names are imported when they are first used: flask loads this package for each of its
commands (:mod:`.cli.entry_point`), also those of apps that have yet to let gevent patch
the standard library.
"""

from __future__ import annotations

import importlib
import typing as t

if t.TYPE_CHECKING:
    from .errors import (
        ConfigError,
        ConnectionReturned,
        DatabaseUnavailable,
        Leak,
        LeakError,
        LeakWarning,
        PoolDeadlock,
        PoolGuardError,
        PoolTimeout,
        SetupError,
        TooManyWaiting,
    )
    from .events import (
        DatabaseOutage,
        FailedWait,
        HeldConnection,
        RecycledConnection,
    )
    from .extension import PoolGuard
    from .signals import (
        connection_held_long,
        connection_leaked,
        connection_recycled,
        database_away,
        database_back,
        pool_deadlock,
        pool_timeout,
    )

__all__ = [
    "ConfigError",
    "ConnectionReturned",
    "DatabaseOutage",
    "DatabaseUnavailable",
    "FailedWait",
    "HeldConnection",
    "Leak",
    "LeakError",
    "LeakWarning",
    "PoolDeadlock",
    "PoolGuard",
    "PoolGuardError",
    "PoolTimeout",
    "RecycledConnection",
    "SetupError",
    "TooManyWaiting",
    "connection_held_long",
    "connection_leaked",
    "connection_recycled",
    "database_away",
    "database_back",
    "pool_deadlock",
    "pool_timeout",
]

# What does not come from errors; names in lower case are signals.
_HOMES: t.Final = {
    "PoolGuard": "extension",
    "DatabaseOutage": "events",
    "FailedWait": "events",
    "HeldConnection": "events",
    "RecycledConnection": "events",
}


def __getattr__(name: str) -> t.Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = _HOMES.get(name, "signals" if name.islower() else "errors")
    home = importlib.import_module(f".{room}", __name__)
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
