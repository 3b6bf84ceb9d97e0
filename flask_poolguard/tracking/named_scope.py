"""Scopes with a name of their own, and which of them is current in a thread."""

from __future__ import annotations

import contextvars
import sys
import typing as t
import weakref

from .scope import Scope
from .thread_marks import this_thread

if t.TYPE_CHECKING:
    import asyncio


class NamedScope(Scope):
    """A block that ``guard.scope(name)`` has opened, until its end.

    :ivar name: what its connections are reported under.
    :ivar outer: the named scope around it.
    :ivar request: the request that it was opened in.
    :ivar task: the asyncio task that it was opened in. Tasks that this one starts
        inherit the variable, but outlive the block.
    """

    def __init__(self, name: str, request: object) -> None:
        super().__init__(None, this_thread.mark.ref)
        self.name = name
        self.outer = current_named_scope()
        self.request: object = request
        task = _running_task()
        self.task = None if task is None else weakref.ref(task)

    def end(self) -> None:
        """Note that it is over, and let go of its request."""
        super().end()
        self.request = None

    def is_here(self) -> bool:
        """Tell whether this thread, greenlet or asyncio task has opened it."""
        if self.mark is not this_thread.mark.ref:
            return False
        if self.task is None:
            return True
        task = self.task()  # None once it was collected
        return task is not None and task is _running_task()


# The named scope that was opened last. Threads, greenlets and asyncio tasks that start
# with a copied context inherit it; it is not current there.
named_var: contextvars.ContextVar[NamedScope | None] = contextvars.ContextVar(
    "flask_poolguard.named_scope", default=None
)


def current_named_scope() -> NamedScope | None:
    """Return the innermost open scope of this thread and task that has a name."""
    scope = named_var.get()
    while scope is not None and (scope.ended or not scope.is_here()):
        scope = scope.outer
    return scope


def _running_task() -> asyncio.Task[t.Any] | None:
    tasks = sys.modules.get("asyncio.tasks")  # an event loop has loaded it
    if tasks is None:
        return None
    try:
        return t.cast("asyncio.Task[t.Any] | None", tasks.current_task())
    except RuntimeError:  # no event loop runs in this thread
        return None
