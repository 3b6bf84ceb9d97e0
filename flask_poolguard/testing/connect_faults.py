"""Faults of connects: refused because no program listens, or slow."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import typing as t
from contextlib import ExitStack

from sqlalchemy.engine import Engine

from .listeners import listen

# What drivers call a socket of the file system, and other ways to name the server.
_OTHER_WAYS: t.Final = (
    *("unix_socket", "unix_sock", "hostaddr", "service", "dsn"),
    "uri",  # of SQLite: the path is one
)


def refuse(engine: Engine, stack: ExitStack) -> None:
    """Send each connect to where nothing listens.

    :param stack: undoes it.
    """
    # Bound, so that no other program can take the port, and not listening.
    nowhere = stack.enter_context(socket.socket())
    nowhere.bind(("127.0.0.1", 0))
    port = nowhere.getsockname()[1]
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="poolguard-"))
    missing = os.path.join(folder, "missing", "database")

    def do_connect(
        dialect: t.Any, record: object, args: list[t.Any], options: dict[str, t.Any]
    ) -> t.Any:
        # Copies: up to SQLAlchemy 2.0 all connects of an engine share both.
        options = {key: options[key] for key in options if key not in _OTHER_WAYS}
        if dialect.name == "sqlite":
            return dialect.connect(missing, **options)
        return dialect.connect(*args, **options | {"host": "127.0.0.1", "port": port})

    listen(engine, "do_connect", do_connect, stack)


def slow_down(engine: Engine, seconds: float, stack: ExitStack) -> None:
    """Let each connect take longer.

    :param seconds: by so much.
    :param stack: undoes it, which ends the waits.
    """
    undone = threading.Event()

    def do_connect(*_: object) -> None:
        undone.wait(seconds)

    listen(engine, "do_connect", do_connect, stack)
    stack.callback(undone.set)
