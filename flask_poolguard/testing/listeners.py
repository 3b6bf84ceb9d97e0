"""Listeners of an engine that tests switch on and off.

SQLAlchemy goes through a deque of listeners, so to remove one while another thread
connects raises an error in that thread. Here one listener per engine stays, and asks
those that are switched on.
"""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import event
from sqlalchemy.engine import Engine

Listener = Callable[..., t.Any]

# On a dialect, which an engine keeps for life: what is switched on, by event.
_ON_DIALECT: t.Final = "_poolguard_test_listeners"

_this_thread = threading.local()


def listen(engine: Engine, name: str, listener: Listener, stack: ExitStack) -> None:
    """Call a listener before those of the app, until the stack is closed.

    :param name: an event of the engine, its dialect or its pool.
    """
    known: dict[str, list[Listener]]
    known = engine.dialect.__dict__.setdefault(_ON_DIALECT, {})
    active = known.get(name)
    if active is None:
        active = known[name] = []
        event.listen(engine, name, _caller_of(active), insert=True)
    active.append(listener)
    stack.callback(active.remove, listener)


@contextmanager
def not_asked() -> Iterator[None]:
    """Ask none of them for what this thread does within: it is not the test's."""
    _this_thread.is_exempt = True
    try:
        yield
    finally:
        _this_thread.is_exempt = False


def _caller_of(active: list[Listener]) -> Listener:
    def call(*args: t.Any) -> t.Any:
        if active and not getattr(_this_thread, "is_exempt", False):
            for each in list(active):
                found = each(*args)
                if found is not None:  # a connection, of `do_connect`
                    return found
        return None

    return call
