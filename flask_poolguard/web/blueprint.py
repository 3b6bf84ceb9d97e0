"""The blueprint of ``guard.blueprint()``: its addresses, and what each answers."""

from __future__ import annotations

import re
import typing as t
import weakref
from collections.abc import Callable
from pathlib import Path

from flask import (
    Blueprint,
    Response,
    abort,
    after_this_request,
    current_app,
    request,
)

from .access import Auth, allows, check_said, protect
from .answers import NOT_IN_TIME, Answers
from .refusal import keep_secret, refuse
from .shared_value import NotMadeInTime

if t.TYPE_CHECKING:
    from flask import Flask

_STATIC: t.Final = Path(__file__).parent / "static"
# Said here: a system's own table may take a script for plain text, which browsers then
# refuse to run.
_FILES: t.Final = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "parts.js": "text/javascript",
    "pools.js": "text/javascript",
    "sections.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
# An app that is one page mounts the pages at "/", and has /static itself.
_FILES_PATH: t.Final = "poolguard-static"
_TEXT: t.Final = "text/plain"
_View = Callable[..., Response]


def make_blueprint(auth: Auth, *, probes_open: bool) -> Blueprint:
    """Return the pages.

    :param auth: see :meth:`flask_poolguard.PoolGuard.blueprint`.
    :raises TypeError: it cannot be called.
    """
    if auth is not None and auth is not ... and not callable(auth):
        raise TypeError(
            f"auth of guard.blueprint() must be a function or None, not {auth!r}."
        )
    blueprint = Blueprint("poolguard", __name__, url_prefix="/pools")
    blueprint.record(lambda setup: check_said(auth, t.cast("Flask", setup.app)))
    pages = _Pages()
    probes: dict[str, _View] = {"live": _live, "ready": pages.ready}
    views: dict[str, _View] = {
        "": _page,
        "status.json": pages.status,
        "metrics": pages.metrics,
        f"{_FILES_PATH}/<name>": _file,
        **probes,
    }
    for path, view in views.items():
        # Only GET, and with it HEAD.
        blueprint.add_url_rule(
            f"/{path}",
            re.sub(r"\W", "_", path.partition("/")[0]) or "page",
            view,
            provide_automatic_options=False,
        )

    def may_see(endpoint: str) -> bool:
        is_open = probes_open and endpoint.rpartition(".")[2] in probes
        return is_open or allows(auth)

    @blueprint.before_request
    def check() -> None:
        if not may_see(request.endpoint or ""):
            refuse()
        # Not for the answer of a function of the app that ran before, such as a log-in.
        after_this_request(protect)

    keep_secret(blueprint, may_see)
    blueprint.register_error_handler(NotMadeInTime, _try_again)
    return blueprint


class _Pages:
    """The pages that tell of pools."""

    def __init__(self) -> None:
        # A blueprint may be registered with several apps.
        self._answers: weakref.WeakKeyDictionary[Flask, Answers]
        self._answers = weakref.WeakKeyDictionary()

    def _of_app(self) -> Answers:
        app = current_app._get_current_object()  # type: ignore[attr-defined] # of the proxy
        found = self._answers.get(app)
        # Two threads may make one each; the first that is kept is used by all.
        return found or self._answers.setdefault(app, Answers(app))

    def status(self) -> Response:
        """Return the report."""
        return Response(self._of_app().status.get(), mimetype="application/json")

    def ready(self) -> Response:
        """Tell whether the app can serve."""
        is_ready, line = self._of_app().is_ready()
        return Response(f"{line}\n", 200 if is_ready else 503, mimetype=_TEXT)

    def metrics(self) -> Response:
        """Return the metrics."""
        from ..metrics import CONTENT_TYPE

        return Response(self._of_app().metrics.get(), content_type=CONTENT_TYPE)


def _try_again(_: NotMadeInTime) -> Response:
    """Answer where what is asked for is not to be had now."""
    return Response(f"{NOT_IN_TIME}\n", 503, {"Retry-After": "1"}, mimetype=_TEXT)


def _live() -> Response:
    """Tell that this process answers; looks at nothing."""
    return Response("OK\n", mimetype=_TEXT)


def _page() -> Response:
    return Response((_STATIC / "page.html").read_bytes(), mimetype="text/html")


def _file(name: str) -> Response:
    if name not in _FILES:
        abort(404)
    return Response((_STATIC / name).read_bytes(), mimetype=_FILES[name])
