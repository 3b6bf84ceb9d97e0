"""Flask-PoolGuard: database connections that come back, stay fresh and explain
themselves.
"""

from __future__ import annotations

from .errors import (
    ConfigError,
    DatabaseUnavailable,
    Leak,
    LeakError,
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
    "DatabaseUnavailable",
    "Leak",
    "LeakError",
    "PoolDeadlock",
    "PoolGuard",
    "PoolGuardError",
    "PoolTimeout",
    "SetupError",
    "TooManyWaiting",
    "connection_leaked",
]
