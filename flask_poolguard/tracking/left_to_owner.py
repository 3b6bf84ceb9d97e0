"""Signs that a connection is meant to outlive its scope.

Where there is one, the guard leaves the connection alone and says so: to lose a lock
that an app relies on is worse than a connection too many.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Mapping

from flask.globals import _cv_app
from sqlalchemy.engine import Connection
from sqlalchemy.pool import PoolProxiedConnection

from ..log_lines import info, warn
from .sql_effects import Effect

if t.TYPE_CHECKING:
    from .checkout import Checkout


def is_left_alone(checkout: Checkout, proxy: PoolProxiedConnection) -> bool:
    """Tell whether a connection is left to its owner on purpose, and say why."""
    log: Callable[..., None]
    if Effect.LOCKS in checkout.effects and checkout.is_bare():
        log, why = warn, "its session took a lock, or listens"
    elif _is_the_extensions(checkout, proxy):
        log, why = info, "the database extension was made to use it"
    else:
        return False
    checkout.release()
    log(
        "connection_left",
        "%s did not give back a connection of bind %r that it took at %s; it is left"
        " open, because %s. Say that this is on purpose with guard.keep(connection), or"
        " close it.",
        checkout.endpoint,
        checkout.pool.info.facts.bind,
        checkout.site(),
        why,
        **checkout.facts(),
    )
    return True


def _is_the_extensions(checkout: Checkout, proxy: PoolProxiedConnection) -> bool:
    """Tell whether ``db.engines`` has a connection, or ``db.session`` is bound to it:
    how test suites run an app within one transaction.
    """
    app = checkout.pool.app
    extension = None if app is None else app.extensions.get("sqlalchemy")
    if extension is None:
        return False
    bound = _binds_of(getattr(extension, "__dict__", {}).get("session"))
    context = _cv_app.get(None)
    if context is not None and context.app is app:
        engines = getattr(extension, "engines", None)
        bound += list(engines.values()) if isinstance(engines, Mapping) else []
    return any(
        isinstance(each, Connection) and each._dbapi_connection is proxy
        for each in bound
    )


def _binds_of(session: t.Any) -> list[t.Any]:
    """Return what a session, or those that a scoped session makes, are bound to."""
    options = getattr(getattr(session, "session_factory", None), "kw", None)
    given = options.get("bind") if isinstance(options, dict) else None
    return [given, getattr(session, "__dict__", {}).get("bind")]
