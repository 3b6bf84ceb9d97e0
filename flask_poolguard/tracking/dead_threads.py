"""Gives back what threads took that ended within an app context.

A thread that pushes an app context and never pops it leaves its connections, and the
session that Flask-SQLAlchemy filed under the context, to nothing that could end them.
"""

from __future__ import annotations

import typing as t

from ..errors import POP_CONTEXT
from .extension_sessions import end_filed
from .leaks import Reclaimer
from .scope import ContextScope
from .thread_marks import deserted


def give_back_deserted() -> None:
    """End the scopes of threads that have ended. Never raises a ``LeakError``: it is
    not the fault of whichever thread finds them.
    """
    reclaimer = Reclaimer(POP_CONTEXT)
    while deserted:
        try:
            scope = deserted.popleft()
        except IndexError:  # another thread took the last one
            break
        _end(t.cast(ContextScope, scope), reclaimer)
    reclaimer.report(may_raise=False, found_late=True)


def _end(scope: ContextScope, reclaimer: Reclaimer) -> None:
    context = scope.context
    if scope.ended or context is None:
        return
    if any(each() is not None for each in list(scope.pushers or ())):
        return  # another thread pushed it as well: the last of them counts
    try:
        reclaimer.end_scope(scope)
    finally:
        end_filed(context)


class _DeadThreads:
    """Looks for them with each round of the housekeeper."""

    def tend(self) -> None:
        """Give back what is found."""
        if deserted:
            give_back_deserted()


dead_threads = _DeadThreads()
