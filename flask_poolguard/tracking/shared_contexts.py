"""App contexts that requests share, such as one that a test's fixture has pushed.

What an app keeps on ``g`` (``get_db()`` of Flask's tutorial) lasts from one request to
the next there, and a teardown function of the app closes it when the context is popped.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping

from sqlalchemy.engine import Connection

from ..log_lines import Facts, warn
from .current_scope import scope_of
from .scope import WSGIScope

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.ctx import AppContext

    from .callsite import CallSite

# Where requests were seen to share a context, so that it is said once per process.
_told_of_shared: set[CallSite | None] = set()

# How far to look: through an app's own classes and containers.
_DEEPEST: t.Final = 4
_MOST: t.Final = 1000


def note_shared(context: AppContext, app: Flask | None) -> None:
    """Say once that requests run within one context, which nothing tears down.

    Flask before 3.2 pushes no context for a request of the app whose context is
    current. One request within a context shares nothing.

    :param app: whose request begins.
    """
    scope = scope_of(context)
    if scope is None or scope.response is not None or context.app is not app:
        return
    scope.requests += 1
    if scope.requests != 2 or scope.callsite in _told_of_shared:
        return
    _told_of_shared.add(scope.callsite)
    where, facts = "an unknown line", Facts()
    if scope.callsite is not None:
        where = scope.callsite.describe(context.app.root_path)
        facts = scope.callsite.facts(context.app.root_path)
    warn(
        "context_shared",
        "Requests of %s share an app context that was pushed at %s and is still"
        " current: Flask tears nothing down between them, so they share db.session"
        " and its transaction. What else a request takes is given back when it"
        " ends. Use `with app.app_context():` around what needs it.",
        context.app.name,
        where,
        **facts,
    )


def leave_what_g_has(context: AppContext, response: WSGIScope) -> None:
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
