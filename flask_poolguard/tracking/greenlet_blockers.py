"""Drivers and locks that hold up the worker of the greenlet that uses a connection."""

from __future__ import annotations

import sys

from ..pool import Trouble, are_threads_greenlets, trouble_of

__all__ = ["Trouble", "find_troubles"]


def find_troubles(connection: object) -> int:
    """Return the sum of what stops this greenlet's worker; 0 outside greenlets.

    Asks nothing but modules that are loaded already.

    :param connection: of the driver.
    """
    # Neither may be complete: another thread may be importing them right now.
    gevent = sys.modules.get("gevent")
    kind, getcurrent = (
        getattr(gevent, name, None) for name in ("Greenlet", "getcurrent")
    )
    if kind is None or getcurrent is None or not isinstance(getcurrent(), kind):
        return 0
    found = Trouble(0) if are_threads_greenlets() else Trouble.THREADS
    for driver in {
        each.__module__.partition(".")[0] for each in type(connection).mro()
    }:
        found |= trouble_of(driver)
    return int(found)
