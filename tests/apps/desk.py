"""An app whose pools tests look at from outside.

It is told what to be by the environment: ``DATABASE_URL``, ``REPORTS_DATABASE_URL``
(a second bind), ``APP_NAME``, ``ROOT_PATH``, ``HOLD_FOLDER``, ``POOL_RECYCLE`` (an
engine option), ``POOLS_PAGE`` (the live page, for everyone), ``QUERY_AT_START``,
``OWN_FINDINGS_EVERY`` (seconds between two looks of a worker at its own figures) and
``FLASK_POOLGUARD_…``.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from flask_poolguard import PoolGuard
from flask_poolguard.state.reader import read_workers

# An endpoint's name, which pages must show as it is.
HTML_NAME = '<img src="x" onerror="alert(1)"><script>alert(2)</script>'

# Keeps what was leaked from being collected, which would return it.
leaked: list[Connection] = []


def create_app() -> Flask:
    """Build the app."""
    root_path = os.environ.get("ROOT_PATH", os.path.dirname(__file__))
    app = Flask(os.environ.get("APP_NAME", "desk"), root_path=root_path)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    if "REPORTS_DATABASE_URL" in os.environ:
        reports = os.environ["REPORTS_DATABASE_URL"]
        app.config["SQLALCHEMY_BINDS"] = {"reports": reports}
    if "POOL_RECYCLE" in os.environ:
        recycle = int(os.environ["POOL_RECYCLE"])
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_recycle": recycle}
    app.config.from_prefixed_env()
    db = SQLAlchemy(app)
    guard = PoolGuard(app)
    if "OWN_FINDINGS_EVERY" in os.environ:
        chore = app.extensions["poolguard"].own_findings
        chore.period = float(os.environ["OWN_FINDINGS_EVERY"])
    if "POOLS_PAGE" in os.environ:
        app.register_blueprint(guard.blueprint(auth=None))
    _add_routes(app, db)

    @app.get("/report")
    def report() -> dict[str, Any]:
        return guard.report().to_dict()

    @app.get("/metrics")
    def metrics() -> tuple[str, dict[str, str]]:
        from flask_poolguard.metrics import CONTENT_TYPE, render

        return render(app), {"Content-Type": CONTENT_TYPE}

    if "QUERY_AT_START" in os.environ:
        with app.app_context():
            db.session.execute(text("SELECT 1"))
    return app


def _look_as_child(answers: Any) -> None:
    made = create_app()
    with made.app_context():
        found = [each.pid for each in read_workers(None).workers]
    answers.put([os.getpid(), found])


def _add_routes(app: Flask, db: SQLAlchemy) -> None:
    @app.get("/pid")
    def pid() -> str:
        return str(os.getpid())

    @app.get("/query")
    def query() -> str:
        db.session.execute(text("SELECT 1"))
        return str(os.getpid())

    @app.get("/hold/<name>")
    def hold(name: str) -> str:
        """Hold a connection until the test says to let go."""
        folder = Path(os.environ["HOLD_FOLDER"])
        db.session.execute(text(request.args.get("sql", "SELECT 1")))
        (folder / f"{name}.held").write_text(str(os.getpid()))
        while not (folder / f"{name}.let-go").exists():
            time.sleep(0.01)
        return str(os.getpid())

    app.add_url_rule("/html/<name>", HTML_NAME, hold)

    @app.get("/nest/<name>")
    def nest(name: str) -> str:
        """Hold a connection until the test says so, then take another one as well."""
        hold(name)
        with db.engine.connect() as second:
            second.execute(text("SELECT 1"))
        return str(os.getpid())

    @app.get("/run")
    def run() -> str:
        """Run a statement of the test's."""
        db.session.execute(text(request.args["sql"]))
        return str(os.getpid())

    @app.get("/child")
    def child() -> list[Any]:
        """Fork a child that makes an app of its own; return its pid and the workers
        that it finds.
        """
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        process = context.Process(target=_look_as_child, args=(answers,))
        process.start()
        found: list[Any] = answers.get()
        process.join()
        return found

    @app.get("/wait")
    def wait() -> dict[str, Any]:
        """Take a connection, or say that none came free."""
        try:
            db.session.execute(text("SELECT 1"))
        except PoolTimeout:
            return {"got_one": False}
        return {"got_one": True}

    @app.get("/leak")
    def leak() -> str:
        leaked.append(db.engine.connect())  # the leak
        return str(os.getpid())
