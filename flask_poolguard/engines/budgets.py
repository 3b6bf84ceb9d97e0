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
from ..databases import ConnectFailure, ServerView, for_dialect
from ..options import AUTO
from ..pool import (
    GuardedPool,
    Places,
    UnpooledEntry,
    answers_within,
    are_threads_greenlets,
    blocker_of,
)
from ..tracking.app_tracker import app_tracker_of
from ..tracking.context_cleanup import ContextCleanup
from ..tracking.listener_context import listener_context
from ..tracking.pool_tracker import PoolTracker
from ..urls import public_url, server_key

if t.TYPE_CHECKING:
    from ..budget import Standing

# For a server's answer.
_SECONDS: t.Final = 5.0


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
        ask = functools.partial(_ask, weakref.ref(engine), weakref.ref(tracker))
        database, hosts = engine.url.database or "", settings.budget_hosts.value
        budget.go_by(None, AutoLimit(ask, database, hosts))
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
    engine_ref: Callable[[], Engine | None],
    tracker_ref: Callable[[], PoolTracker | None],
) -> ServerView | None:
    """Return what the server says of itself, on a connection made as the pool would
    make it; None if the engine is gone.

    :raises CannotAsk: all greenlets would stand still for the answer.
    :raises ServerIsFull: it has no room for that connection.
    :raises Exception: another error of a driver's, or a listener's; or the answer took
        too long.
    """
    from ..budget import CannotAsk, ServerIsFull

    engine, tracker = engine_ref(), tracker_ref()
    if engine is None or tracker is None:
        return None
    driver = getattr(engine.dialect, "driver", "")
    if are_threads_greenlets() and blocker_of(driver):
        raise CannotAsk(f"{driver} would block all greenlets of this worker meanwhile")
    app_tracker, app, database = app_tracker_of(tracker), tracker.app, tracker.database
    within: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if app is not None and app_tracker is not None:
        within = listener_context(app, ContextCleanup(app_tracker))
    with within:
        try:
            connection = engine.pool._invoke_creator(UnpooledEntry())
        except Exception as error:
            if database.connect_failure(error) is ConnectFailure.FULL:
                raise ServerIsFull from error
            raise
        views: list[ServerView] = []

        def ask() -> bool:
            views.append(database.view(connection))
            return True

        with contextlib.closing(connection):
            if not answers_within(ask, database.fileno_of(connection), _SECONDS):
                raise TimeoutError
        return views[0]
