"""What the guard keeps per app, and the look for the app's engines."""

from __future__ import annotations

import threading
import typing as t
import weakref
from dataclasses import dataclass, field

from flask.globals import _cv_app

from .config import (
    AppConfig,
    came_too_late,
    has_changed,
    read_config_again,
    snapshot,
)
from .engines import (
    Found,
    Guarded,
    Registry,
    Waiting,
    check_followed,
    find,
    guard,
    plain,
    reconfigure,
    taken,
)
from .errors import SetupError
from .guarded_apps import EXTENSION
from .log_lines import warn
from .pool import (
    Chore,
    Tended,
    after_fork_in_child,
    after_late_patch,
    late_patch,
)
from .tracking import orm_sessions
from .tracking.app_tracker import AppTracker
from .tracking.idle_filling import IdleFilling
from .tracking.orm_sessions import listen
from .tracking.teardown import Teardown

if t.TYPE_CHECKING:
    from flask import Flask

# No database extension was looked at yet, not even "there is none".
NOT_LOOKED: t.Final = object()

_states: weakref.WeakSet[AppState] = weakref.WeakSet()


@dataclass(eq=False)
class AppState:
    """What the guard keeps per app, in ``app.extensions["poolguard"]``.

    ``lock`` protects the look for the app's engines, and their coming and going.

    :ivar keys: the ``POOLGUARD_*`` keys that ``config`` was read from.
    :ivar is_settled: a request was served; the keys are not looked at any more.
    :ivar is_debug: the app was in debug mode by then; what requests take is recorded.
    :ivar guarded: the engines under guard.
    :ivar registered: engines that wait for that look, by their bind's name.
    :ivar first_look: shows the pools of a worker before its first request; kept, or it
        would not be done.
    :ivar idle_filling: opens idle connections; kept, or it would not be done.
    :ivar own_findings: what the worker says of itself; kept, or it would not be done.
    :ivar logged: what it has said, by pid, code and bind.
    :ivar seen: the database extension whose engines are guarded.
    """

    config: AppConfig
    app_tracker: AppTracker
    keys: dict[str, t.Any]
    is_settled: bool = False
    is_debug: bool = False
    guarded: Registry = field(default_factory=Registry)
    registered: Waiting = field(default_factory=dict)
    teardown: Teardown | None = None
    first_look: Tended | None = None
    idle_filling: IdleFilling = field(init=False)
    own_findings: Chore | None = None
    logged: set[tuple[int, str, str]] = field(default_factory=set)
    seen: object = NOT_LOOKED
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.idle_filling = IdleFilling(self.app_tracker)
        _states.add(self)

    @property
    def engines(self) -> list[Guarded]:
        """The engines under guard that are not gone."""
        return self.guarded.all()


def state_of(app: Flask) -> AppState:
    """Return what the guard keeps of an app.

    :raises SetupError: it has no PoolGuard.
    """
    state = app.extensions.get(EXTENSION)
    if state is None:
        raise SetupError(
            f"The app {app.name!r} has no PoolGuard; call init_app(app) first."
        )
    return t.cast(AppState, state)


def have_looked(app: Flask, state: AppState) -> None:
    """Guard the engines of a database extension that was set up since the last look."""
    if state.seen is not app.extensions.get("sqlalchemy"):
        with app.app_context():
            pass  # its push looks


def look_on_push(state: AppState, app: Flask) -> None:
    """Look for settings and engines that are new, when a context is pushed."""
    if threading.local is not late_patch.local:
        late_patch.notice()
    if state.is_settled and state.seen is app.extensions.get("sqlalchemy"):
        if not orm_sessions.is_listening:
            listen()
        return
    try:
        _read_and_look(app, state)
    except BaseException:
        # Flask leaves a context current whose push failed; the next request on this
        # thread would take it for its own and push none.
        _cv_app.get().pop()
        raise


def look_on_call(state: AppState, app: Flask) -> None:
    """Look for them when a request comes.

    Before Flask's own error handling, which needs a request to handle an error.
    """
    if threading.local is not late_patch.local:
        late_patch.notice()
    if not state.is_settled:
        _read_again(app, state)
        if app.debug:
            _begin_debug_mode(app, state)
        state.is_settled = True
    if state.seen is not app.extensions.get("sqlalchemy"):
        have_looked(app, state)
    if not orm_sessions.is_listening:
        listen()


def _begin_debug_mode(app: Flask, state: AppState) -> None:
    """Record what requests take, and tell it with their errors."""
    from .engines.debug_notes import begin
    from .tracking.request_checkouts import record

    with state.lock:
        if state.is_debug:
            return
        state.is_debug = True
        for each in state.engines:
            record(each.engine, each.tracker)
    begin(app)


def look_without_push(app: Flask, state: AppState) -> None:
    """Look for them without a request, in a thread of the guard's.

    The context is current, so that the database extension can be asked, but is not
    pushed: no signal and no teardown function of the app runs.

    :raises ConfigError: as at start.
    """
    token = _cv_app.set(app.app_context())
    try:
        _read_and_look(app, state)
    finally:
        _cv_app.reset(token)


def _read_and_look(app: Flask, state: AppState) -> None:
    if not state.is_settled:
        _read_again(app, state)
    _look(app, state)


def _read_again(app: Flask, state: AppState) -> None:
    """Follow ``POOLGUARD_*`` keys that were set after ``init_app``.

    :raises ConfigError: as at start; raised again until it is put right.
    """
    if not has_changed(app.config, state.keys):
        return
    with state.lock:
        if not has_changed(app.config, state.keys):
            return
        config = read_config_again(app.config, state.config)
        engines = state.engines
        if engines:
            config.check_binds([*(e.bind for e in engines), *state.registered])
        for each in reconfigure(app, engines, config):
            state.guarded.update(each)
        state.keys = snapshot(app.config)
        state.config = config
    for text in came_too_late(app.config, config):
        warn("setting_too_late", "%s", text)


def _look(app: Flask, state: AppState) -> None:
    """Guard the app's engines, once, with its context pushed.

    Until this has worked it is tried with every context, so that a contradiction in
    the settings is not an error of one request only. An extension that is set up
    later still is found with the next context.
    """
    listen()
    extension = app.extensions.get("sqlalchemy")
    if state.seen is extension:
        return
    with state.lock:
        if state.seen is extension:
            return
        found = find(app)
        waiting = [
            (name, engine)
            for name, reference in state.registered.items()
            if (engine := reference()) is not None
        ]
        binds = [each.bind for each in found]
        binds += [each.bind for each in state.engines]
        binds += [name for name, _ in waiting]
        if binds:  # else the app's database is still to come
            state.config.check_binds(binds)
        plains = [plain(engine, name) for name, engine in waiting]
        check_followed([*found, *plains], state.config)
        for each in found:
            guard_engine(each, app, state, is_registered=False)
        for each in plains:
            guard_engine(each, app, state, is_registered=True)
            del state.registered[each.bind]
        state.registered.clear()
        state.seen = extension


def guard_engine(
    found: Found, app: Flask, state: AppState, *, is_registered: bool
) -> None:
    """Guard an engine unless that was done before. Called under the state's lock.

    :raises SetupError: another engine has its name.
    """
    known = state.guarded.get(found.bind)
    if known is not None and known.engine is found.engine:
        return
    if not state.guarded.is_vacant(found.bind):
        raise taken(f"The app {app.name!r}", found.bind)
    guarded = guard(found, app, state.config, state.app_tracker)
    state.guarded.add(guarded, is_registered=is_registered)
    if state.is_debug:
        from .tracking.request_checkouts import record

        record(guarded.engine, guarded.tracker)
    state.app_tracker.forget_gone()


@after_late_patch
@after_fork_in_child
def _renew_locks() -> None:
    for state in list(_states):
        # Another thread of the parent's may have been looking.
        state.lock = threading.RLock()
