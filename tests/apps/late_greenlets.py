"""Requests in greenlets, of an app that was there before gevent's patches.

    python -m tests.apps.late_greenlets URL WHEN CONFIG

WHEN is ``imported``, ``made``, ``forked`` or ``used``: how far the app was by then.
Prints what it found as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from gevent import monkey
from sqlalchemy import event, text

from flask_poolguard import PoolGuard
from flask_poolguard.tracking.thread_marks import live_marks

# After which it is given up.
SECONDS = 60
SLOW = {"mysql": "SELECT SLEEP(0.05)", "postgresql": "SELECT pg_sleep(0.05)"}


class Log(logging.Handler):
    """Keeps which events are logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.events: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append(getattr(record, "event", ""))


def make_app(url: str, config: dict[str, Any]) -> Flask:
    """Build the app."""
    app = Flask(__name__)
    app.config.update(config, SQLALCHEMY_DATABASE_URI=url)
    db = SQLAlchemy(app)
    guard = PoolGuard(app)

    @app.get("/slow")
    def slow() -> str:
        db.session.execute(text(SLOW[db.engine.dialect.name]))
        return str(len(live_marks))

    @app.get("/report")
    def report() -> str:
        return str(len(guard.report().findings))

    return app


def pool_of(app: Flask) -> Any:
    """Return the app's pool."""
    with app.app_context():
        return app.extensions["sqlalchemy"].engine.pool


def main() -> None:
    """Patch, and let many ask at the same time."""
    _, url, when, config = sys.argv
    log = Log()
    logging.getLogger("flask_poolguard").addHandler(log)
    app = make_app(url, json.loads(config)) if when != "imported" else None
    if app is not None and when == "used":
        with app.app_context():
            app.extensions["sqlalchemy"].session.execute(text("SELECT 1"))
    if app is not None and when == "forked":
        # It is made, and has not connected. SQLAlchemy holds a lock meanwhile.
        event.listen(pool_of(app), "connect", lambda *_: time.sleep(0.2))
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        signal.alarm(SECONDS)  # also if no greenlet runs any more
    monkey.patch_all()
    import gevent

    if app is None:
        app = make_app(url, json.loads(config))
    asked = [
        gevent.spawn(app.test_client().get, path)
        for path in ["/slow"] * 12 + ["/report"] * 3
    ]
    with gevent.Timeout(SECONDS):
        answers = [each.get() for each in asked]
        while "patched_late" not in log.events:
            gevent.sleep(0.05)
    print(
        json.dumps(
            {
                "statuses": sorted({each.status_code for each in answers}),
                # Of the greenlets that lived at the same time.
                "marks": max(int(each.text) for each in answers[:12]),
                "out": pool_of(app).checkedout(),
                "said": log.events.count("patched_late"),
            }
        )
    )


if __name__ == "__main__":
    main()
