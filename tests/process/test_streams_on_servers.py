"""Streams under real servers, with clients that go away."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

from tests.conftest import Database
from tests.support.app_server import AppServer
from tests.support.gunicorn import GunicornApp
from tests.support.waiting import wait_until
from tests.support.waitress import WaitressApp

pytestmark = pytest.mark.process

APP = """
import os
from flask import Flask, send_file, stream_with_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from flask_poolguard import PoolGuard

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["STREAMS_URL"]
db = SQLAlchemy(app)
PoolGuard(app)
kept = []
COUNT = text("SELECT COUNT(*) FROM item")
CHUNK = "x" * 65536


def endless(query):
    while True:
        yield f"{query()} {CHUNK}"


@app.get("/handed")
def handed():
    connection = db.engine.connect()
    kept.append(connection)
    connection.execute(text("INSERT INTO item (name) VALUES ('stray')"))
    return endless(lambda: connection.scalar(COUNT))


@app.get("/with_context")
def with_context():
    def stream():
        kept.append(db.session())
        db.session.execute(text("INSERT INTO item (name) VALUES ('stray')"))
        yield from endless(lambda: db.session.scalar(COUNT))

    return stream_with_context(stream())


@app.get("/file")
def file():
    kept.append(db.engine.connect())
    return send_file(__file__)


@app.get("/tidy_file")
def tidy_file():
    return send_file(__file__)


@app.get("/out")
def out():
    trackers = app.extensions["poolguard"].app_tracker.trackers
    return str(sum(len(tracker.out) for tracker in trackers))


@app.get("/count")
def count():
    return str(db.session.scalar(COUNT))
"""


class FlaskRun(AppServer):
    """Run an app under the development server."""

    def _command(self) -> list[str]:
        return ["-m", "flask", "--app", self.app, "run", "--port=0"]


def make_server(kind: str, folder: Path, url: str) -> AppServer:
    """Return one of the servers, not started yet."""
    env = {"STREAMS_URL": url}
    if kind == "waitress":
        return WaitressApp("streams:app", folder, env=env)
    if kind == "development":
        return FlaskRun("streams:app", folder, env=env)
    threads = 4 if kind == "gthread" else 1
    return GunicornApp(
        "streams:app", folder, worker_class=kind, threads=threads, env=env
    )


class TestClientThatGoesAway:
    @pytest.mark.parametrize(
        "kind", ["sync", "gthread", "gevent", "waitress", "development"]
    )
    def test_everything_is_back(
        self, tmp_path: Path, sqlite_url: URL, kind: str
    ) -> None:
        self.everything_is_back(kind, tmp_path, sqlite_url)

    def test_everything_is_back_on_a_database_server(
        self, tmp_path: Path, served_database: Database
    ) -> None:
        self.everything_is_back("gthread", tmp_path, served_database.url)

    def everything_is_back(self, kind: str, folder: Path, url: URL) -> None:
        """Leave each of two endless streams half way."""
        with app_on(kind, folder, url) as server:
            for path in ("/handed", "/with_context"):
                abandon(server, path)
                wait_until(
                    lambda: server.get("/out") == (200, "0"),
                    what=f"{path} to come back",
                )
                assert server.get("/count") == (200, "0"), path
            assert "never closed by its server" not in server.log_text()


class TestFiles:
    @pytest.mark.parametrize("kind", ["sync", "gthread", "waitress", "development"])
    def test_a_file_arrives_whole_and_what_was_forgotten_beside_it_is_back(
        self, tmp_path: Path, sqlite_url: URL, kind: str
    ) -> None:
        with app_on(kind, tmp_path, sqlite_url) as server:
            for path in ("/file", "/tidy_file"):
                assert server.get(path) == (200, APP), path
                wait_until(lambda: server.get("/out") == (200, "0"), what="no leak")


@contextmanager
def app_on(kind: str, folder: Path, url: URL) -> Iterator[AppServer]:
    """Run the app under a server, with an empty table."""
    (folder / "streams.py").write_text(APP)
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE item (name VARCHAR(50))"))
    with make_server(kind, folder, url.render_as_string(hide_password=False)) as server:
        yield server


def abandon(server: AppServer, path: str) -> None:
    """Ask for a stream, read a little of it and reset the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        while b"0 xxx" not in received and b"1 xxx" not in received:
            received += client.recv(4096)
        # Reset rather than finish, as a client that crashed.
        linger = struct.pack("ii", 1, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
