"""An app that is put under load by `flask pool tune`.

It is told what to be by the environment: ``DATABASE_URL``, ``PIDS_FOLDER`` (where each
process that imports it leaves its number), ``ONLY_ONCE`` (fail in every process but the
first), ``HELPERS_FOLDER`` (where each process but the first leaves the number of a
program that it starts) and ``FLASK_POOLGUARD_…``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flask import Flask, redirect
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from werkzeug.wrappers import Response

from flask_poolguard import PoolGuard

# What takes time in the database: alone, and while it has a lock that there is once.
SLEEP = {"mysql": "SELECT SLEEP({})", "postgresql": "SELECT pg_sleep({})"}
LOCK = {
    "mysql": "SELECT GET_LOCK(CONCAT(DATABASE(), '.tuned'), 60)",
    "postgresql": "SELECT pg_advisory_lock(1)",
}
UNLOCK = {
    "mysql": "SELECT RELEASE_LOCK(CONCAT(DATABASE(), '.tuned'))",
    "postgresql": "SELECT pg_advisory_unlock(1)",
}


def create_app() -> Flask:
    """Build the app."""
    print("imported by", os.getpid())  # what apps print must disturb nobody
    leave_pid()
    start_helper()
    app = Flask("tuned")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    app.config.from_prefixed_env()
    db = SQLAlchemy(app)
    PoolGuard(app)
    add_routes(app, db)
    return app


def leave_pid() -> None:
    """Leave this process's number, and fail if it is to be the only one."""
    if "PIDS_FOLDER" not in os.environ:
        return
    folder = Path(os.environ["PIDS_FOLDER"])
    if "ONLY_ONCE" in os.environ and any(folder.iterdir()):
        url = os.environ["DATABASE_URL"]
        print(f"This app runs already, on {url}", file=sys.stderr)
        sys.exit(3)
    (folder / str(os.getpid())).touch()


def start_helper() -> None:
    """Start a program that goes on, as a scheduler or a compiler of assets does."""
    if "HELPERS_FOLDER" not in os.environ:
        return
    folder = Path(os.environ["HELPERS_FOLDER"])
    if not any(folder.iterdir()):
        (folder / "first").touch()
        return
    nothing = subprocess.DEVNULL
    helper = subprocess.Popen(
        ["sleep", "600"], stdin=nothing, stdout=nothing, stderr=nothing
    )
    (folder / str(helper.pid)).touch()


def add_routes(app: Flask, db: SQLAlchemy) -> None:
    """Add the views."""

    def run(statements: dict[str, str], *values: float) -> None:
        statement = statements[db.engine.dialect.name]
        db.session.execute(text(statement.format(*values)))

    @app.get("/query")
    def query() -> str:
        db.session.execute(text("SELECT 1"))
        return "done"

    @app.get("/sleep")
    def sleep() -> str:
        run(SLEEP, 0.02)
        return "done"

    @app.get("/knee")
    def knee() -> str:
        """Take 80 ms, 20 of which only one may take at a time: four saturate it."""
        run(SLEEP, 0.06)
        run(LOCK)
        run(SLEEP, 0.02)
        run(UNLOCK)
        return "done"

    @app.get("/no-database")
    def no_database() -> str:
        return "done"

    @app.get("/moved")
    def moved() -> Response:
        run(SLEEP, 0)
        return redirect("/query")

    @app.get("/fail")
    def fail() -> str:
        db.session.execute(text("SELECT 1"))
        raise LookupError("no such tea")

    @app.get("/two")
    def two() -> str:
        with db.engine.connect(), db.engine.connect():
            return "done"
