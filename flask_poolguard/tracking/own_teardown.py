"""Running the app's own teardown functions, so that one error does not undo the rest.

The functions stay on the app's list as they are, and Flask calls them. Only what the
database extension's own, unchanged function raises, such as when its connection was
killed, is not what the app asked for: it is logged, and the functions after it are
called as if it had not raised.
"""

from __future__ import annotations

import sys
import typing as t
import weakref
from collections.abc import Callable

from flask import Flask, appcontext_tearing_down

from .holding import current_endpoint
from .sessions import is_extensions_own, say_not_closed

if t.TYPE_CHECKING:
    from types import TracebackType

_TEARDOWN: t.Final = Flask.do_teardown_appcontext.__code__


def run_teardown(
    app_ref: weakref.ref[Flask],
    original: Callable[..., None],
    args: tuple[t.Any, ...],
    kwargs: dict[str, t.Any],
) -> bool:
    """Run Flask's teardown of an app context.

    :return: whether the database extension's own function raised.
    :raises BaseException: what any other function raised.
    """
    raising = sys.exc_info()[1]
    try:
        original(*args, **kwargs)
    except Exception as error:
        app = app_ref()
        left = None if app is None else _left_after(app, error)
        if app is None or left is None:
            raise
        say_not_closed(current_endpoint(), error)
        _go_on(app, left, _given(args, kwargs, raising))
        return True
    return False


def _left_after(app: Flask, error: Exception) -> list[Callable[..., t.Any]] | None:
    """Return the functions that Flask did not call because the extension's raised; None
    if it was not that one.

    Flask before 3.2 calls them in a loop, the variable of which names the culprit.
    """
    frames = (each.tb_frame for each in _steps(error.__traceback__))
    loop = next((each for each in frames if each.f_code is _TEARDOWN), None)
    function = None if loop is None else loop.f_locals.get("func")
    functions = app.teardown_appcontext_funcs
    if function not in functions or not is_extensions_own(function):
        return None
    return functions[: functions.index(function)]


def _steps(traceback: TracebackType | None) -> t.Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _given(
    args: tuple[t.Any, ...],
    kwargs: dict[str, t.Any],
    raising: BaseException | None,
) -> BaseException | None:
    """Return the exception that the functions are told, as Flask finds it."""
    found = kwargs.get("exc", args[-1] if args else raising)
    return found if isinstance(found, BaseException) else None


def _go_on(
    app: Flask, functions: list[Callable[..., t.Any]], exc: BaseException | None
) -> None:
    for function in reversed(functions):
        try:
            app.ensure_sync(function)(exc)
        except Exception as error:
            if not is_extensions_own(function):
                raise
            say_not_closed(current_endpoint(), error)
    appcontext_tearing_down.send(app, _async_wrapper=app.ensure_sync, exc=exc)
