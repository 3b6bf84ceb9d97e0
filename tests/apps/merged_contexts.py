"""Requests in contexts as Flask 3.2 makes them, on the Flask that is installed.

Flask 3.2 merges the request context into the app context, knows no ``_cv_request``,
and passes the context to ``do_teardown_appcontext``. It must be a program of its own,
because the guard looks at what Flask has when it is imported.

    python -m tests.apps.merged_contexts URL

Prints what it found as JSON.
"""

# ruff: noqa: E402 (nothing may import the guard before Flask was changed)
import flask.globals

_cv_app = flask.globals._cv_app
if hasattr(flask.globals, "_cv_request"):
    del flask.globals._cv_request

import json
import logging
import sys
from typing import Any

from flask import Flask, appcontext_popped, appcontext_pushed
from flask.ctx import AppContext, RequestContext
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.orm import Session

from flask_poolguard import Leak, PoolGuard, connection_leaked

COUNT = text("SELECT COUNT(*) FROM item")
ADD = text("INSERT INTO item (name) VALUES ('added')")


class MergedContext(AppContext):
    """A context that may hold a request, and is pushed only once."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        del self._cv_tokens
        self._cv_token: Any = None
        self._push_count = 0
        self._request: Any = None

    def push(self) -> None:
        """Make it the current one, unless it is that already."""
        self._push_count += 1
        if self._cv_token is None:
            self._cv_token = _cv_app.set(self)
            appcontext_pushed.send(self.app)

    def pop(self, exc: BaseException | None = None) -> None:
        """End it when it was popped as often as it was pushed."""
        self._push_count -= 1
        if self._push_count > 0:
            return
        try:
            self.app.do_teardown_appcontext(self, exc)  # type: ignore[call-arg,arg-type] # as in 3.2
        finally:
            _cv_app.reset(self._cv_token)
            self._cv_token = None
            appcontext_popped.send(self.app)


class MergedRequestContext(RequestContext):
    """Puts its request into the app context."""

    def push(self) -> None:
        """Push the app context, then give it the request."""
        super().push()
        context: Any = _cv_app.get()
        context._request = self.request


class MergedFlask(Flask):
    """A Flask with the contexts and the signature of 3.2."""

    def app_context(self) -> AppContext:
        """Return a merged context."""
        return MergedContext(self)

    def request_context(self, environ: Any) -> RequestContext:
        """Return a context whose request goes into the merged one."""
        return MergedRequestContext(self, environ)

    def do_teardown_appcontext(  # type: ignore[override] # as in 3.2
        self, ctx: AppContext, exc: BaseException | None = None
    ) -> None:
        """Run the functions, having been told the context."""
        assert isinstance(ctx, MergedContext)
        super().do_teardown_appcontext(exc)


def main() -> None:
    """Misuse the app in each way that depends on what contexts look like."""
    logging.getLogger("flask_poolguard").addHandler(logging.NullHandler())
    app = MergedFlask("merged")
    app.config["SQLALCHEMY_DATABASE_URI"] = sys.argv[1]
    db = SQLAlchemy(app)
    PoolGuard(app)
    with app.app_context():
        engine = db.engine
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE item (name VARCHAR(50))"))
    kept: list[object] = []
    leaks: list[Leak] = []

    def receive(sender: object, leak: Leak) -> None:
        leaks.append(leak)

    connection_leaked.connect(receive, app)
    (tracker,) = app.extensions["poolguard"].app_tracker.trackers

    @app.get("/misuse")
    def misuse() -> str:
        connection = db.engine.connect()
        kept.append(connection)
        connection.execute(ADD)
        return "taken"

    @app.get("/nested")
    def nested() -> str:
        session = Session(engine)
        with app.app_context():
            session.execute(ADD)
            kept.append(engine.connect())
        session.commit()
        session.close()
        return "committed"

    @app.get("/stray")
    def stray() -> str:
        db.session.execute(ADD)
        return "not committed"

    @app.teardown_appcontext
    def fail(error: BaseException | None) -> None:
        if db.session.registry.has() and app.config.get("FAILS"):
            raise ZeroDivisionError

    found: dict[str, Any] = {}
    client = app.test_client()
    client.get("/misuse")
    found["endpoint"] = leaks.pop().endpoint
    found["out"] = [len(tracker.out)]
    client.get("/nested")
    found["nested"] = leaks.pop().endpoint
    found["out"].append(len(tracker.out))
    app.config["FAILS"] = True
    try:
        client.get("/stray")
    except (ZeroDivisionError, ExceptionGroup):
        found["raised"] = True
    app.config["FAILS"] = False
    found["out"].append(len(tracker.out))
    found["sessions"] = len(db.session.registry.registry)
    with engine.connect() as connection:
        found["rows"] = connection.scalar(COUNT)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
