"""The numbers of a pool's sizes, where a setting may say ``"auto"``.

What decides those is imported by apps that have some only.
"""

from __future__ import annotations

import typing as t

from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool, QueuePool

from ..config import AUTO, Setting, Settings
from ..options import BY_NAME
from ..pool import GuardedPool
from .discover import values_of

if t.TYPE_CHECKING:
    from ..tracking.auto_sizes import AutoSizes


class FirstSizes(t.TypedDict):
    """What a pool is made with."""

    pool_size: int
    max_overflow: int


def first_sizes(settings: Settings, old: Pool | None = None) -> FirstSizes:
    """Return the sizes that a pool is made with.

    :param old: whose numbers stay where they are automatic; without it they are
        SQLAlchemy's, until those of the worker are known.
    """
    kept: dict[str, t.Any] = {} if old is None else values_of(old)
    return FirstSizes(
        pool_size=_number(settings.pool_size, "pool_size", kept),
        max_overflow=_number(settings.max_overflow, "max_overflow", kept),
    )


def shown_sizes(
    old: Pool, settings: Settings, pool_class: type[Pool]
) -> tuple[int | None, int | None]:
    """Return the first size and overflow of a pool that takes another's place; None
    where its class has none.
    """
    if not issubclass(pool_class, QueuePool):
        return None, None
    if not issubclass(pool_class, GuardedPool | AsyncAdaptedQueuePool):
        values = values_of(old)
        return values["pool_size"], values["max_overflow"]
    is_guarded = issubclass(pool_class, GuardedPool)
    first = first_sizes(settings, None if is_guarded else old)
    size = first["pool_size"]
    return size, first["max_overflow"] if size else -1  # as SQLAlchemy has it


def auto_sizes_for(settings: Settings) -> AutoSizes | None:
    """Return what decides the sizes of a guarded pool; None for numbers."""
    size, overflow = settings.pool_size.value, settings.max_overflow.value
    if AUTO not in (size, overflow):
        return None
    from ..tracking.auto_sizes import AutoSizes

    return AutoSizes(
        None if size == AUTO else size,
        None if overflow == AUTO else overflow,
        settings.min_idle.value,
    )


def _number(
    setting: Setting[int | t.Literal["auto"]], name: str, kept: dict[str, t.Any]
) -> int:
    if setting.value == AUTO:
        return t.cast(int, kept.get(name, BY_NAME[name].default))
    return setting.value
