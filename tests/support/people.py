"""People who ask one pool for connections, each in a thread of his own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from flask import Flask
from sqlalchemy import Connection, Engine

from flask_poolguard.pool import GuardedPool
from tests.support.guarded_app import guarded_pool
from tests.support.waiting import wait_until

T = TypeVar("T")

_Task = tuple[Future[Any], Callable[[], Any]]

# Long enough for the slowest machine; nobody waits so long unless a test fails.
SECONDS = 20.0


class Struck(BaseException):
    """Strikes a thread, as a signal's handler or gevent.Timeout does."""


class Person:
    """Does one thing after the other, in one thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.connections: list[Connection] = []
        self._contexts = ExitStack()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self.begin_thread()

    @property
    def pool(self) -> GuardedPool:
        """Return the engine's pool of now."""
        return guarded_pool(self.engine)

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Begin to do something."""
        future: Future[T] = Future()
        self._tasks.put((future, work))
        return future

    def do(self, work: Callable[[], T]) -> T:
        """Do something and return what came of it."""
        return self.start(work).result(SECONDS)

    def begin(self, app: Flask) -> Self:
        """Begin a task: all that follows is within its context."""
        self.do(lambda: self._contexts.enter_context(app.app_context()))
        return self

    def take(self) -> Self:
        """Take a connection."""
        self.do(self._take)
        return self

    def ask(self) -> Future[None]:
        """Ask for a connection and return once that waits."""
        pool = self.pool
        before = pool.waiting
        asked = self.start(self._take)
        wait_until(
            lambda: pool.waiting > before or asked.done(),
            seconds=SECONDS,
            what="one more who waits",
        )
        return asked

    def give_back(self) -> None:
        """Give back what was taken last."""
        self.do(self.connections.pop().close)

    def leave(self) -> None:
        """Give back everything, end the task and the thread."""
        try:
            while self.connections:
                self.give_back()
            self.do(self._contexts.close)
        except BaseException:
            self._tasks.put(None)
            raise
        self.end_thread()

    def begin_thread(self) -> None:
        """Have a thread; all that is done is done in it."""
        # A daemon: where a test fails it may wait for a connection for ever, and the
        # interpreter would wait for it in the end.
        self._thread = threading.Thread(target=self._work, name="person", daemon=True)
        self._thread.start()

    def end_thread(self) -> None:
        """End the thread, and be sure of it."""
        self._tasks.put(None)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "still at work"

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, work = task
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            # Whatever was in it is not to be kept by this frame.
            del task, future, work

    def _take(self) -> None:
        self.connections.append(self.engine.connect())


@contextmanager
def people(engine: Engine, count: int) -> Iterator[list[Person]]:
    """Give some people, who leave in the end."""
    with ExitStack() as stack:
        found = [Person(engine) for _ in range(count)]
        for each in found:
            stack.callback(each.leave)
        yield found


class Stop:
    """Holds up whoever comes by, until it is opened."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self._reached.set()
        assert self._opened.wait(SECONDS), "nobody opened"

    def until_reached(self) -> None:
        """Wait until somebody is held up here."""
        assert self._reached.wait(SECONDS), "nobody came by"

    def open(self) -> None:
        """Let everybody through."""
        self._opened.set()
