"""Goes on with an app's teardown functions after the database extension's raised.

The functions stay on the app's list as they are, and Flask calls them. Only what the
database extension's own, unchanged function raises, such as when its connection was
killed, is not what the app asked for: it is logged, and the functions after it are
called as if it had not raised.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from flask import Flask, appcontext_tearing_down

from .endpoint import current_endpoint
from .extension_sessions import is_extensions_own, say_not_closed

if t.TYPE_CHECKING:
    from types import TracebackType

_TEARDOWN: t.Final = Flask.do_teardown_appcontext.__code__


def go_on_after(error: Exception, app: Flask | None, given: object) -> bool:
    """Go on with a teardown that an error ended, if that is of the database extension's
    own function.

    :param given: what the teardown functions are told.
    :return: whether it is; the error is logged then, and the others have run.
    :raises BaseException: what any other function raised.
    """
    left = None if app is None else _left_after(app, error)
    if app is None or left is None:
        return False
    say_not_closed(current_endpoint(), error)
    _go_on(app, left, given if isinstance(given, BaseException) else None)
    return True


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
