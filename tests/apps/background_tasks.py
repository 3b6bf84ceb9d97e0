"""Run one background task that leaks a connection; print what the guard says of it.

Run as ``python -m tests.apps.background_tasks KIND``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_poolguard import PoolGuard

app = Flask("shop")
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///:memory:"
db = SQLAlchemy(app)
PoolGuard(app)
messages: list[str] = []
kept: list[Any] = []


class Noting(logging.Handler):
    """Keeps what the guard warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.append(record.getMessage())


def leak() -> None:
    """Take a connection and do not give it back."""
    kept.append(db.engine.connect())


def leak_in_context() -> None:
    """Do that in an app context of its own, as tasks do."""
    with app.app_context():
        leak()


def run_celery() -> None:
    """Run a task in a worker of Celery's."""
    from celery.contrib.testing.worker import start_worker

    celery, task = make_celery()
    with start_worker(
        celery, loglevel="WARNING", pool="solo", perform_ping_check=False
    ):
        task.delay().get(timeout=30)


def run_celery_eagerly() -> None:
    """Run a task at once, outside of any request."""
    celery, task = make_celery()
    celery.conf.task_always_eager = True
    task.delay()


def run_celery_in_a_request() -> None:
    """Run a task at once, within a request."""
    celery, task = make_celery()
    celery.conf.task_always_eager = True

    @app.get("/order")
    def order() -> str:
        leak()
        task.delay()
        return "ordered"

    app.test_client().get("/order")


def make_celery() -> tuple[Any, Any]:
    """Return an app of Celery's and its task."""
    from celery import Celery

    celery = Celery("shop", broker="memory://", backend="cache+memory://")
    task = celery.task(name="shop.tasks.mail")(leak_in_context)
    return celery, task


def run_rq() -> None:
    """Run a job in a worker of RQ's."""
    import fakeredis
    from rq import Queue, SimpleWorker

    queue = Queue(connection=fakeredis.FakeStrictRedis())
    queue.enqueue("tests.apps.background_tasks.rq_job")
    SimpleWorker([queue], connection=queue.connection).work(burst=True)


def rq_job() -> None:
    """Leak; RQ imports this module by its name, which is another one than the main."""
    sys.modules["__main__"].leak_in_context()


def run_apscheduler() -> None:
    """Run a job in a thread of APScheduler's."""
    from apscheduler.schedulers.background import BackgroundScheduler

    done = threading.Event()

    def nightly() -> None:
        leak_in_context()
        done.set()

    scheduler = BackgroundScheduler()
    scheduler.add_job(nightly, name="nightly\nexport")
    scheduler.start()
    done.wait(30)
    scheduler.shutdown()


def run_apscheduler_asyncio() -> None:
    """Run a coroutine as a job."""
    import asyncio

    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    async def main() -> None:
        done = asyncio.Event()

        async def nightly() -> None:
            leak_in_context()
            done.set()

        scheduler = AsyncIOScheduler()
        scheduler.add_job(nightly, id="export", name="nightly")
        scheduler.start()
        await asyncio.wait_for(done.wait(), 30)
        scheduler.shutdown()

    asyncio.run(main())


def run_socketio() -> None:
    """Call a handler of Flask-SocketIO's."""
    from flask_socketio import SocketIO

    socketio = SocketIO(app, async_mode="threading")

    def chat(message: str) -> None:
        leak()

    socketio.on_event("chat", chat)
    client = socketio.test_client(app)
    client.emit("chat", "hello")
    client.disconnect()


def run_loaded() -> None:
    """Leak in no task, with all of the libraries loaded."""
    import apscheduler.executors.base
    import celery
    import flask_socketio
    import rq.job

    kept.append((apscheduler, celery, flask_socketio, rq))
    leak_in_context()


def run_request() -> None:
    """Leak in a request, with all of the libraries loaded."""
    run_loaded()
    messages.clear()

    @app.get("/page")
    def page() -> str:
        leak()
        return "page"

    app.test_client().get("/page")


def main(kind: str) -> None:
    """Run one of them."""
    logger = logging.getLogger("flask_poolguard")
    logger.addHandler(Noting(logging.WARNING))
    logger.propagate = False
    run: Callable[[], None] = globals()[f"run_{kind}"]
    with contextlib.redirect_stdout(sys.stderr):  # where RQ logs to
        run()
    leaks = [each for each in messages if "did not give back" in each]
    names = [each.partition(" did not give back")[0] for each in leaks]
    trackers = app.extensions["poolguard"].app_tracker.trackers
    counted = [
        endpoint for each in trackers for endpoint, _ in each.figures.leaking_lines
    ]
    print(json.dumps({"names": names, "counted": counted}))


if __name__ == "__main__":
    main(sys.argv[1])
