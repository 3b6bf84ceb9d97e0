"""Whether a server has started this process to serve the app, before it does.

A process is a worker from its first request or connection on, under any server. The
servers that are known here say so earlier:

===============  ==========================  ===================================
server           the app is made in          it is known by
===============  ==========================  ===================================
gunicorn         each worker                 ``load_wsgi`` on the stack
gunicorn         its master (``--preload``)  ``spawn_worker`` calls ``os.fork``
uWSGI            each worker (``lazy-apps``)  ``uwsgi.worker_id()``
uWSGI            its master                  ``uwsgi.post_fork_hook``
waitress-serve   its process                 ``waitress.runner.run`` on the stack
``flask run``    its process                 the command of click's context
===============  ==========================  ===================================

What is on the stack tells a worker from a script, a shell, a command, a test run and
the master, which import the same modules and inherit the same environment. A child that
the app itself forks is none, though a server started its parent. Checked on gunicorn
27.0, uWSGI 2.0.31, waitress 3.0 and Flask 3.1; where a server has other names, its
workers are known from their first request.

The same frames tell with how many threads the server was told to serve.
"""

from __future__ import annotations

import importlib
import os
import sys
import typing as t
from collections.abc import Callable
from types import FrameType

import click
from flask.cli import run_command
from flask.helpers import get_debug_flag
from werkzeug.serving import is_running_from_reloader

from ..pool import after_fork_in_child

# Module and function of what loads the app, in the process that is to serve it.
_GUNICORN: t.Final = ("gunicorn.workers.base", "load_wsgi")
_WAITRESS: t.Final = ("waitress.runner", "run")
_FLASK: t.Final = ("flask.cli", "load_app")
# Of workers that serve as many requests at a time as they have threads.
_GUNICORN_THREADS: t.Final = "gunicorn.workers.gthread"
_GUNICORN_SYNC: t.Final = "gunicorn.workers.sync"
# And of what forks a process that is to serve.
_GUNICORN_FORK: t.Final = ("gunicorn.arbiter", "spawn_worker")

# What may stand between that and os.fork(), and what calls the hooks here.
_BETWEEN: t.Final = ("gevent.", __package__.partition(".")[0] + ".")


class _Fork:
    """Who forked this process, as far as hooks were run.

    :ivar by_server: a server, to serve.
    :ivar by_app: something else.
    """

    by_server = by_app = False


class _Server:
    """What is known of the server that serves here.

    :ivar threads: with how many it serves; None if that is not known.
    """

    threads: int | None = None


def server_threads() -> int | None:
    """Return with how many threads the server serves requests here: what was set, not
    those that it has started so far. None if that is not known.
    """
    return _Server.threads


def loading_frame() -> FrameType | None:
    """Return the frame in which a server loads the app that is to be served here, or
    None if no known server does.
    """
    if _Fork.by_app:
        return None
    inner = frame = sys._getframe()
    while frame.f_back is not None:
        inner, frame = frame, frame.f_back
        name = _name_of(frame)
        if name in (_GUNICORN, _WAITRESS) or (name == _FLASK and _is_flask_run()):
            _Server.threads = _threads_told_by(name, frame)
            return inner
    if not _uwsgi_worker():
        return None
    _Server.threads = _uwsgi_threads()
    return frame


def _threads_told_by(name: tuple[str, str], frame: FrameType) -> int | None:
    """Return the threads of the server in whose frame the app is loaded; the
    development server starts one for each request.
    """
    if name == _GUNICORN:
        return _gunicorn_threads(frame.f_locals.get("self"))
    return _waitress_threads(frame.f_locals.get("kw")) if name == _WAITRESS else None


def _gunicorn_threads(worker: t.Any) -> int | None:
    """Return the threads of a worker of gunicorn's; one of greenlets has no number."""
    modules = {each.__module__ for each in type(worker).__mro__}
    if _GUNICORN_THREADS in modules:
        return _number(getattr(getattr(worker, "cfg", None), "threads", None))
    return 1 if _GUNICORN_SYNC in modules else None


def _waitress_threads(arguments: t.Any) -> int | None:
    adjustments: t.Any = sys.modules.get("waitress.adjustments")
    default = getattr(getattr(adjustments, "Adjustments", None), "threads", None)
    if not isinstance(arguments, dict):
        return None
    return _number(arguments.get("threads", default))


def _uwsgi_threads() -> int | None:
    return _number(getattr(sys.modules.get("uwsgi"), "cores", None))


def _number(value: t.Any) -> int | None:
    """Return what a server calls its threads, if that is a number of some."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    return number if number > 0 else None


def is_over(frame: FrameType) -> bool:
    """Tell whether a frame has come to its end, in whichever thread or greenlet it ran.

    Lets go of what it keeps alive then.
    """
    try:
        frame.clear()
    except RuntimeError:  # it runs, or is suspended
        return False
    return True


def was_forked_to_serve() -> bool:
    """Tell whether a known server has forked this process as a worker, and lets it run
    as the user that it is now.
    """
    return _Fork.by_server


def call_after_uwsgi_fork(callback: Callable[[], None]) -> None:
    """Let uWSGI call this in each worker that it forks, beside what it was told before.

    It runs no hook of ``os`` unless told so.
    """
    uwsgi: t.Any = sys.modules.get("uwsgi")
    if not hasattr(uwsgi, "worker_id") or uwsgi.worker_id() > 0:
        return
    before = getattr(uwsgi, "post_fork_hook", None)

    def forked() -> None:
        if before is not None:
            before()
        if _uwsgi_worker():  # a mule, or a spooler, is none
            _Server.threads = _uwsgi_threads()
            callback()

    try:
        # It sets the hook itself, whenever it is first imported.
        decorators: t.Any = importlib.import_module("uwsgidecorators")
    except Exception:  # not installed; it refuses a uWSGI without a master
        uwsgi.post_fork_hook = forked
    else:
        before = None
        decorators.postfork(forked)


@after_fork_in_child
def _note_fork() -> None:
    frame: FrameType | None = sys._getframe()
    while frame is not None and _name_of(frame)[0].startswith(_BETWEEN):
        frame = frame.f_back
    if frame is None:  # uWSGI, which tells by its own hook
        _Fork.by_server = _Fork.by_app = False
        return
    is_worker = _name_of(frame) == _GUNICORN_FORK
    _Fork.by_app = not is_worker
    if is_worker:
        _Server.threads = _gunicorn_threads(frame.f_locals.get("worker"))
    _Fork.by_server = is_worker and _keeps_user(frame.f_locals.get("worker"))


def _keeps_user(worker: t.Any) -> bool:
    """Tell whether a worker of gunicorn's goes on as this user (``--user``): the folder
    of its state file is its user's.
    """
    uid = getattr(getattr(worker, "cfg", None), "uid", None)
    return uid in (None, os.geteuid())


def _is_flask_run() -> bool:
    """Tell whether ``flask run`` loads the app to serve it: not the process that only
    watches the one that does (the reloader).
    """
    context = click.get_current_context(silent=True)
    if context is None or context.command is not run_command:
        return False
    reload = context.params.get("reload")
    if reload is None:
        reload = get_debug_flag()
    return not reload or is_running_from_reloader()


def _uwsgi_worker() -> bool:
    uwsgi: t.Any = sys.modules.get("uwsgi")
    return hasattr(uwsgi, "worker_id") and uwsgi.worker_id() > 0


def _name_of(frame: FrameType) -> tuple[str, str]:
    return str(frame.f_globals.get("__name__")), frame.f_code.co_name
