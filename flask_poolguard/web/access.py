"""Who may see the pages, and what browsers may do with them."""

from __future__ import annotations

import inspect
import typing as t
from collections.abc import Callable
from types import EllipsisType

from flask import Response, current_app

from ..errors import SetupError
from ..log_lines import error
from .refusal import UntouchedSession

if t.TYPE_CHECKING:
    from flask import Flask

# ``...`` is: not said.
Auth = Callable[[], object] | EllipsisType | None

# Nothing but this origin's own files: a name that holds HTML could load or run nothing
# even if it became part of the page.
_POLICY: t.Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS: t.Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def check_said(auth: Auth, app: Flask) -> None:
    """Refuse to show an app's pools to everyone because of an oversight.

    :raises SetupError: it was not said who may see them.
    """
    if auth is ... and not app.debug:
        raise SetupError(
            f"guard.blueprint() of the app {app.name!r} does not say who may see the"
            " pools: pass auth=, a function that returns whether the current request"
            " may, or auth=None to show them to everyone who can reach the app. It can"
            " be left out in debug mode only."
        )


def allows(auth: Auth) -> bool:
    """Tell whether the current request may see the pages.

    Who is refused is not to learn that he was asked for: see :mod:`.refusal`.
    """
    session = UntouchedSession()
    is_allowed = _ask(auth)
    if not is_allowed:
        session.restore()
    return is_allowed


def _ask(auth: Auth) -> bool:
    if auth is None:
        return True
    if isinstance(auth, EllipsisType):
        return current_app.debug
    try:
        found = current_app.ensure_sync(auth)()
    except Exception:
        error(
            "blueprint_auth_failed",
            "The auth function of guard.blueprint() raised, so the request is refused.",
            exc_info=True,
        )
        return False
    if found is None or type(found) in (bool, int):
        return bool(found)
    # A log-in page, a tuple with a status, a function, an anonymous user: all are true.
    if inspect.iscoroutine(found):
        found.close()  # else it warns that it was not awaited
    error(
        "blueprint_auth_failed",
        "The auth function of guard.blueprint() returned %s, which does not say who may"
        " see the pools, so the request is refused. Let it return True or False.",
        type(found).__name__,
    )
    return False


def protect(response: Response) -> Response:
    """Add the headers to a page. What is not one, such as a refusal, has none."""
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(_HEADERS)
    return response
