"""The exceptions that Flask-PoolGuard raises."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from .tracking.leaks import Leak


class PoolGuardError(Exception):
    """Base of every error that Flask-PoolGuard raises itself."""


class ConfigError(PoolGuardError, ValueError):
    """A setting is unknown, has an impossible value, or contradicts another one."""


class SetupError(PoolGuardError, RuntimeError):
    """The extension was wired up in a way that cannot work."""


class LeakError(PoolGuardError, RuntimeError):
    """Connections were still out when their scope ended.

    Only raised with ``POOLGUARD_ON_LEAK="raise"``, after they are all back.

    :ivar leaks: one :class:`~flask_poolguard.Leak` per connection.
    """

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        self.leaks = leaks
        super().__init__("\n".join(leak.describe() for leak in leaks))
