"""``PoolGuard``: wires the parts to an app and holds no logic of its own."""

from __future__ import annotations

import functools
import threading
import typing as t
import weakref

from .app_setup import set_up
from .app_state import NOT_LOOKED, AppState, guard_engine, state_of
from .config import read_config
from .engines import (
    Registry,
    Waiting,
    forget_engine,
    note_waiting,
    plain,
    sync_engine_of,
)
from .errors import SetupError
from .guarded_apps import EXTENSION
from .named_blocks import block_of
from .repeated_views import repeat_once
from .tracking.keep import keep
from .which_app import app_for, looked_app

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flask import Blueprint, Flask
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .report.model import Report
    from .tracking.pool_stat import Stat
    from .tracking.scope_block import ScopeBlock
    from .web.access import Auth

_Kept = t.TypeVar("_Kept")
_View = t.TypeVar("_View", bound="Callable[..., t.Any]")


class PoolGuard:
    """Guard the database connections of Flask apps.

    :param app: call :meth:`init_app` on this app.
    :raises ConfigError: a ``POOLGUARD_*`` key is unknown or has a wrong value.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        # Registered before there was an app.
        self._waiting: Waiting = {}
        self._lock = threading.RLock()
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        apps = ", ".join(sorted(app.name for app in self._apps))
        return f"<PoolGuard of {apps or 'no app yet'}>"

    def init_app(self, app: Flask) -> None:
        """Guard an app, before or after its database extension was set up.

        No connection is made; the engines are looked for when the first app context
        is pushed. In a process that a known server has started to serve the app, its
        state file and the housekeeper's threads are begun, else with the first request.

        :raises ConfigError: a ``POOLGUARD_*`` key is unknown or has a wrong value.
        :raises SetupError: the app has a guard already.
        """
        if EXTENSION in app.extensions:
            raise SetupError(
                f"The app {app.name!r} has a PoolGuard already. Call PoolGuard(app) or"
                " init_app(app) once per app; one PoolGuard can serve several apps."
            )
        config = read_config(app.config)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        set_up(app, config, waiting)
        self._apps.add(app)

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
        app = app_for(app, self._apps, f"the engine {name!r} belongs to with register")
        if app is None:
            with self._lock:
                note_waiting(engine, name, self._waiting)
            return
        state = state_of(app)
        with state.lock:
            if state.seen is NOT_LOOKED:
                note_waiting(engine, name, state.registered)
            else:
                guard_engine(plain(engine, name), app, state, is_registered=True)

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
        app = app_for(app, self._apps, "to look in with unregister")
        if app is None:
            with self._lock:
                forget_engine(engine, self._waiting, Registry(), "This PoolGuard")
            return
        state = state_of(app)
        with state.lock:
            where = f"The app {app.name!r}"
            forget_engine(engine, state.registered, state.guarded, where)

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

        app, state = looked_app(app, "report")
        return make_report(
            app,
            state.config,
            state.engines,
            detail=Detail.SESSIONS if sessions else Detail.VIEW,
            seconds=seconds,
        )

    def stat(self, app: Flask | None = None) -> dict[str, Stat]:
        """Return the figures of this process's own pools.

        Cheap enough for each request: it asks no database, reads no file and knows no
        other worker; :meth:`report` does. The counts begin with the process.

        :param app: the current app if left out.
        :return: by bind, ``default`` first, a dict of numbers; None is unknown, which
            some are for a pool that keeps its own class. The limits: ``size`` (0 for
            none) and ``max_overflow`` (-1 for none). Now: ``checked_out``, ``idle``,
            ``overflow`` (connections above ``size``), ``waiting`` and ``connecting``
            (threads), ``longest_held_seconds`` (without what is kept on purpose; 0.0
            if nothing is out). Since the start: ``peak_checked_out``, ``checkouts``,
            ``connects``, ``timeouts``, ``unavailable``, ``leaks``.
        :raises SetupError: there is no app, or it has no PoolGuard.
        """
        from .tracking.pool_stat import stat_of

        _, state = looked_app(app, "stat")
        engines = sorted(state.engines, key=lambda e: (e.bind != "default", e.bind))
        return {each.bind: stat_of(each.tracker) for each in engines}

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
        states = [state_of(app) for app in list(self._apps)]
        keep(kept, [each.tracker for state in states for each in state.engines])
        return kept

    def scope(self, name: str) -> ScopeBlock:
        """Give a thread or task a scope of its own, without an app context.

        A context manager, and a decorator that opens one for each call. What the block
        takes and does not give back is given back at its end, as at the end of a
        request; leaks, findings and ``flask pool status`` show it under the name. It
        holds for the thread, greenlet or asyncio task that enters it, not for those
        that this one starts. A request or app context within it has a scope of its own.

        :param name: such as ``"nightly export"``; cut off after 120 characters.
        :return: a context manager; to enter it again, also in another thread, opens
            one more scope. A function that it decorates may be async, but no generator.
        :raises TypeError: the name is no text, or what is decorated is a class or a
            generator function.
        :raises ValueError: the name is empty.
        """
        return block_of(name, self._apps)

    @t.overload
    def retry_on_disconnect(self, view: _View) -> _View: ...

    @t.overload
    def retry_on_disconnect(
        self, *, methods: Iterable[str] = ...
    ) -> Callable[[_View], _View]: ...

    def retry_on_disconnect(
        self,
        view: t.Any = None,
        *,
        methods: Iterable[str] = ("GET", "HEAD"),
    ) -> t.Any:
        """Call a view once more if its connection was lost before the first answer.

        A decorator, below ``@app.route``. The view is called again, with a fresh
        ``db.session``, if the first statement of the whole request lost its connection
        while it was executed, and if it only reads. Nothing is repeated after an
        answer, in a flush or a commit, while a session has unsaved changes, or twice.

        :param methods: HTTP methods of the requests for which it is.
        :raises TypeError: it decorates a class, an async or a generator function, or
            *methods* is one text.
        """
        decorate = functools.partial(repeat_once, methods=methods)
        return decorate if view is None else decorate(view)

    def recycle(self, app: Flask | None = None) -> None:
        """Replace all connections of this process, each as soon as it is not in use.

        Those that are idle are closed before this returns, those that are out when
        they come back; a checkout from now on gets a new one. For
        after a change of credentials or of where the database is. ``flask pool
        recycle`` does the same in all workers.

        :param app: the current app if left out.
        :raises SetupError: there is no app, or it has no PoolGuard.
        """
        from .state.recycle_requests import new_number

        _, state = looked_app(app, "recycle")
        for each in state.engines:
            each.tracker.renew(new_number())

    def blueprint(self, *, auth: Auth = ..., probes_open: bool = False) -> Blueprint:
        """Return pages that show the pools of all workers: live, as JSON, as metrics,
        and as probes. They touch no pool and ask no server. Without a ``url_prefix``
        they are below ``/pools``.

        :param auth: called with each request; true lets it see the page, anything else,
            or an exception, is 404. None lets all see it. It can be left out in debug
            mode only: :exc:`SetupError` when the blueprint is registered.
        :param probes_open: ``/live`` and ``/ready`` do not ask ``auth``.
        :raises TypeError: ``auth`` cannot be called.
        """
        from .web import make_blueprint

        return make_blueprint(auth, probes_open=probes_open)


__all__ = ["AppState", "PoolGuard"]
