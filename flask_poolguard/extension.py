"""``PoolGuard``: wires the parts to an app and holds no logic of its own."""

from __future__ import annotations

import functools
import os
import threading
import typing as t
import weakref
from dataclasses import dataclass, field

from flask.globals import _cv_app

from .config import AppConfig, read_config
from .engines import Found, Guarded, find, guard, plain, watch
from .errors import SetupError
from .pool import Chore, housekeeper
from .tracking.books import Books
from .tracking.keeping import keep
from .tracking.sessions import listen
from .tracking.teardown import Teardown
from .tracking.unavailable import answer_with_503

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .reports.model import Report

EXTENSION: t.Final = "poolguard"

_Kept = t.TypeVar("_Kept")


# Seconds between two looks of a worker at its own figures.
OWN_FINDINGS_EVERY: t.Final = 60.0

# No database extension was looked at yet, not even "there is none".
_NOTHING: t.Final = object()

_states: weakref.WeakSet[AppState] = weakref.WeakSet()


@dataclass(eq=False)
class AppState:
    """What the guard keeps per app, in ``app.extensions["poolguard"]``.

    ``lock`` protects the look for the app's engines.

    :ivar own_findings: what the worker says of itself; kept, or it would not be done.
    :ivar logged: what it has said, by pid, code and bind.
    :ivar seen: the database extension whose engines are guarded.
    """

    config: AppConfig
    books: Books
    engines: list[Guarded] = field(default_factory=list)
    registered: list[Found] = field(default_factory=list)
    teardown: Teardown | None = None
    own_findings: Chore | None = None
    logged: set[tuple[int, str, str]] = field(default_factory=set)
    seen: object = _NOTHING
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        _states.add(self)


class PoolGuard:
    """Guard the database connections of Flask apps.

    :param app: call :meth:`init_app` on this app.
    :raises ConfigError: a ``POOLGUARD_*`` key is unknown or has a wrong value.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        self._waiting: list[Found] = []
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
        state = AppState(config, Books(app, config.state_dir))
        state.registered, self._waiting = self._waiting, []
        # Nothing in here may keep the app alive: a weak reference, taken back.
        reference = weakref.ref(app)
        state.teardown = Teardown(
            app, state.books, lambda: _look_on_push(t.cast("Flask", reference()), state)
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

        :param name: the bind's name in settings, messages and reports.
        :param app: which app; may be left out if there is one, or one is current.
        :raises SetupError: it is not clear which app, or the name is taken.
        """
        found = plain(engine, name)
        app = app or _current_app()
        if app is None and len(self._apps) == 1:
            app = next(iter(self._apps))
        if app is None:
            if self._apps:
                raise SetupError(
                    f"{len(self._apps)} apps share this PoolGuard: say which one the"
                    f" engine {name!r} belongs to with register(…, app=app)."
                )
            self._waiting.append(found)
            return
        state = _state_of(app)
        with state.lock:
            if any(name == each.bind for each in state.registered):
                raise _taken(app, name)
            if state.seen is not _NOTHING:
                _guard(found, app, state)
            state.registered.append(found)

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
        from .reports import Detail, make_report

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
        keep(kept, [each.ledger for state in states for each in state.engines])
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
        from .tracking.renewal import new_number

        app = app or _current_app()
        if app is None:
            raise SetupError("recycle() needs an app context, or recycle(app).")
        state = _state_of(app)
        _have_looked(app, state)
        for each in state.engines:
            each.ledger.renew(new_number())


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
    _have_looked(t.cast("Flask", reference()), state)
    return wsgi_app(environ, start_response)


def _have_looked(app: Flask, state: AppState) -> None:
    if state.seen is not app.extensions.get("sqlalchemy"):
        with app.app_context():
            pass  # its push looks


def _look_on_push(app: Flask, state: AppState) -> None:
    try:
        _look(app, state)
    except BaseException:
        # Flask leaves a context current whose push failed; the next request on this
        # thread would take it for its own and push none.
        _cv_app.get().pop()
        raise


def _log_own_findings(app: Flask | None) -> None:
    from .reports.own import log_findings

    if app is not None:
        state = _state_of(app)
        log_findings(app, state.engines, state.books.path, state.logged)


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
        found = [*find(app), *state.registered]
        if found:  # else the app's database is still to come
            state.config.check_binds([each.bind for each in found])
        for each in found:
            _guard(each, app, state)
        state.seen = extension


def _guard(found: Found, app: Flask, state: AppState) -> None:
    """Guard an engine unless an earlier look has done so."""
    for each in state.engines:
        if each.bind == found.bind:
            if each.engine is found.engine:
                return
            raise _taken(app, found.bind)
    state.engines.append(guard(found, app, state.config, state.books))


def _taken(app: Flask, name: str) -> SetupError:
    return SetupError(
        f"The app {app.name!r} has a bind {name!r} already; register the engine under"
        " another name."
    )


def _after_fork_in_child() -> None:
    for state in list(_states):
        # Another thread of the parent's may have been looking.
        state.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["AppState", "PoolGuard"]
