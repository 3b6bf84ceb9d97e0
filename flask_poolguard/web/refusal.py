"""A refusal: to who may not see the pages, there is nothing at their addresses.

What the app answers there is what it answers to an address that it does not have, with
the app's own handlers and headers. For that, what the routing found is taken out of the
request, and what reading the session for ``auth`` has left (``Vary: Cookie``) as well.

Flask answers some requests by itself, without a view: a method that no page has (405),
an address with a slash too few or too many (308), and a request for a WebSocket (400).
What it answers so for one of the pages is put off until it is known who asks.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from flask import Blueprint, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect, WebsocketMismatch

from ..tracking.current_scope import MERGED, request_var
from .own_addresses import OwnAddresses

if t.TYPE_CHECKING:
    from flask.blueprints import BlueprintSetupState

_Decide = Callable[[str], bool]

# What Flask answers without a view where there is one.
_BY_FLASK: t.Final = (RequestRedirect, MethodNotAllowed, WebsocketMismatch)


class _PutOff(NotFound):
    """Stands for what Flask would answer, until all functions before the view ran: only
    then it can be told who asks.

    Those functions may look at it, or raise it. They find what they find at an address
    that the app does not have.
    """

    def __init__(self, found: HTTPException, endpoint: str, allows: _Decide) -> None:
        super().__init__()
        self.found, self.endpoint, self.allows = found, endpoint, allows


def refuse() -> t.NoReturn:
    """End the current request as one for an address that the app does not have."""
    request.url_rule = request.view_args = None
    request.routing_exception = error = NotFound()
    raise error


def keep_secret(blueprint: Blueprint, allows: _Decide) -> None:
    """Let Flask's own answers say nothing of a blueprint to who is refused.

    :param allows: tells whether the current request may see an endpoint.
    """

    def set_up(setup: BlueprintSetupState) -> None:
        own = OwnAddresses(f"{setup.name_prefix}.{setup.name}".lstrip("."))

        def put_off(*_: object) -> None:
            found = request.routing_exception
            if isinstance(found, _BY_FLASK):
                endpoint = own.endpoint_of(found)
                if endpoint is not None:
                    request.routing_exception = _PutOff(found, endpoint, allows)

        setup.app.url_value_preprocessor(put_off)

    blueprint.record(set_up)
    blueprint.app_errorhandler(_PutOff)(_answer)


def _answer(put_off: _PutOff) -> t.Any:
    found = put_off.found
    if not put_off.allows(put_off.endpoint):
        found = NotFound()
    request.routing_exception = found
    # Flask 3.2 passes the context first.
    context = [request_var.get()] if MERGED else []
    try:
        raise found
    except HTTPException:  # is handled: Flask may raise it again
        return current_app.handle_user_exception(*context, found)  # type: ignore[call-arg] # in 3.2


class UntouchedSession:
    """Reads the session without a trace in the answer, if it was not read before.

    Flask adds ``Vary: Cookie`` to the answer to each request that has read it.
    """

    def __init__(self) -> None:
        self._was_read = getattr(_session(), "accessed", False)

    def restore(self) -> None:
        """Forget that it was read; not if it was changed, which has to be saved."""
        session = _session()
        if getattr(session, "accessed", False) and not session.modified:
            session.accessed = self._was_read


def _session() -> t.Any:
    # Not by its name: Flask 3.1.3 and later take that for reading.
    context = request_var.get(None)
    found = vars(context)
    return found.get("_session", found.get("session"))
