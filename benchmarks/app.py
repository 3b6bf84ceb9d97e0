"""The app that is measured, told what to be by the environment.

``DATABASE_URL``; ``GUARDED`` (``yes`` or ``no``); ``POOL_TIMEOUT`` in seconds;
``WORK_SECONDS``, the server's time for one transaction; ``POOLGUARD_STATE_DIR``, the
folder of the state files. May be: ``POOL_SIZE`` and ``MAX_OVERFLOW`` (5 and 0), and
``BUDGET`` and ``BUDGET_NAME``, which are ``POOLGUARD_BUDGET`` and ``..._NAME``.
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

SLEEP = {"mysql": "SELECT SLEEP(:seconds)", "postgresql": "SELECT pg_sleep(:seconds)"}


def create_app() -> Flask:
    """Build the app.

    The engine is its own, because Flask-SQLAlchemy cuts the fraction off a timeout.
    """
    app = Flask("benchmark")
    app.config["POOLGUARD_STATE_DIR"] = os.environ["POOLGUARD_STATE_DIR"]
    if "BUDGET" in os.environ:
        told = os.environ["BUDGET"]
        app.config["POOLGUARD_BUDGET"] = told if told == "auto" else int(told)
        app.config["POOLGUARD_BUDGET_NAME"] = os.environ["BUDGET_NAME"]
    engine = sa.create_engine(
        os.environ["DATABASE_URL"],
        pool_size=int(os.environ.get("POOL_SIZE", "5")),
        max_overflow=int(os.environ.get("MAX_OVERFLOW", "0")),
        pool_timeout=float(os.environ["POOL_TIMEOUT"]),
    )
    if os.environ["GUARDED"] == "yes":
        # Here, because the memory that this takes is measured.
        from flask_poolguard import PoolGuard

        PoolGuard(app).register(engine, app=app)
    work = sa.text(SLEEP[engine.dialect.name]).bindparams(
        seconds=float(os.environ["WORK_SECONDS"])
    )

    @app.get("/transactions/<int:count>")
    def transactions(count: int) -> tuple[str, int]:
        """Run transactions in a row; the connection goes back after each."""
        try:
            with Session(engine) as session:
                for _ in range(count):
                    session.execute(work)
                    session.commit()
        except PoolTimeout:
            return "no connection came free", 503
        return "done", 200

    return app
