"""Settings that cannot have an effect on a pool that keeps its own class."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, Pool, QueuePool

from ..config import AUTO, PREFIX, AppConfig, Setting, Settings
from ..databases import for_dialect
from ..errors import ConfigError
from ..log_lines import warn
from ..pool import GuardedPool
from ..urls import is_in_memory
from .discover import Found, values_of

# What SQLAlchemy's queue pools know as well.
SIZES: t.Final = ("pool_size", "max_overflow", "pool_timeout", "pool_recycle")

# What is a matter of the pool, and not of all connections alike.
OF_POOLS: t.Final = (
    *SIZES,
    "pool_class",
    "idle_limit",
    "max_idle",
    "min_idle",
    "max_age",
    "max_waiting",
    "budget",
    "budget_hosts",
    "budget_name",
    "connect_retry",
    "ping_timeout",
    "tcp_user_timeout",
)


@dataclass(frozen=True, slots=True)
class _Lost:
    """A setting that a bind's pool cannot follow."""

    bind: str
    setting: Setting[t.Any]
    pool_class: type[Pool]

    def describe(self) -> str:
        """Say what has no effect, and what to do."""
        name = self.pool_class.__name__
        if issubclass(self.pool_class, AsyncAdaptedQueuePool):
            remedy = "Remove it: the guard cannot replace the pool of an async engine"
        elif issubclass(self.pool_class, NullPool):
            remedy = "Remove it, or the choice of NullPool: that keeps no connections"
        else:
            remedy = (
                "Set it where that engine is made, or leave the pool's class to the"
                " guard"
            )
        return (
            f"{self.setting.origin} = {self.setting.value!r} has no effect on bind"
            f" {self.bind!r}, which keeps its own {name}. {remedy}."
        )


def pool_class_for(pool: Pool, settings: Settings) -> type[Pool]:
    """Return the class of the pool that an engine is to have.

    Only stock pools are replaced: an app that chose another class meant it.
    """
    is_null = settings.pool_class.value == "null"
    if type(pool) is AsyncAdaptedQueuePool:
        return NullPool if is_null else AsyncAdaptedQueuePool
    if type(pool) is not QueuePool and not isinstance(pool, GuardedPool):
        return type(pool)
    return NullPool if is_null else GuardedPool


def refuse_or_warn(
    found: Found,
    settings: Settings,
    pool_class: type[Pool],
    earlier: Settings | None = None,
) -> None:
    """Log what was set for all binds and has no effect on this one.

    :param earlier: what was set before, and logged.
    :raises ConfigError: it was set for this bind, or more connections are to be idle
        than the pool keeps.
    """
    _check_min_idle(found, settings, pool_class)
    for lost in _find_lost(found, settings, pool_class):
        if lost.setting.origin.startswith("POOLGUARD_BINDS["):
            raise ConfigError(lost.describe())
        known = earlier is not None and lost.setting in _values(earlier)
        if not is_in_memory(found.engine.url) and not known:
            warn("setting_without_effect", "%s", lost.describe(), bind=found.bind)


def _check_min_idle(found: Found, settings: Settings, pool_class: type[Pool]) -> None:
    idle, size = settings.min_idle, settings.pool_size
    if (
        pool_class is GuardedPool
        and for_dialect(found.engine.dialect.name).has_server
        and size.value != AUTO  # which is no less then
        and idle.value > size.value > 0
    ):
        raise ConfigError(
            f"{idle.origin} is {idle.value}, but the pool of bind {found.bind!r} keeps"
            f" {size.value} connections at most (pool_size, from {size.origin}). Set"
            f" POOLGUARD_MIN_IDLE to {size.value} or below, or POOLGUARD_POOL_SIZE to"
            f" {idle.value} or above."
        )


def not_followed(found: Found, settings: Settings) -> list[str]:
    """Return in words which settings the engine's pool, as it is, does not follow."""
    if is_in_memory(found.engine.url):
        return []
    pool_class = type(found.engine.pool)
    return [each.describe() for each in _find_lost(found, settings, pool_class)]


def check_followed(found: Sequence[Found], config: AppConfig) -> None:
    """Refuse settings for all binds that none of them can follow.

    Databases in memory, as tests have them, count for nothing: they have no pool, and
    their app is to start with the settings of production.

    :raises ConfigError: naming the key, a bind and its pool's class.
    """
    lost: dict[str, list[_Lost]] = {}
    served = [each for each in found if not is_in_memory(each.engine.url)]
    for each in served:
        settings = config.for_bind(each.bind, each.options)
        if settings.pool_class.value == "null":
            continue  # sizes of production, in an app or a test that keeps none open
        pool_class = pool_class_for(each.engine.pool, settings)
        for one in _find_lost(each, settings, pool_class):
            lost.setdefault(one.setting.origin, []).append(one)
    for those in lost.values():
        if len(those) == len(served):
            raise ConfigError(those[0].describe())


def _find_lost(
    found: Found, settings: Settings, pool_class: type[Pool]
) -> Iterable[_Lost]:
    """Yield the settings that the guard was given and the pool cannot follow."""
    if pool_class is GuardedPool:
        return
    values = values_of(found.engine.pool)
    for name in OF_POOLS:
        setting: Setting[t.Any] = getattr(settings, name)
        if (
            setting.origin.startswith(PREFIX)
            and setting.value is not None
            and (name, setting.value) != ("pool_recycle", AUTO)
            and not _can_follow(name, setting.value, pool_class, values)
        ):
            yield _Lost(found.bind, setting, pool_class)


def _values(settings: Settings) -> list[Setting[t.Any]]:
    return [getattr(settings, name) for name in OF_POOLS]


def _can_follow(
    name: str, wanted: t.Any, pool_class: type[Pool], values: dict[str, t.Any]
) -> bool:
    if name == "min_idle" and wanted == 0:
        return True
    if name == "pool_class":
        is_queue = issubclass(pool_class, QueuePool)
        return is_queue if wanted == "queue" else pool_class is NullPool
    if pool_class is AsyncAdaptedQueuePool:
        return name in SIZES and wanted != AUTO
    return pool_class is not NullPool and name in values and values[name] == wanted
