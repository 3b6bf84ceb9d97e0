"""Flask-PoolGuard: database connections that come back, stay fresh and explain
themselves.
"""

from __future__ import annotations

from .errors import ConfigError, Leak, LeakError, PoolGuardError, SetupError
from .extension import PoolGuard
from .signals import connection_leaked

__all__ = [
    "ConfigError",
    "Leak",
    "LeakError",
    "PoolGuard",
    "PoolGuardError",
    "SetupError",
    "connection_leaked",
]
