"""Connections that die in a process that gevent has changed.

    python -m tests.apps.gevent_liveness URL COOPERATES

Prints a line of JSON after each step, and waits for a line before the next one.
"""

# ruff: noqa: E402 (nothing may be imported before gevent has changed it)
from gevent import monkey

monkey.patch_all()

import json
import logging
import sys
import time
from typing import Any

import gevent
import gevent.event
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from flask_poolguard.pool import GuardedPool
from tests.apps.greenlets import make_psycopg2_cooperate
from tests.support.guarded_app import Clock, checked_out_id, engine_of, make_app


def tell(**found: Any) -> None:
    """Say what was found, and wait to be told to go on."""
    print(json.dumps(found), flush=True)
    sys.stdin.readline()


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def hold_for_long(engine: Any, over: gevent.event.Event) -> None:
    """Hold a connection, as a request that prints a report."""
    with engine.connect():
        over.wait(20)


def main() -> None:
    """Go through the steps."""
    _, url, cooperates = sys.argv
    if cooperates == "True":
        make_psycopg2_cooperate()
    log = Log()
    logging.getLogger("flask_poolguard").addHandler(log)
    app = make_app(
        url,
        POOLGUARD_PING_TIMEOUT=0.5,
        POOLGUARD_CONNECT_RETRY=0,
        POOLGUARD_HELD_WARNING=0.3,
    )
    engine = engine_of(app)
    assert isinstance(engine.pool, GuardedPool)

    over = gevent.event.Event()
    holder = gevent.spawn(hold_for_long, engine, over)
    with gevent.Timeout(15):
        while not log.lines:
            gevent.sleep(0.05)
    over.set()
    holder.join()
    tell(held=log.lines)

    tell(session=checked_out_id(engine))
    # By now that one was killed.
    tell(session=checked_out_id(engine))
    # By now the line is a black hole.
    clock = Clock().of(engine)
    clock.now = time.monotonic() + 61

    @event.listens_for(engine, "do_connect")
    def refuse(*_: object) -> None:
        raise ConnectionRefusedError

    began = time.monotonic()
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, ConnectionRefusedError) as error:
        tell(error=type(error).__name__, seconds=time.monotonic() - began)


if __name__ == "__main__":
    main()
