"""``guard.scope(name)``: a scope for a block or function without an app context."""

from __future__ import annotations

import functools
import inspect
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
        self._opened: list[NamedScope] = []

    def __repr__(self) -> str:
        return f"<scope {self._name!r}, open {len(self._opened)} times>"

    def __enter__(self) -> None:
        """Open a scope, which is current in this thread or asyncio task only."""
        self._on_enter()
        scope = NamedScope(self._name, current_request())
        self._opened.append(scope)
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
        opened = list(self._opened)
        # One that several threads have entered: this thread's own.
        scope = next((each for each in reversed(opened) if each.is_here()), opened[-1])
        self._opened.remove(scope)
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
                with self:
                    return await function(*args, **kwargs)

            return t.cast("_Function", call_async)

        @functools.wraps(function)
        def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
            with self:
                return function(*args, **kwargs)

        return t.cast("_Function", call)


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
