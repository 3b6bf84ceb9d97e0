"""``guard.scope(name)``: a scope for a block or function without an app context."""

from __future__ import annotations

import functools
import inspect
import sys
import typing as t
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from flask.globals import _cv_app

from .endpoint import current_request, plain_name
from .leaks import Reclaimer
from .named_scope import NamedScope, named_var

if t.TYPE_CHECKING:
    from types import TracebackType

    from flask import Flask

    from .checkout import Checkout
    from .pool_tracker import PoolTracker

    _Function = t.TypeVar("_Function", bound=Callable[..., t.Any])

_REFUSED: t.Final = (
    (inspect.isclass, "a class"),
    (inspect.isgeneratorfunction, "a generator function"),
    (inspect.isasyncgenfunction, "an asynchronous generator function"),
)


class ScopeBlock:
    """A context manager and decorator that opens a named scope.

    It may be entered several times, also within itself and by several threads.

    :param name: what the connections of the scope are reported under.
    :param on_enter: called before a scope is opened.
    :param trackers: returns the trackers of the guarded pools.
    :param on_error: called with an error that ends the scope.
    :raises TypeError: the name is no text.
    :raises ValueError: the name is empty.
    """

    def __init__(
        self,
        name: str,
        *,
        on_enter: Callable[[], None],
        trackers: Callable[[], Iterable[PoolTracker]],
        on_error: Callable[[BaseException], None],
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"scope() takes a name, such as scope('nightly export'); not"
                f" {type(name).__name__}"
            )
        if not name.strip():
            raise ValueError("scope() takes a name that is not empty")
        self._name = plain_name(name)
        self._on_enter, self._trackers = on_enter, trackers
        self._on_error = on_error
        # Of with blocks, each with the identity of the frame that has entered it.
        self._entered: list[tuple[int, NamedScope]] = []
        self._called: set[NamedScope] = set()

    def __repr__(self) -> str:
        count = len(self._entered) + len(self._called)
        return f"<scope {self._name!r}, open {count} times>"

    def __enter__(self) -> None:
        """Open a scope, which is current in this thread or asyncio task only."""
        scope = self._open()
        self._entered.append((id(sys._getframe(1)), scope))
        named_var.set(scope)

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it: give back what was taken within it.

        :raises LeakError: for pools with ``POOLGUARD_ON_LEAK="raise"``, unless the
            block itself raised.
        :raises LeakWarning: likewise, if a filter makes it an error.
        """
        entered = self._entering_of(id(sys._getframe(1)))
        self._entered.remove(entered)
        self._close(entered[1], error)

    def _entering_of(self, frame: int) -> tuple[int, NamedScope]:
        """Return what a frame has entered, of several that have.

        A generator that is suspended within its block may be closed within any other
        one, also by the garbage collector. What was not entered by a ``with``
        statement has another frame at its end; it is the newest of this thread or task.
        """
        entered = self._entered[::-1]
        here = (each for each in entered if each[1].is_here())
        same = (each for each in entered if each[0] == frame)
        return next(same, None) or next(here, entered[0])

    def open_call(self) -> NamedScope:
        """Open a scope for a call of a decorated function, which is to keep it."""
        scope = self._open()
        self._called.add(scope)
        named_var.set(scope)
        return scope

    def close_call(self, scope: NamedScope, error: BaseException | None) -> None:
        """End the scope of a call.

        Of a coroutine that its event loop has abandoned, the garbage collector ends
        the call, in the middle of anything. Then nothing is given back here.

        :raises LeakError: as at the end of a block.
        :raises LeakWarning: likewise.
        """
        self._called.discard(scope)
        if scope.is_here():
            self._close(scope, error)
        else:
            _leave_behind(scope)

    def _open(self) -> NamedScope:
        self._on_enter()
        return NamedScope(self._name, current_request())

    def _close(self, scope: NamedScope, error: BaseException | None) -> None:
        try:
            if error is not None:
                self._on_error(error)
        finally:
            self._end(scope, may_raise=error is None)

    def _end(self, scope: NamedScope, may_raise: bool) -> None:
        reclaimer = Reclaimer()
        try:
            reclaimer.end_scope(scope)
            for tracker in self._trackers():
                if tracker.left_behind:
                    reclaimer.end_left_behind(tracker.left_behind)
        finally:
            if named_var.get() is scope:
                named_var.set(scope.outer)
            if scope.returner is not None:
                scope.returner.end()
            if reclaimer.leaks:
                _report(reclaimer, may_raise)

    def __call__(self, function: _Function) -> _Function:
        """Open a scope of its own for each call of a function, also an async one.

        :raises TypeError: it is a generator function, which runs after its call, or a
            class.
        """
        for is_refused, what in _REFUSED:
            if is_refused(function):
                raise TypeError(
                    f"scope() cannot decorate {what}; use `with guard.scope"
                    f"({self._name!r}):` where the connections are used"
                )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: t.Any, **kwargs: t.Any) -> t.Any:
                with _Call(self):
                    return await function(*args, **kwargs)

            return t.cast("_Function", call_async)

        @functools.wraps(function)
        def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
            with _Call(self):
                return function(*args, **kwargs)

        return t.cast("_Function", call)


class _Call:
    """One call of a decorated function. All calls share the block, but not this."""

    __slots__ = ("_block", "_scope")

    def __init__(self, block: ScopeBlock) -> None:
        self._block = block

    def __enter__(self) -> None:
        self._scope = self._block.open_call()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._block.close_call(self._scope, error)


def _leave_behind(scope: NamedScope) -> None:
    """End a scope, and leave its connections to the ends of later scopes.

    Its returner is left to the housekeeper: to end it may need a lock that is held.
    """
    scope.end()
    for checkout in list(scope.checkouts):
        checkout.pool.left_behind.add(checkout)


def _report(reclaimer: Reclaimer, may_raise: bool) -> None:
    """Report leaks, each within a context of its app: receivers may use the database.

    :raises LeakError: as of :meth:`Reclaimer.report`.
    :raises LeakWarning: likewise.
    """
    by_app: dict[Flask | None, list[tuple[Checkout, t.Any]]] = {}
    for checkout, leak in reclaimer.leaks:
        by_app.setdefault(checkout.pool.app, []).append((checkout, leak))
    with ExitStack() as stack:  # each, even if one of them raises
        for app, leaks in by_app.items():
            part = Reclaimer()
            part.leaks = leaks
            stack.callback(_report_of_app, part, app, may_raise)


def _report_of_app(reclaimer: Reclaimer, app: Flask | None, may_raise: bool) -> None:
    context = _cv_app.get(None)
    if app is None or (context is not None and context.app is app):
        reclaimer.report(may_raise)
        return
    with app.app_context():
        reclaimer.report(may_raise)
