"""Drivers and locks that block a whole worker that serves requests in greenlets.

A greenlet gives way only where it waits in gevent's own functions. What waits elsewhere
stops all greenlets of the process.
"""

from __future__ import annotations

import enum
import sys
import typing as t


class Blocker(enum.IntFlag):
    """What was seen, as bits in a state file: a value never changes its meaning."""

    THREADS = 1  # gevent has not patched threading: locks stop the worker
    SOCKETS = 2  # it has not patched what the driver waits in
    PSYCOPG2 = 4  # waits in C unless it is given a callback
    MYSQLCLIENT = 8  # waits in C


# What drivers that are written in Python wait in. psycopg 3 looks at gevent's patch of
# select itself, and then leaves its C code aside (psycopg/waiting.py, since 3.1.14).
_WAITS_IN: t.Final = {"pymysql": "socket", "pg8000": "socket", "psycopg": "select"}


def are_threads_greenlets() -> bool:
    """Tell whether a thread that is started now is a greenlet of gevent's."""
    return _is_patched("threading")


def would_thread_run_on() -> bool:
    """Tell whether a thread that is started now runs on when its starter does not wait.

    A greenlet belongs to the hub of the native thread that starts it. In a thread of
    gevent's own pool that hub runs only while a task waits for something.
    """
    if not are_threads_greenlets():
        return True
    hub, monkey = sys.modules.get("gevent.hub"), sys.modules["gevent.monkey"]
    main = getattr(hub, "MAIN_THREAD_IDENT", None)  # as Hub.main_hub has it
    if main is None or monkey.get_original("_thread", "get_ident")() == main:
        return True
    gevent = sys.modules["gevent"]
    return isinstance(gevent.getcurrent(), gevent.Greenlet)  # which a hub runs


def blocker_of(driver: str) -> Blocker:
    """Return why a driver stops all greenlets while it waits; no flag if it does not.

    :param driver: the name of its package, in upper or lower case.
    """
    driver = driver.lower()
    if driver in _WAITS_IN and not _is_patched(_WAITS_IN[driver]):
        return Blocker.SOCKETS
    if driver == "psycopg2" and not _has_wait_callback():
        return Blocker.PSYCOPG2
    if driver == "mysqldb":
        return Blocker.MYSQLCLIENT
    return Blocker(0)


def find_blockers(connection: object) -> int:
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
    found = Blocker(0) if are_threads_greenlets() else Blocker.THREADS
    for driver in {
        each.__module__.partition(".")[0] for each in type(connection).mro()
    }:
        found |= blocker_of(driver)
    return int(found)


def _is_patched(module: str) -> bool:
    # Where it was never imported nothing was patched.
    monkey = sys.modules.get("gevent.monkey")
    ask = getattr(monkey, "is_module_patched", None)
    return ask is not None and bool(ask(module))


def _has_wait_callback() -> bool:
    extensions = sys.modules.get("psycopg2.extensions")
    return extensions is None or extensions.get_wait_callback() is not None
