"""The name of what runs now: an endpoint, a background task or a command.

Libraries of tasks are never imported here: a task of theirs runs only where they are
loaded already. With none of them loaded, the question costs one look-up each.
"""

from __future__ import annotations

import sys
import typing as t
from types import CodeType, FrameType, ModuleType

from .checkout import OUTSIDE
from .current_scope import MERGED, current_wsgi_scope, pushed_contexts, request_var
from .named_scope import current_named_scope, named_var

# Where a context keeps its request.
_REQUEST: t.Final = "_request" if MERGED else "request"

# A request that matches no route. Not its path: there is no end of paths, and each
# name takes room in the state file.
NO_ROUTE: t.Final = "(no route)"

# Task names are the app's own, and as a rule much shorter.
_LONGEST: t.Final = 120


def current_endpoint() -> str:
    """Return the named scope, endpoint, background task or command that runs now.

    A task that runs within a request (Celery's eager mode) is part of the request; a
    request that runs within a named scope goes by its own endpoint.
    """
    named = named_var.get()
    if named is None and "flask_socketio" not in sys.modules:  # as a rule
        plain = getattr(request_var.get(None), _REQUEST, None)
        if plain is not None:
            return _shown(plain.endpoint or NO_ROUTE)
    request = current_request()
    named = None if named is None else current_named_scope()
    if named is not None and (request is None or named.request is request):
        response = current_wsgi_scope()
        if response is None or response.began_at <= named.began_at:
            return named.name
    if request is not None:
        if "flask_socketio" in sys.modules:
            event = socketio_event_name(request)
            if event:
                return event
        return _shown(request.endpoint or NO_ROUTE)
    response = current_wsgi_scope()
    if response is not None and response.endpoint:
        return response.endpoint
    if named is not None:
        return named.name
    return current_task_name() or command_name() or OUTSIDE


def current_request() -> t.Any:
    """Return the request that is current, itself and not its proxy; None without."""
    context = request_var.get(None)
    request = None if context is None else getattr(context, _REQUEST)
    if request is None and MERGED:
        # There, a context within a request's knows nothing of the request.
        requests = (getattr(each, _REQUEST, None) for each in pushed_contexts())
        request = next((each for each in requests if each is not None), None)
    return request


def request_endpoint() -> str:
    """Return the endpoint of the request whose context is current."""
    request = getattr(request_var.get(None), _REQUEST, None)
    return _shown((None if request is None else request.endpoint) or NO_ROUTE)


def command_name() -> str | None:
    """Return the running command, such as ``flask seed``."""
    import click

    found = click.get_current_context(silent=True)
    return None if found is None else found.command_path


def current_task_name() -> str | None:
    """Return kind and name of the task that runs, such as ``celery task shop.mail``."""
    modules = sys.modules
    # With every checkout outside of a request; a loop would cost twice as much.
    if (
        "celery._state" in modules
        or "rq.job" in modules
        or "apscheduler.executors.base" in modules
    ):
        return _find_name(modules)
    return None


def socketio_event_name(request: t.Any) -> str | None:
    """Return the event that Flask-SocketIO calls a handler for, such as ``socketio
    chat``; None within any other request.

    The request is that of the handshake, so it has no endpoint to go by.
    """
    event = getattr(request, "event", None)
    name = event.get("message") if isinstance(event, dict) else None
    return f"socketio {plain_name(name)}" if isinstance(name, str) else None


def _find_name(modules: t.Mapping[str, ModuleType]) -> str | None:
    for loaded, kind, find in _FINDERS:
        module = modules.get(loaded)
        if module is not None:
            name = _ask(find, module)
            if name:
                return f"{kind} {plain_name(name)}"
    return None


def _ask(find: t.Callable[[t.Any], str | None], module: ModuleType) -> str | None:
    try:
        return find(module)
    except Exception:  # a release that keeps it elsewhere, or one half imported
        return None


def _find_celery(state: t.Any) -> str | None:
    task = state.get_current_task()
    return None if task is None else task.name


def _find_rq(job_module: t.Any) -> str | None:
    # Kept in `_job_stack` up to RQ 2, in a context variable since RQ 3.
    job = job_module.get_current_job()
    return None if job is None else job.func_name


def _find_apscheduler(base: t.Any) -> str | None:
    """Look for the executor's function, which alone knows the job (APScheduler 3)."""
    runners: tuple[CodeType, ...] = tuple(
        getattr(base, name).__code__
        for name in ("run_job", "run_coroutine_job")
        if hasattr(base, name)
    )
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in runners:
            job = frame.f_locals["job"]
            name: str = job.name or job.id
            return name
        frame = frame.f_back
    return None


def _shown(endpoint: str) -> str:
    # With every checkout: nearly all are their own.
    return endpoint if endpoint.isprintable() else plain_name(endpoint)


def plain_name(name: str) -> str:
    """Return a name as it fits in a line of the log."""
    if not name.isprintable():
        name = "".join(char if char.isprintable() else "?" for char in name)
    return name[:_LONGEST]


_FINDERS: t.Final[tuple[tuple[str, str, t.Callable[[t.Any], str | None]], ...]] = (
    ("celery._state", "celery task", _find_celery),
    ("rq.job", "rq job", _find_rq),
    ("apscheduler.executors.base", "apscheduler job", _find_apscheduler),
)
