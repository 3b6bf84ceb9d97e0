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
    from .extension import PoolGuard
    from .signals import connection_leaked

__all__ = [
    "ConfigError",
    "ConnectionReturned",
    "DatabaseUnavailable",
    "Leak",
    "LeakError",
    "LeakWarning",
    "PoolDeadlock",
    "PoolGuard",
    "PoolGuardError",
    "PoolTimeout",
    "SetupError",
    "TooManyWaiting",
    "connection_leaked",
]

# What does not come from errors.
_HOMES: t.Final = {"PoolGuard": "extension", "connection_leaked": "signals"}


def __getattr__(name: str) -> t.Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f".{_HOMES.get(name, 'errors')}", __name__)
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
