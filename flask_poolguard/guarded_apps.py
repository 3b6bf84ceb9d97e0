"""Which apps get a guard, for tools that look on, such as the pytest plugin.

Imports nothing that such a tool would not import by itself.
"""

from __future__ import annotations

import typing as t
import weakref
from collections.abc import Callable

if t.TYPE_CHECKING:
    from flask import Flask

# Under which key of ``app.extensions`` the guard keeps what it has of an app.
EXTENSION: t.Final = "poolguard"

# Called with each app that is guarded from now on; must not raise.
on_guarded: list[Callable[[Flask], None]] = []

_newest: Callable[[], Flask | None] = lambda: None  # noqa: E731 (until there is one)


def note_guarded(app: Flask) -> None:
    """Note that an app has a guard now."""
    global _newest
    _newest = weakref.ref(app)
    for each in list(on_guarded):
        each(app)


def newest_app() -> Flask | None:
    """Return the app that was guarded last, None if there is none, or it is gone."""
    return _newest()
