"""Which budget a bind's pool has, and how that stands.

What keeps budgets is imported by apps that have one only.
"""

from __future__ import annotations

import contextlib
import functools
import typing as t
import weakref
from collections.abc import Callable

from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from ..config import Settings
from ..databases import ConnectFailure, Database, ServerView, for_dialect
from ..options import AUTO
from ..pool import GuardedPool, Places, UnpooledEntry
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
    from ..budget import AutoLimit, PoolPlaces, find_budget

    budget = find_budget(
        tracker.state_dir, _parts(engine, settings, app.name), app.name
    )
    if most == AUTO:
        ask = functools.partial(_ask, weakref.ref(engine), tracker.database)
        budget.go_by(None, AutoLimit(ask, settings.budget_hosts.value))
    else:
        budget.go_by(most)
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
    set_to = settings.budget.value
    if (
        set_to is None
        or tracker.app is None
        or not tracker.database.has_server
        or not isinstance(engine.pool, GuardedPool)
    ):
        return None
    from ..budget import NOT_ASKED, Standing, find_standing

    number = None if set_to == AUTO else set_to
    parts = _parts(engine, settings, tracker.app.name)
    standing = find_standing(tracker.state_dir, parts, number)
    return standing or Standing(number, (), NOT_ASKED if number is None else "")


def _parts(engine: Engine, settings: Settings, app: str) -> tuple[object, ...]:
    """Return what tells a budget from others: its name, the server, and the user."""
    server = server_key(engine.url) or public_url(engine.url)
    return settings.budget_name.value or app, server, engine.url.username


def _ask(
    engine_ref: Callable[[], Engine | None], database: Database
) -> ServerView | None:
    """Return what the server says of itself, on a connection made as the pool would
    make it; None if the engine is gone.

    :raises ServerIsFull: it has no room for that connection.
    :raises Exception: another error of a driver's, or a listener's.
    """
    from ..budget import ServerIsFull

    engine = engine_ref()
    if engine is None:
        return None
    try:
        connection = engine.pool._invoke_creator(UnpooledEntry())
    except Exception as error:
        if database.connect_failure(error) is ConnectFailure.FULL:
            raise ServerIsFull from error
        raise
    with contextlib.closing(connection):
        return database.view(connection)
