"""The name of the background task that runs now.

The libraries are never imported here: a task of theirs runs only where they are loaded
already. With none of them loaded, the question costs one look-up each.
"""

from __future__ import annotations

import sys
import typing as t
from types import CodeType, FrameType, ModuleType

# Task names are the app's own, and as a rule much shorter.
_LONGEST: t.Final = 120


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
    return f"socketio {_plain(name)}" if isinstance(name, str) else None


def _find_name(modules: t.Mapping[str, ModuleType]) -> str | None:
    for loaded, kind, find in _FINDERS:
        module = modules.get(loaded)
        if module is not None:
            name = _ask(find, module)
            if name:
                return f"{kind} {_plain(name)}"
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


def _plain(name: str) -> str:
    """Return a name as it fits in a line of the log."""
    if not name.isprintable():
        name = "".join(char if char.isprintable() else "?" for char in name)
    return name[:_LONGEST]


_FINDERS: t.Final[tuple[tuple[str, str, t.Callable[[t.Any], str | None]], ...]] = (
    ("celery._state", "celery task", _find_celery),
    ("rq.job", "rq job", _find_rq),
    ("apscheduler.executors.base", "apscheduler job", _find_apscheduler),
)
