"""A process that makes the load; it takes orders line by line.

    python -m flask_poolguard.tune.load_worker

Orders come by standard input and answers go to standard output, as JSON. When the
input ends, so does the process: it never outlives the command, even one that was
killed.
"""

from __future__ import annotations

import functools
import json
import os
import select
import sys
import time
import traceback
import typing as t
from collections.abc import Callable, Sequence

from flask.cli import ScriptInfo
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from ..engines import Guarded, resize
from ..masking import secrets_of
from ..pool import GuardedPool
from ..state.visibility import hide_process
from . import processor
from .failures import WorkFailed
from .load import Load
from .work import Work
from .workload import Deed, keep_errors, only_read, prepare

if t.TYPE_CHECKING:
    from flask import Flask

# How long what is under way may go on when all is to end.
_LAST_SECONDS: t.Final = 2.0


class _Orders:
    """Lines of standard input, which can be waited for and looked for."""

    def __init__(self) -> None:
        self._read = b""
        self.ended = False

    def next(self) -> dict[str, t.Any] | None:
        """Wait for an order; None when there will be no more."""
        while b"\n" not in self._read and not self.ended:
            self._take()
        line, found, self._read = self._read.partition(b"\n")
        return t.cast("dict[str, t.Any]", json.loads(line)) if found else None

    def has_ended(self, seconds: float) -> bool:
        """Wait so long, or until the input ends; tell whether it has."""
        if not self.ended and select.select([0], [], [], seconds)[0]:
            self._take()
        return self.ended

    def _take(self) -> None:
        data = os.read(0, 65536)
        self._read += data
        self.ended = not data


class LoadWorker:
    """The app in this process.

    :param order: what :meth:`.LoadProcesses.begin` sends first.
    """

    def __init__(self, order: dict[str, t.Any], orders: _Orders) -> None:
        self._app = app = _load_app(order)
        with app.app_context():
            pass  # its push looks for the engines
        state = app.extensions["poolguard"]
        # An app that asked its database while it was imported has a file by now.
        state.app_tracker.remove_file()
        self._engines: list[Guarded] = state.engines
        (self._tuned,) = [e for e in self._engines if e.bind == order["bind"]]
        self._threads: int = order["threads"]
        self._largest: int = order["largest"]
        self._crowding: float = max(order["processes"] / processor.cores(), 1.0)
        works = [Work(**each) for each in order["works"]]
        if works[0].kind == "sql":
            only_read(self._tuned.engine)
        keep_errors(app)
        deeds = [prepare(w, app, self._tuned.engine, self._engines) for w in works]
        self._deeds = list(zip(works, deeds, strict=True))
        self.load = Load(deeds, [work.weight for work in works], orders.has_ended)

    @property
    def tasks(self) -> Sequence[Callable[[dict[str, t.Any]], dict[str, t.Any]]]:
        """What can be ordered, by its name."""
        return self.rehearse, self.fill, self.measure

    def rehearse(self, order: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do each work twice, and see what it takes; the first time fills caches.

        :returns: the ``seconds`` of one, on average.

        :raises WorkFailed: it takes two connections at once, or none at all.
        """
        for each in self._engines:
            if isinstance(each.engine.pool, GuardedPool):
                resize(each, self._largest)
        usage = self._tuned.tracker.usage
        answers: list[str] = []
        before, seconds, slowest = 0, 0.0, 0.0
        for again in (False, True):
            before = sum(usage.demand)
            for work, (do, describe) in self._deeds:
                began_at = time.monotonic()
                status = _do(do, describe)
                if not again:
                    continue
                took = time.monotonic() - began_at
                slowest = max(slowest, took)
                seconds += took * work.weight
                answers += [f"{work} answered {status}"] if status else []
                if usage.nesting > 1:
                    raise WorkFailed(
                        f"{work} has {usage.nesting} connections of bind"
                        f" {self._tuned.bind!r} at once: with small pools its requests"
                        " would wait for each other for ever. Let it take one, or give"
                        " the first back before it takes the second."
                    )
        if sum(usage.demand) == before:
            raise WorkFailed(
                f"Nothing of this takes a connection of bind {self._tuned.bind!r}, so"
                " no size of that pool can make a difference:"
                f" {', '.join(answers)}. (A view whose answer is in a cache takes"
                " none.) Choose another --url, or another --bind."
            )
        self.load.expect(slowest * self._threads * self._crowding)
        return {"seconds": seconds / sum(work.weight for work, _ in self._deeds)}

    def fill(self, order: dict[str, t.Any]) -> dict[str, t.Any]:
        """Make a pool of the size to be measured, with all its connections.

        :raises WorkFailed: the database does not let so many in.
        """
        resize(self._tuned, order["size"])
        engine = self._tuned.engine
        with self._app.app_context():
            held: list[Connection] = []
            try:
                for _ in range(order["size"]):
                    held.append(engine.connect())
            except SQLAlchemyError as error:
                raise WorkFailed(
                    f"A pool of {order['size']} connections could not be filled: with"
                    f" {len(held)} open there was not one more"
                    f" ({self._refusal(error)}). Choose a smaller --max-size, use"
                    " fewer --processes, or free some connections."
                ) from error
            finally:
                for connection in held:
                    connection.close()
        return {}

    def _refusal(self, error: SQLAlchemyError) -> str:
        """Return why the database gave no connection, in one line.

        To the guard a thread that has them all and asks for one more is in a deadlock;
        what the database said is known to the pool's breaker.
        """
        engine = self._tuned.engine
        outage = t.cast(GuardedPool, engine.pool)._breaker.outage
        return outage or secrets_of(engine).describe(error)

    def measure(self, order: dict[str, t.Any]) -> dict[str, t.Any]:
        """Put the pool under load."""
        pool = t.cast(GuardedPool, self._tuned.engine.pool)
        seen = self.load.run(
            self._threads,
            order["begin"],
            order["warm"],
            order["seconds"],
            pool.checkedout,
        )
        return {
            "latencies": sorted(seen.latencies.items()),
            "statuses": [[*key, count] for key, count in seen.statuses.items()],
            "busy": seen.busy,
            "process_cores": seen.process_cores,
            "machine_share": seen.machine_share,
        }

    def close(self) -> None:
        """Close all connections; those in use by the end of the process."""
        all_ended = self.load.stop(_LAST_SECONDS)
        for each in self._engines:
            each.engine.dispose()
        if not all_ended:
            os._exit(1)


def main() -> None:
    """Follow orders until there are no more."""
    # What the app prints is not to be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    hide_process()
    orders = _Orders()
    first = orders.next()
    if first is None:
        return

    def answer(make: Callable[[], dict[str, t.Any]]) -> bool:
        try:
            line = make()
        except WorkFailed as error:
            line = {"failed": str(error)}
        except Exception as error:
            traceback.print_exc()
            line = {"broken": f"{type(error).__name__}: {error}"}
        try:
            print(json.dumps(line), file=answers, flush=True)
        except BrokenPipeError:
            return False
        return "broken" not in line

    made: list[LoadWorker] = []

    def start() -> dict[str, t.Any]:
        made.append(LoadWorker(first, orders))
        return {}

    try:
        if not answer(start):
            return
        todo = {each.__name__: each for each in made[0].tasks}
        while (order := orders.next()) is not None:
            if not answer(functools.partial(todo[order["do"]], order)):
                return
    finally:
        for worker in made:
            worker.close()


def _load_app(order: dict[str, t.Any]) -> Flask:
    """Import the app as the command did that started this."""
    sys.path[:] = order["path"]
    info = ScriptInfo(app_import_path=order["app"])
    return info.load_app()


def _do(do: Deed, describe: Callable[[BaseException], str]) -> int:
    try:
        return do()
    except WorkFailed:
        raise
    except Exception as error:
        raise WorkFailed(describe(error)) from error


if __name__ == "__main__":
    main()
