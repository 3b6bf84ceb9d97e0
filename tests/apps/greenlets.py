"""Requests in greenlets, some of which are struck in the middle of a query.

    python -m tests.apps.greenlets URL SCENARIO

Prints what it found as JSON. It must be a program of its own, because gevent changes
the standard library for the whole process.
"""

# ruff: noqa: E402 (nothing may be imported before gevent has changed it)
from gevent import monkey

monkey.patch_all()

import contextvars
import json
import logging
import random
import sys
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import gevent.pool
import gevent.socket
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from flask_poolguard import PoolGuard
from tests.support.waiting import wait_until

GATES = {
    "mysql": (  # of this database: the server's names of locks are for all
        "SELECT GET_LOCK(CONCAT(DATABASE(), '.gate'), 60)",
        "SELECT RELEASE_LOCK(CONCAT(DATABASE(), '.gate'))",
    ),
    "postgresql": (
        "SELECT 1 FROM (SELECT pg_advisory_lock(7)) AS gate",
        "SELECT pg_advisory_unlock(7)",
    ),
}
WAITING = {
    "mysql": "SELECT COUNT(*) FROM information_schema.processlist"
    " WHERE state = 'User lock' AND db = DATABASE()",
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()",
}


class Program:
    """A guarded app, and a connection of one's own to look at the server."""

    def __init__(self, url: str, **config: Any) -> None:
        make_psycopg2_cooperate()
        self.app = Flask(__name__)
        self.app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.app.config.update(config)
        self.db = SQLAlchemy(self.app)
        PoolGuard(self.app)
        self.kept: list[object] = []
        backend = make_url(url).get_backend_name()
        self.close_gate, self.open_gate = (text(sql) for sql in GATES[backend])
        self.waiting = text(WAITING[backend])
        self.outside = create_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        with self.app.app_context():
            self.engine = self.db.engine
        self.app.add_url_rule("/number", view_func=self.number)
        self.app.add_url_rule("/wait/<way>", view_func=self.wait)

    def number(self) -> str:
        """Return a number by way of the database."""
        query = text("SELECT :number").bindparams(number=int(request.args["of"]))
        return str(self.db.session.scalar(query))

    def wait(self, way: str) -> str:
        """Wait at the gate, having taken a connection in one of several ways."""
        if way == "session":
            self.db.session.scalar(self.close_gate)
        elif way == "connection":
            connection = self.db.engine.connect()
            self.kept.append(connection)
            connection.scalar(self.close_gate)
        else:
            raw = self.db.engine.raw_connection()
            self.kept.append(raw)
            raw.cursor().execute(str(self.close_gate))
        return "through"

    def until_waiting(self, connection: Connection) -> None:
        """Wait until the server has somebody waiting at the gate."""
        with gevent.Timeout(20):
            while not connection.scalar(self.waiting):
                gevent.sleep(0.005)

    def numbers(self, count: int) -> list[bool]:
        """Ask for numbers, one after the other; return which came back right."""
        client = self.app.test_client()
        return [
            client.get(f"/number?of={number}").text == str(number)
            for number in range(count)
        ]

    def figures(self) -> dict[str, object]:
        """Return what the pool and the books say."""
        (tracker,) = self.app.extensions["poolguard"].app_tracker.trackers
        checkedout = getattr(self.engine.pool, "checkedout", lambda: 0)
        return {
            "out": checkedout(),
            "checkouts": len(tracker.out),
            "left_behind": len(tracker.left_behind),
            "leaks": tracker.figures.counts["leaks"],
        }


def make_psycopg2_cooperate() -> None:
    """Let psycopg2 wait in gevent's way, as its documentation describes."""
    import psycopg2.extensions as extensions

    def wait(connection: Any) -> None:
        while True:
            state = connection.poll()
            if state == extensions.POLL_OK:
                return
            if state == extensions.POLL_READ:
                gevent.socket.wait_read(connection.fileno())
            else:
                gevent.socket.wait_write(connection.fileno())

    extensions.set_wait_callback(wait)


def struck(program: Program, strike: BaseException, ways: list[str]) -> dict[str, Any]:
    """Strike a request of each way in the middle of its query."""
    answers: list[bool] = []
    with program.outside.connect() as gate:
        gate.scalar(program.close_gate)
        for way in ways:
            greenlet = gevent.spawn(program.app.test_client().get, f"/wait/{way}")
            program.until_waiting(gate)
            greenlet.kill(strike)
            answers += program.numbers(5)
            # The server may still have it waiting, but the app does not.
            if gate.dialect.name == "postgresql":
                gate.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE wait_event_type = 'Lock'"
                        " AND datname = current_database()"
                    )
                )
            with gevent.Timeout(20):
                while gate.scalar(program.waiting):
                    gevent.sleep(0.005)
        gate.scalar(program.open_gate)
    answers += program.numbers(20)
    return {"answers": all(answers), **program.figures()}


def timeout(program: Program) -> dict[str, Any]:
    """Strike with a timeout, as `with gevent.Timeout()` does."""
    return struck(program, gevent.Timeout(), ["session", "connection", "raw"])


def kill(program: Program) -> dict[str, Any]:
    """Kill greenlets."""
    return struck(program, gevent.GreenletExit(), ["session", "connection", "raw"])


def storm(program: Program) -> dict[str, Any]:
    """Strike at random while many greenlets ask for numbers."""
    chance = random.Random(7)
    answers: list[bool] = []

    def ask(number: int) -> None:
        try:
            with gevent.Timeout(chance.uniform(0.0, 0.01) if number % 3 == 0 else None):
                got = program.app.test_client().get(f"/number?of={number}")
                answers.append(got.text == str(number))
        except gevent.Timeout:
            pass

    pool = gevent.pool.Pool(20)
    pool.map(ask, range(240))
    answers += program.numbers(20)
    return {
        "answers": all(answers),
        "enough": len(answers) >= 160,
        **program.figures(),
    }


def bystander(program: Program) -> dict[str, Any]:
    """End a request while a greenlet that it started works on."""
    started, over = gevent.event.Event(), gevent.event.Event()

    def work() -> int:
        with program.engine.begin() as connection:
            connection.scalar(text("SELECT 1"))
            started.set()
            over.wait(20)
            return int(connection.scalar(text("SELECT 42")) or 0)

    def forget() -> None:
        connection = program.engine.connect()
        program.kept.append(connection)

    greenlets: list[gevent.Greenlet[..., Any]] = []

    @program.app.get("/start")
    def start() -> str:
        greenlets.append(gevent.spawn(contextvars.copy_context().run, work))
        started.wait(20)
        greenlets.append(gevent.spawn(contextvars.copy_context().run, forget))
        greenlets[1].join(20)
        return "started"

    program.app.test_client().get("/start")
    # The next request looks after what greenlets left that have ended since.
    program.numbers(1)
    during = program.figures()
    over.set()
    answer = greenlets[0].get(timeout=20)
    return {"answers": answer == 42, "during": during["out"], **program.figures()}


def fill(program: Program) -> dict[str, Any]:
    """Let idle connections be opened, which another greenlet waits for."""
    pool: Any = program.engine.pool
    answers = program.numbers(1)
    filler = pool.idle_filler
    wait_until(lambda: filler.keeps and not filler.is_due() and not pool._pool.ahead)
    return {
        "answers": answers[0],
        "idle": pool.checkedin(),
        "is_due": filler.is_due(),
        **program.figures(),
    }


SCENARIOS: dict[str, Callable[[Program], dict[str, Any]]] = {
    each.__name__: each for each in (timeout, kill, storm, bystander, fill)
}


def main() -> None:
    """Run a scenario."""
    logging.basicConfig(level=logging.ERROR)
    _, url, scenario, *options = sys.argv
    config: dict[str, Any] = json.loads(options[0]) if options else {}
    print(json.dumps(SCENARIOS[scenario](Program(url, **config))))


if __name__ == "__main__":
    main()
