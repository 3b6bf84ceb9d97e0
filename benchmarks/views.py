"""The app of a request's cost: Flask-SQLAlchemy on SQLite in a file, three views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import EnvironBuilder

# Each view by its path, and what it does.
VIEWS = {
    "/string": "a view that returns a string",
    "/session": "one query by db.session",
    "/connect": "one query by engine.connect()",
}
ONE = sa.text("SELECT 1")


def make_app(folder: Path, guarded: bool) -> tuple[Flask, SQLAlchemy]:
    """Return an app and its database extension.

    :param folder: where the database and the state file are.
    """
    app = Flask("benchmark")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder}/benchmark.sqlite"
    app.config["POOLGUARD_STATE_DIR"] = str(folder)
    db = SQLAlchemy(app)
    if guarded:
        # Here, so that a process that measures a stock app alone is without it.
        from flask_poolguard import PoolGuard

        PoolGuard(app)

    @app.get("/string")
    def string() -> str:
        return "done"

    @app.get("/session")
    def session() -> str:
        return str(db.session.scalar(ONE))

    @app.get("/connect")
    def connect() -> str:
        with db.engine.connect() as connection:
            return str(connection.scalar(ONE))

    return app, db


def requester(app: Flask, path: str) -> Callable[[], None]:
    """Return one turn: a request through the WSGI interface, to the end of its body.

    :raises RuntimeError: by the turn, if the answer is another than 200.
    """
    environ = EnvironBuilder(path).get_environ()

    def start_response(status: str, *_: Any) -> Callable[[bytes], object]:
        if status != "200 OK":
            raise RuntimeError(f"{path} was answered with {status}")
        return bytes

    def turn() -> None:
        body = app(environ.copy(), start_response)
        b"".join(body)
        if hasattr(body, "close"):
            body.close()

    return turn
