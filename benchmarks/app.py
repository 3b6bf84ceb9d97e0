"""The app that is measured, told what to be by the environment.

``DATABASE_URL``; ``GUARDED`` (``yes`` or ``no``); ``POOL_TIMEOUT`` in seconds;
``WORK_SECONDS``, the server's time for one transaction.
"""

from __future__ import annotations

import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout

SLEEP = {"mysql": "SELECT SLEEP(:seconds)", "postgresql": "SELECT pg_sleep(:seconds)"}


def create_app() -> Flask:
    """Build the app, on a pool of five connections."""
    app = Flask("benchmark")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "pool_size": 5,
        "max_overflow": 0,
        "pool_timeout": float(os.environ.get("POOL_TIMEOUT", "30")),
    }
    db = SQLAlchemy(app)
    if os.environ["GUARDED"] == "yes":
        # Here, because the memory that this takes is measured.
        from flask_poolguard import PoolGuard

        PoolGuard(app)
    seconds = float(os.environ.get("WORK_SECONDS", "0"))

    @app.get("/transactions/<int:count>")
    def transactions(count: int) -> tuple[str, int]:
        """Run transactions in a row; the connection goes back after each."""
        work = text(SLEEP[db.engine.dialect.name]).bindparams(seconds=seconds)
        try:
            for _ in range(count):
                db.session.execute(work)
                db.session.commit()
        except PoolTimeout:
            return "no connection came free", 503
        return "done", 200

    return app
