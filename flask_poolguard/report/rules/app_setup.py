"""Mistakes in an app's set-up that do not depend on traffic."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool, StaticPool

from ...config import LEFTOVERS
from ...databases.unknown import UnknownDatabase
from ...engines import Guarded
from ..evidence import Evidence
from ..model import Finding
from ..phrases import connections
from .pool_use import in_worker, uses_of

# Poolers of their own on the way, by the port that each listens on unless it is told
# otherwise: PgBouncer (pgbouncer.org/config.html, listen_port) and ProxySQL
# (proxysql.com/documentation, mysql_ifaces).
_POOLERS: t.Final = (6432, 6033)
# As many connects are worth a warning.
_MANY_CONNECTS: t.Final = 100


def find_null_pools(evidence: Evidence) -> Iterator[Finding]:
    """Find the binds that connect anew for every checkout."""
    for each in evidence.engines:
        if (
            not isinstance(each.engine.pool, NullPool)
            or _is_for_tests(evidence, each)
            # The loop of an async view is over with its request, so that no
            # connection can be kept for the next.
            or each.engine.dialect.is_async
            or each.engine.url.port in _POOLERS
        ):
            continue
        connects = sum(use.pool.connects for use in uses_of(evidence, each))
        yield Finding(
            "warning" if connects >= _MANY_CONNECTS else "info",
            "null-pool",
            f"Bind {each.bind!r} has no pool (NullPool); its workers connected"
            f" {connects} {'time' if connects == 1 else 'times'} so far",
            f"Remove {_class_key(each)}. Behind a pooler such as PgBouncer or ProxySQL"
            " it is right as it is.",
            "Every checkout waits for a connect, and nothing limits how many"
            " connections the server gets.",
        )


def find_async_pools(evidence: Evidence) -> Iterator[Finding]:
    """Find the async engines whose pool keeps connections beyond their event loop."""
    for each in evidence.engines:
        if (
            each.engine.dialect.is_async
            and isinstance(each.engine.pool, QueuePool)
            and not each.tracker.facts.in_memory
        ):
            yield Finding(
                "warning",
                "async-pool",
                f"Bind {each.bind!r} is an async engine whose"
                f" {type(each.engine.pool).__name__} keeps connections",
                'Set POOLGUARD_POOL_CLASS = "null", for this bind in POOLGUARD_BINDS,'
                " or create_async_engine(…, poolclass=NullPool).",
                "Flask runs each async view in an event loop of its own. A connection"
                " that is kept belongs to a loop that is gone, and fails in the next"
                " view (attached to a different loop; another operation is in"
                " progress).",
            )


def find_shared_connections(evidence: Evidence) -> Iterator[Finding]:
    """Find the pools made for databases in memory that stand before a server."""
    for each in evidence.engines:
        pool = each.engine.pool
        if _is_for_tests(evidence, each):
            continue
        if isinstance(pool, StaticPool):
            consequence = (
                "All requests share one connection: they read each other's answers,"
                " and one commits or rolls back what another has written."
            )
        elif isinstance(pool, SingletonThreadPool):
            consequence = (
                "A thread keeps its connection for as long as it lives, and all that"
                " it takes at a time are one and the same."
            )
        else:
            continue
        kind = type(pool).__name__
        yield Finding(
            "warning",
            "static-pool",
            f"Bind {each.bind!r} has a {kind}, which is made for SQLite in memory,"
            " before a server",
            f"Remove {_class_key(each)}; the guard then gives it a pool of its own.",
            consequence,
        )


def find_leftovers(evidence: Evidence) -> Iterator[Finding]:
    """Find the keys that Flask-SQLAlchemy 2 read and 3 ignores."""
    for old, new in LEFTOVERS.items():
        value = evidence.config.get(old)
        if value is not None:
            is_set = new in evidence.config
            yield Finding(
                "warning",
                "leftover-setting",
                f"{old} = {value!r} sets nothing: Flask-SQLAlchemy ignores it since"
                " version 3",
                f"Remove {old}; {new} is set." if is_set else f"Rename {old} to {new}.",
                f"{new} is in force."
                if is_set
                else "The pool has its default instead.",
            )


def find_inherited(evidence: Evidence) -> Iterator[Finding]:
    """Find the workers that were forked with connections open."""
    for each in evidence.engines:
        such = [use for use in uses_of(evidence, each) if use.usage.inherited]
        if such:
            use = max(such, key=lambda one: one.usage.inherited)
            yield Finding(
                "warning",
                "inherited",
                f"{connections(use.usage.inherited).capitalize()} of bind"
                f" {each.bind!r} {'was' if use.usage.inherited == 1 else 'were'} open"
                f" when the process was forked ({in_worker(use, such)})",
                "Use no database while the app is imported or made (gunicorn"
                " --preload, uWSGI), or call engine.dispose() before the fork.",
                "Two processes on one connection read each other's answers. The guard"
                " has replaced them in the worker, but what the parent has open stays"
                " open for nothing.",
            )


def _class_key(guarded: Guarded) -> str:
    """Return where a pool's class was chosen."""
    setting = guarded.settings.pool_class
    if setting.is_default or setting.value == "queue":
        return f"the {type(guarded.engine.pool).__name__} from the engine's options"
    return setting.origin


def _is_for_tests(evidence: Evidence, guarded: Guarded) -> bool:
    """Tell whether it does not matter: in tests, or without a server."""
    database = guarded.tracker.database
    if isinstance(database, UnknownDatabase):  # which may be one within the process
        has_server = guarded.engine.url.host is not None
    else:
        has_server = database.has_server
    debugged = evidence.config.get("DEBUG") or evidence.config.get("TESTING")
    return bool(debugged) or not has_server
