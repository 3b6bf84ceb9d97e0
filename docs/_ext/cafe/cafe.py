"""The app whose `flask pool` commands the documentation shows as in a terminal.

``flask --app cafe pool …`` asks about the process that runs this file, in the same
folder. It is a worker in trouble: two requests hold both connections of its pool, a
third waits, and one before them did not give its connection back. It goes on until its
standard input ends.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import sqlalchemy as sa
from flask import Flask

from flask_poolguard import PoolGuard

# Of a request for the menu, in seconds.
WITH_CONNECTION, WITHOUT = 0.002, 0.004
# Until the worker has written which lines run, and waits are worth a warning.
HELD_SECONDS = 2.2

app = Flask("cafe")
app.config.update(
    POOLGUARD_POOL_SIZE=2,
    POOLGUARD_MAX_OVERFLOW=0,
    POOLGUARD_HELD_WARNING=0.5,
    POOLGUARD_STATE_DIR=str(Path.cwd() / "state"),
)
app.logger.disabled = True
guard = PoolGuard(app)
engine = sa.create_engine("sqlite:///cafe.db", poolclass=sa.QueuePool)
guard.register(engine, app=app)
may_close = threading.Event()
never_closed: list[sa.Connection] = []


@app.get("/menu")
def menu() -> str:
    """Return the menu; a third of the time with a connection."""
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        time.sleep(WITH_CONNECTION)
    time.sleep(WITHOUT)
    return ""


@app.get("/basket")
def basket() -> str:
    """Take a connection and keep it."""
    never_closed.append(engine.connect())
    return ""


@app.get("/export")
def export() -> str:
    """Hold a connection until the app may close."""
    with engine.connect():
        may_close.wait()
    return ""


def is_in_trouble() -> bool:
    """Tell whether a request waits for those that hold connections for long."""
    pool = guard.stat(app)["default"]
    held = pool["longest_held_seconds"] or 0.0
    return bool(pool["waiting"]) and held >= HELD_SECONDS


def main() -> None:
    """Get into trouble, say so, and stay there."""
    app.test_client().get("/basket")
    for _ in range(3):
        threading.Thread(
            target=app.test_client().get, args=("/export",), daemon=True
        ).start()
    while not is_in_trouble():
        time.sleep(0.02)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
