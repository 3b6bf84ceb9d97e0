"""``PoolGuard``: wires the parts to an app and holds no logic of its own."""

from __future__ import annotations

import functools
import os
import threading
import typing as t
import weakref
from dataclasses import dataclass, field

from flask.globals import _cv_app

from .config import (
    AppConfig,
    has_changed,
    read_config,
    read_config_again,
    snapshot,
    warn_of_fixed,
)
from .engines import (
    Found,
    Guarded,
    Registry,
    check_followed,
    find,
    guard,
    plain,
    reconfigure,
    sync_engine_of,
    watch,
)
from .errors import SetupError
from .pool import Chore, housekeeper
from .tracking.app_tracker import AppTracker
from .tracking.keep import keep
from .tracking.orm_sessions import listen
from .tracking.teardown import Teardown
from .tracking.unavailable import answer_with_503

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .report.model import Report

EXTENSION: t.Final = "poolguard"

_Kept = t.TypeVar("_Kept")


# Seconds between two looks of a worker at its own figures.
OWN_FINDINGS_EVERY: t.Final = 60.0

# No database extension was looked at yet, not even "there is none".
_NOTHING: t.Final = object()

# Registered, but not looked at yet; nothing in here keeps an engine alive.
Waiting = dict[str, "weakref.ref[Engine]"]

_states: weakref.WeakSet[AppState] = weakref.WeakSet()


@dataclass(eq=False)
class AppState:
    """What the guard keeps per app, in ``app.extensions["poolguard"]``.

    ``lock`` protects the look for the app's engines, and their coming and going.

    :ivar keys: the ``POOLGUARD_*`` keys that ``config`` was read from.
    :ivar is_settled: a request was served; the keys are not looked at any more.
    :ivar guarded: the engines under guard.
    :ivar registered: engines that wait for that look, by their bind's name.
    :ivar own_findings: what the worker says of itself; kept, or it would not be done.
    :ivar logged: what it has said, by pid, code and bind.
    :ivar seen: the database extension whose engines are guarded.
    """

    config: AppConfig
    app_tracker: AppTracker
    keys: dict[str, t.Any]
    is_settled: bool = False
    guarded: Registry = field(default_factory=Registry)
    registered: Waiting = field(default_factory=dict)
    teardown: Teardown | None = None
    own_findings: Chore | None = None
    logged: set[tuple[int, str, str]] = field(default_factory=set)
    seen: object = _NOTHING
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        _states.add(self)

    @property
    def engines(self) -> list[Guarded]:
        """The engines under guard that are not gone."""
        return self.guarded.all()


class PoolGuard:
    """Guard the database connections of Flask apps.

    :param app: call :meth:`init_app` on this app.
    :raises ConfigError: a ``POOLGUARD_*`` key is unknown or has a wrong value.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        # Registered before there was an app.
        self._waiting: Waiting = {}
        self._lock = threading.Lock()
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        apps = ", ".join(sorted(app.name for app in self._apps))
        return f"<PoolGuard of {apps or 'no app yet'}>"

    def init_app(self, app: Flask) -> None:
        """Guard an app, before or after its database extension was set up.

        No connection is made; the engines are looked for when the first app context
        is pushed.

        :raises ConfigError: a ``POOLGUARD_*`` key is unknown or has a wrong value.
        :raises SetupError: the app has a guard already.
        """
        if EXTENSION in app.extensions:
            raise SetupError(
                f"The app {app.name!r} has a PoolGuard already. Call PoolGuard(app) or"
                " init_app(app) once per app; one PoolGuard can serve several apps."
            )
        config = read_config(app.config)
        state = AppState(
            config, AppTracker(app, config.state_dir), snapshot(app.config)
        )
        with self._lock:
            state.registered, self._waiting = self._waiting, {}
        # Nothing in here may keep the app alive: a weak reference, taken back.
        reference = weakref.ref(app)
        state.teardown = Teardown(
            app,
            state.app_tracker,
            lambda: _look_on_push(t.cast("Flask", reference()), state),
        )
        state.own_findings = Chore(
            lambda: _log_own_findings(reference()), OWN_FINDINGS_EVERY
        )
        housekeeper.add(state.own_findings)
        app.wsgi_app = functools.partial(_call, app.wsgi_app, reference, state)  # type: ignore[method-assign] # as Flask wants it replaced
        if config.http_503:
            answer_with_503(app)
        watch(app)
        app.extensions[EXTENSION] = state
        self._apps.add(app)
        if config.cli_group is not None:
            from .cli import make_group

            app.cli.add_command(make_group(config.cli_group))

    def register(
        self,
        engine: Engine | AsyncEngine,
        *,
        name: str = "default",
        app: Flask | None = None,
    ) -> None:
        """Guard an engine that the app made itself with ``create_engine``.

        Before :meth:`init_app` the engine waits for the first app that is set up.

        The guard does not keep the engine alive. An engine takes the place of another
        one of its name that is gone, or that :meth:`register` was given and that was
        disposed of and has not connected since. To register an engine again under its
        name does nothing.

        :param name: the bind's name in settings, messages and reports.
        :param app: which app; may be left out if there is one, or one is current.
        :raises SetupError: it is not clear which app, or the name is taken.
        """
        engine = sync_engine_of(engine)
        app = self._app_for(app, f"the engine {name!r} belongs to with register")
        if app is None:
            with self._lock:
                _wait(engine, name, self._waiting)
            return
        state = _state_of(app)
        with state.lock:
            if state.seen is _NOTHING:
                _wait(engine, name, state.registered)
            else:
                _guard(plain(engine, name), app, state, is_registered=True)

    def unregister(
        self, engine: Engine | AsyncEngine | str, *, app: Flask | None = None
    ) -> None:
        """Take an engine out of status, findings and settings.

        Its pool goes on as it is: its connections are given back when their scope
        ends, and leaks are logged, but no report shows them. Its name is free for
        another engine.

        :param engine: an engine, or the name that it was registered under.
        :param app: which app; may be left out if there is one, or one is current.
        :raises SetupError: it is not clear which app, or it has no such engine.
        """
        if not isinstance(engine, str):
            engine = sync_engine_of(engine)
        app = self._app_for(app, "to look in with unregister")
        if app is None:
            with self._lock:
                _unregister(engine, self._waiting, Registry(), "This PoolGuard")
            return
        state = _state_of(app)
        with state.lock:
            where = f"The app {app.name!r}"
            _unregister(engine, state.registered, state.guarded, where)

    def _app_for(self, app: Flask | None, purpose: str) -> Flask | None:
        """Return the app that is meant, None if there is none yet."""
        app = app or _current_app()
        if app is None and len(self._apps) > 1:
            raise SetupError(
                f"{len(self._apps)} apps share this PoolGuard: say which one"
                f" {purpose}(…, app=app)."
            )
        return app or next(iter(self._apps), None)

    def report(
        self, app: Flask | None = None, *, sessions: bool = False, seconds: float = 0.0
    ) -> Report:
        """Return what ``flask pool status --json`` shows, as data.

        Asks the servers, together for at most 2 s.

        :param app: the current app if left out.
        :param sessions: ask the servers for all their sessions, too, as ``--server``
            does; without it there are no findings about sessions.
        :param seconds: look again after so long, as ``flask pool doctor`` does, so that
            what servers and workers count can be seen to rise. Takes that much longer,
            and 2 s for the second question.
        :raises SetupError: there is no app, or it has no PoolGuard.
        """
        from .report import Detail, make_report

        app = app or _current_app()
        if app is None:
            raise SetupError("report() needs an app context, or report(app).")
        state = _state_of(app)
        _have_looked(app, state)
        return make_report(
            app,
            state.config,
            state.engines,
            detail=Detail.SESSIONS if sessions else Detail.VIEW,
            seconds=seconds,
        )

    def keep(self, kept: _Kept) -> _Kept:
        """Let a connection or session outlive its scope on purpose.

        No end of a request, command or app context takes it back, it is never reported
        as a leak or as held for too long, and ``flask pool status`` shows it as kept,
        with the line that took it. ``close()`` gives it back as ever. For a lock that
        a process holds, a connection that listens, a test's outer transaction.

        :param kept: a Connection, a proxy as ``raw_connection()`` returns it, an ORM
            session (with all that it takes later), or a scoped session, of which the
            current one is meant; also those of SQLAlchemy's asyncio extension.
        :return: the same object.
        :raises TypeError: it is none of these.
        :raises sqlalchemy.exc.ResourceClosedError: the connection is closed.
        """
        states = [_state_of(app) for app in list(self._apps)]
        keep(kept, [each.tracker for state in states for each in state.engines])
        return kept

    def recycle(self, app: Flask | None = None) -> None:
        """Replace all connections of this process, each as soon as nobody has it.

        Those that are idle are closed before this returns, those that are out when
        they come back; whoever asks for a connection from now on gets a new one. For
        after a change of credentials or of where the database is. ``flask pool
        recycle`` does the same in all workers.

        :param app: the current app if left out.
        :raises SetupError: there is no app, or it has no PoolGuard.
        """
        from .state.requests import new_number

        app = app or _current_app()
        if app is None:
            raise SetupError("recycle() needs an app context, or recycle(app).")
        state = _state_of(app)
        _have_looked(app, state)
        for each in state.engines:
            each.tracker.renew(new_number())


def _current_app() -> Flask | None:
    context = _cv_app.get(None)
    return None if context is None else context.app


def _state_of(app: Flask) -> AppState:
    state = app.extensions.get(EXTENSION)
    if state is None:
        raise SetupError(
            f"The app {app.name!r} has no PoolGuard; call init_app(app) first."
        )
    return t.cast(AppState, state)


def _call(
    wsgi_app: WSGIApplication,
    reference: weakref.ref[Flask],
    state: AppState,
    environ: WSGIEnvironment,
    start_response: StartResponse,
) -> t.Iterable[bytes]:
    # Before Flask's own error handling, which needs a request to handle an error.
    if not state.is_settled:
        _read_again(t.cast("Flask", reference()), state)
        state.is_settled = True
    _have_looked(t.cast("Flask", reference()), state)
    return wsgi_app(environ, start_response)


def _have_looked(app: Flask, state: AppState) -> None:
    if state.seen is not app.extensions.get("sqlalchemy"):
        with app.app_context():
            pass  # its push looks


def _look_on_push(app: Flask, state: AppState) -> None:
    try:
        if not state.is_settled:
            _read_again(app, state)
        _look(app, state)
    except BaseException:
        # Flask leaves a context current whose push failed; the next request on this
        # thread would take it for its own and push none.
        _cv_app.get().pop()
        raise


def _log_own_findings(app: Flask | None) -> None:
    from .report.self_check import log_findings

    if app is not None:
        state = _state_of(app)
        with state.lock:
            state.guarded.forget_gone()
        engines = state.engines
        binds = {each.bind for each in engines}
        state.logged = {each for each in state.logged if each[2] in binds}
        log_findings(app, engines, state.app_tracker.path, state.logged)


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
        before, state.keys = state.keys, snapshot(app.config)
        state.config = config
    warn_of_fixed(app.config, before)


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
            _guard(each, app, state, is_registered=False)
        for each in plains:
            _guard(each, app, state, is_registered=True)
            del state.registered[each.bind]
        state.registered.clear()
        state.seen = extension


def _guard(found: Found, app: Flask, state: AppState, *, is_registered: bool) -> None:
    """Guard an engine unless that was done before. Called under the state's lock.

    :raises SetupError: another engine has its name.
    """
    known = state.guarded.get(found.bind)
    if known is not None and known.engine is found.engine:
        return
    if not state.guarded.is_vacant(found.bind):
        raise _taken(f"The app {app.name!r}", found.bind)
    guarded = guard(found, app, state.config, state.app_tracker)
    state.guarded.add(guarded, is_registered=is_registered)
    state.app_tracker.forget_gone()


def _wait(engine: Engine, name: str, waiting: Waiting) -> None:
    """Note an engine that is to be guarded later. Called under a lock.

    :raises SetupError: another engine has its name.
    """
    reference = waiting.get(name)
    before = None if reference is None else reference()
    if before is not None and before is not engine:
        raise _taken("This PoolGuard", name)
    waiting[name] = weakref.ref(engine)


def _unregister(
    engine: Engine | str, waiting: Waiting, guarded: Registry, where: str
) -> None:
    """Forget an engine. Called under a lock.

    :raises SetupError: it is not known, naming those that are.
    """
    known = {name: reference() for name, reference in waiting.items()}
    known |= {each.bind: each.engine for each in guarded.all()}
    names = [name for name, each in known.items() if engine in (name, each)]
    if not names:
        asked = repr(engine) if isinstance(engine, str) else f"engine {engine!r}"
        raise SetupError(
            f"{where} has no {asked} to unregister; it has"
            f" {', '.join(sorted(map(repr, known))) or 'none'}."
        )
    for name in names:
        waiting.pop(name, None)
        guarded.remove(name)


def _taken(where: str, name: str) -> SetupError:
    return SetupError(
        f"{where} has another engine under the name {name!r}. Call"
        f" unregister({name!r}) first if you are done with that one, or register this"
        " one under another name."
    )


def _after_fork_in_child() -> None:
    for state in list(_states):
        # Another thread of the parent's may have been looking.
        state.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["AppState", "PoolGuard"]
