"""Greenlets that wait for a connection, in order, until they are struck.

    python -m tests.apps.waiting_greenlets URL SCENARIO [COOPERATES]

Prints what it found as JSON. It must be a program of its own, because gevent changes
the standard library for the whole process.
"""

from __future__ import annotations

# ruff: noqa: E402 (nothing may be imported before gevent has changed it)
from gevent import monkey

monkey.patch_all()

import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
from flask import Flask
from sqlalchemy import create_engine, event

from flask_poolguard import (
    FailedWait,
    PoolGuard,
    connection_recycled,
    pool_timeout,
)
from flask_poolguard.errors import PoolDeadlock, PoolTimeout
from flask_poolguard.pool import GuardedPool
from flask_poolguard.tracking import sending
from tests.apps.greenlets import make_psycopg2_cooperate
from tests.support.guarded_app import Clock


class Program:
    """A guarded pool, and greenlets that take from it."""

    def __init__(
        self, url: str, slots: int, timeout: float | None = 600, **config: Any
    ) -> None:
        self.app = Flask("greenlets")
        self.app.config.update(config)
        self.engine = create_engine(
            url, pool_size=slots, max_overflow=0, pool_timeout=timeout
        )
        PoolGuard(self.app).register(self.engine, app=self.app)
        with self.app.app_context():
            pass
        assert isinstance(self.engine.pool, GuardedPool)
        self.pool = self.engine.pool
        self.slots = slots
        self.order: list[int] = []

    def ask(self, number: int, began: gevent.event.Event) -> None:
        """Begin a task, and take a connection for a moment once it is time."""
        with self.app.app_context():
            began.wait()
            with self.engine.connect():
                self.order.append(number)
                gevent.sleep(0)

    def tasks(self, order: list[int]) -> list[gevent.Greenlet[..., Any]]:
        """Begin tasks by number, which then ask in another order."""
        events = [gevent.event.Event() for _ in order]
        found = [gevent.spawn(self.ask, n, each) for n, each in enumerate(events)]
        gevent.sleep(0)  # all begin, and wait for their event
        for count, number in enumerate(order, 1):
            events[number].set()
            self.until(lambda count=count: self.pool.waiting == count)  # type: ignore[misc] # mypy knows no defaults of lambdas
        return found

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds."""
        with gevent.Timeout(20):
            while not condition():
                gevent.sleep(0.001)

    def figures(self) -> dict[str, Any]:
        """Return what pool and books say, and whether every slot can be had."""
        (tracker,) = self.app.extensions["poolguard"].app_tracker.trackers
        found = {
            "out": self.pool.checkedout(),
            "checkouts": len(tracker.out),
            "waiting": [self.pool.waiting, tracker.figures.waiting],
            "timeouts": tracker.figures.counts["timeouts"],
        }
        with gevent.Timeout(20):
            held = [self.engine.connect() for _ in range(self.slots)]
            for each in held:
                each.close()
        return {**found, "order": self.order}


def order(url: str) -> dict[str, Any]:
    """Serve tasks that asked in another order than they began in."""
    program = Program(url, 1, None)
    with program.engine.connect():
        tasks = program.tasks([3, 0, 4, 1, 2])
    gevent.joinall(tasks, timeout=20, raise_error=True)
    return program.figures()


def strike(url: str, make: Callable[[], BaseException]) -> dict[str, Any]:
    """Strike the one to which a connection was handed over in the same moment."""
    program = Program(url, 1)
    connection = program.engine.connect()
    tasks = program.tasks([0, 1, 2])
    tasks[0].kill(make(), block=False)  # strikes at the next switch
    connection.close()
    handed_over = program.pool.waiting == 2
    gevent.joinall(tasks, timeout=20)
    return {"handed_over": handed_over, **program.figures()}


def timeout(url: str) -> dict[str, Any]:
    """Strike with a timeout, as `with gevent.Timeout()` does."""
    return strike(url, gevent.Timeout)


def kill(url: str) -> dict[str, Any]:
    """Kill a greenlet."""
    return strike(url, gevent.GreenletExit)


def storm(url: str) -> dict[str, Any]:
    """Strike at random while many greenlets take turns."""
    program = Program(url, 2)
    chance = random.Random(7)

    def work(number: int) -> None:
        for _ in range(20):
            limit = gevent.Timeout(chance.uniform(0, 0.004))
            try:
                with limit, program.engine.connect() as connection:
                    gevent.sleep(chance.choice((0, 0.0005)))
                    if chance.random() < 0.2:
                        connection.invalidate()
            except gevent.Timeout:
                pass

    everybody = [gevent.spawn(work, number) for number in range(60)]
    gevent.joinall(everybody, timeout=60, raise_error=True)
    return program.figures()


def deadlock(url: str) -> dict[str, Any]:
    """Let each of two have one connection and ask for one more."""
    program = Program(url, 2)
    both = gevent.event.Event()
    told: list[str] = []

    def nest(number: int) -> None:
        with program.app.app_context(), program.engine.connect():
            program.order.append(number)
            if len(program.order) == 2:
                both.set()
            both.wait(20)
            try:
                with program.engine.connect():
                    program.order.append(number)
            except PoolDeadlock as error:
                told.append(str(error))

    everybody = [gevent.spawn(nest, number) for number in range(2)]
    gevent.joinall(everybody, timeout=20, raise_error=True)
    return {"told": told, **program.figures()}


def bystander(url: str) -> dict[str, Any]:
    """Let one wait while it has a connection, and another one just have one."""
    program = Program(url, 2)
    over = gevent.event.Event()

    def hold() -> None:
        with program.engine.connect():
            over.wait(20)

    def nest() -> None:
        with program.engine.connect(), program.engine.connect():
            program.order.append(1)

    everybody = [gevent.spawn(hold), gevent.spawn(nest)]
    program.until(lambda: program.pool.waiting == 1)
    over.set()
    gevent.joinall(everybody, timeout=20, raise_error=True)
    return program.figures()


def silence(url: str) -> dict[str, Any]:
    """Wait in vain, while new connections lead to where nobody answers."""
    program = Program(url, 1, 1, POOLGUARD_CONNECT_TIMEOUT=25)
    silent = socket.create_server(("127.0.0.1", 0))
    asked: list[object] = []

    def lead_astray(dialect: object, record: object, _: Any, where: Any) -> None:
        asked.append(record)
        where.update(host="127.0.0.1", port=silent.getsockname()[1])

    def ask() -> str:
        try:
            program.engine.connect()
        except PoolTimeout as error:
            return str(error)
        return "got one"

    with program.engine.connect():
        event.listen(program.engine, "do_connect", lead_astray)
        began = time.monotonic()
        told = gevent.spawn(ask).get(timeout=60)
        seconds = time.monotonic() - began
        event.remove(program.engine, "do_connect", lead_astray)
    figures = program.figures()
    return {"asked": len(asked), "told": told, "seconds": seconds, **figures}


def signals(url: str) -> dict[str, Any]:
    """Let receivers give way, be struck, and hang."""
    program = Program(url, 1, 0.05, POOLGUARD_MAX_AGE=60)
    clock = Clock().of(program.engine)
    told: list[str] = []
    over, hangs = gevent.event.Event(), gevent.event.Event()

    def give_way(sender: Flask, wait: FailedWait) -> None:
        told.append(f"begin {wait.error}")
        gevent.sleep(0.2)
        told.append("end")

    def hang(sender: Flask, **facts: object) -> None:
        told.append(threading.current_thread().name)
        hangs.set()
        over.wait(20)

    def ask(seconds: float) -> str:
        try:
            with gevent.Timeout(seconds):
                program.engine.connect()
        except (PoolTimeout, gevent.Timeout) as error:
            return type(error).__name__
        return "got one"

    with pool_timeout.connected_to(give_way), program.engine.connect():
        asked = [gevent.spawn(ask, 20), gevent.spawn(ask, 20), gevent.spawn(ask, 0.15)]
        errors = [each.get(timeout=20) for each in asked]
    with connection_recycled.connected_to(hang):
        clock.now += 61
        with program.engine.connect():
            hangs.wait(20)
        for _ in range(3):  # none of them waits for the receiver
            with program.engine.connect():
                gevent.sleep(0)
        over.set()
    return {"told": told, "errors": errors, **program.figures()}


def native(url: str) -> dict[str, Any]:
    """Let the first signals come from tasks in gevent's thread pool: from the task
    itself, and from a greenlet of the hub that ends with the task's thread.
    """
    sending._AWAKE_WITHIN = 0.1  # type: ignore[misc] # not to wait for seconds
    program = Program(url, 1, POOLGUARD_MAX_AGE=60)
    clock = Clock().of(program.engine)
    told: list[str] = []

    def recycle() -> None:
        with program.engine.connect():
            pass
        clock.now += 61
        with program.engine.connect():
            pass

    def hear(sender: Flask, **facts: object) -> None:
        told.append(threading.current_thread().name)

    with connection_recycled.connected_to(hear):
        pool = gevent.get_hub().threadpool
        pool.apply(recycle)
        for count in range(2, 4):
            recycle()
            program.until(lambda count=count: len(told) >= count)  # type: ignore[misc] # mypy knows no defaults of lambdas
        sending._outbox.reset()
        pool.apply(lambda: gevent.spawn(recycle).join())
        pool.kill()
        begun = len(told)
        with gevent.Timeout(20):
            while len(told) < begun + 5:
                recycle()
                gevent.sleep(0.01)
    return {"told": told, **program.figures()}


SCENARIOS: dict[str, Callable[[str], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        order,
        timeout,
        kill,
        storm,
        deadlock,
        bystander,
        silence,
        signals,
        native,
    )
}


def main() -> None:
    """Run a scenario."""
    _, url, scenario, *more = sys.argv
    if more == ["COOPERATES"]:
        make_psycopg2_cooperate()
    print(json.dumps(SCENARIOS[scenario](url)))


if __name__ == "__main__":
    main()
