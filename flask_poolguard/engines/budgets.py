"""Which budget a bind's pool has, and how that stands.

What keeps budgets is imported by apps that have one only.
"""

from __future__ import annotations

import functools
import typing as t
from collections.abc import Callable

from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from ..config import Settings
from ..databases import for_dialect
from ..pool import GuardedPool, Places
from ..tracking.pool_tracker import PoolTracker
from ..urls import public_url, server_key

if t.TYPE_CHECKING:
    from ..budget import Standing


def places_for(
    engine: Engine, settings: Settings, tracker: PoolTracker
) -> Callable[[], Places]:
    """Return what makes the places of a pool's slots: those of its budget, if any."""
    most, app = settings.budget.value, tracker.app
    if most is None or app is None or not tracker.database.has_server:
        return Places
    from ..budget import PoolPlaces, find_budget

    parts = _parts(engine, settings, app.name)
    budget = find_budget(tracker.state_dir, parts, most, app.name)
    return functools.partial(PoolPlaces, budget)


def budget_file_of(
    engine: Engine, settings: Settings, pool_class: type[Pool], app: str
) -> str:
    """Return the name of the file of a bind's budget, by which others find it; "" if
    it has none.

    :param pool_class: of the pool that the engine is about to have.
    :param app: the app's name.
    """
    if settings.budget.value is None or not issubclass(pool_class, GuardedPool):
        return ""
    if not for_dialect(engine.dialect.name).has_server:
        return ""
    from ..budget import file_name

    return file_name(_parts(engine, settings, app))


def standing_of(
    engine: Engine, settings: Settings, tracker: PoolTracker
) -> Standing | None:
    """Return how the budget of a bind stands on this host; None if it has none."""
    limit = settings.budget.value
    if (
        limit is None
        or tracker.app is None
        or not tracker.database.has_server
        or not isinstance(engine.pool, GuardedPool)
    ):
        return None
    from ..budget import Standing, find_standing

    parts = _parts(engine, settings, tracker.app.name)
    standing = find_standing(tracker.state_dir, parts, limit)
    return standing or Standing(limit, ())


def _parts(engine: Engine, settings: Settings, app: str) -> tuple[object, ...]:
    """Return what tells a budget from others: its name, the server, and the user."""
    server = server_key(engine.url) or public_url(engine.url)
    return settings.budget_name.value or app, server, engine.url.username
