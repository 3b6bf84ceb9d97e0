"""Whether a server has started this process to serve the app, before it does, and with
how many threads.

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
# And of what forks a process that is to serve.
_GUNICORN_FORK: t.Final = ("gunicorn.arbiter", "spawn_worker")

# What may stand between that and os.fork(), and what calls the hooks here.
_BETWEEN: t.Final = ("gevent.", __package__.partition(".")[0] + ".")


# Options with which uWSGI serves many requests in one thread.
_GREENLETS: t.Final = frozenset({"async", "gevent", "asyncio", "ugreen"})


class _Fork:
    """Who forked this process, as far as hooks were run.

    :ivar by_server: a server, to serve.
    :ivar by_app: something else.
    :ivar threads: how many threads are to serve; None is unknown.
    """

    by_server = by_app = False
    threads: int | None = None


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
            return inner
    return frame if _uwsgi_worker() else None


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


def serving_threads() -> int | None:
    """Return how many threads answer requests in this process, while a server loads the
    app here, or after it has forked the process for that; None where that is not known,
    or where there is no limit (greenlets, Flask's development server).
    """
    if _uwsgi_worker():
        return _threads_of_uwsgi()
    if _Fork.by_server:
        return _Fork.threads
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if _name_of(frame) == _GUNICORN:
            return _threads_of_gunicorn(frame.f_locals.get("self"))
        if _name_of(frame) == _WAITRESS:
            return _threads_of_waitress(frame.f_locals.get("kw"))
        frame = frame.f_back
    return None


def _threads_of_gunicorn(worker: t.Any) -> int | None:
    """Return ``--threads`` of a worker that serves in threads, 1 of a sync one."""
    kinds = {each.__module__ for each in type(worker).__mro__}
    if "gunicorn.workers.gthread" in kinds:
        threads = getattr(getattr(worker, "cfg", None), "threads", None)
        return threads if type(threads) is int else None
    return 1 if "gunicorn.workers.sync" in kinds else None


def _threads_of_waitress(options: t.Any) -> int | None:
    """Return ``--threads``, or what waitress does without."""
    adjustments = sys.modules.get("waitress.adjustments")
    default = getattr(getattr(adjustments, "Adjustments", None), "threads", None)
    told = options.get("threads", default) if isinstance(options, dict) else None
    try:
        return None if told is None else int(told)
    except ValueError:  # waitress will refuse it
        return None


def _threads_of_uwsgi() -> int | None:
    """Return uWSGI's ``threads``; 1 without, but not with loops of greenlets."""
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if not isinstance(options, dict) or not _GREENLETS.isdisjoint(options):
        return None
    told = options.get("threads", b"1")
    return int(told) if isinstance(told, bytes) and told.isdigit() else None


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
    worker = frame.f_locals.get("worker")
    _Fork.by_server = is_worker and _keeps_user(worker)
    _Fork.threads = _threads_of_gunicorn(worker) if is_worker else None


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
