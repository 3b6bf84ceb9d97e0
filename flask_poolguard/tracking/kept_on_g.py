"""Connections that an app keeps on ``g`` of a context that requests share.

Such as ``get_db()`` of Flask's tutorial, when a test's fixture has pushed a context:
``g`` lasts from one request to the next there, and a teardown function of the app
closes what is on it when the context is popped.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping

from sqlalchemy.engine import Connection

from .scope import ResponseScope, scope_of

if t.TYPE_CHECKING:
    from flask.ctx import AppContext

# How far to look: through an app's own classes and containers.
_DEEPEST: t.Final = 4
_MOST: t.Final = 1000


def leave_what_g_has(context: AppContext, response: ResponseScope) -> None:
    """Let a context that is older than a WSGI call have what the call took, and put on
    its ``g``.
    """
    scope = scope_of(context)
    if scope is None or scope.response is response:
        return
    kept = list(_reachable(list(getattr(context.g, "__dict__", {}).values())))
    for checkout in list(response.checkouts):
        session = None if checkout.session is None else checkout.session()
        proxy = checkout.fairy()
        for each in kept:
            if isinstance(each, Connection):
                each = each._dbapi_connection
            if each is not None and (each is proxy or each is session):
                scope.adopt(checkout)
                break


def _reachable(values: list[t.Any]) -> Iterator[t.Any]:
    """Give the objects that others refer to, without running code of theirs."""
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        found: list[t.Any] = []
        for value in values:
            if id(value) in seen or len(seen) >= _MOST:
                continue
            seen.add(id(value))
            yield value
            if isinstance(value, Connection):
                continue  # its engine has much
            if isinstance(value, Mapping):
                found.extend(dict.values(value) if isinstance(value, dict) else ())
            elif isinstance(value, list | tuple | set | frozenset):
                found.extend(value)
            else:
                found.extend(getattr(value, "__dict__", {}).values())
        values = found
