"""Makes all workers replace their connections, and follows their progress."""

from __future__ import annotations

import os
import socket
import time
import typing as t
from collections.abc import Iterator, Sequence

from ..config import AppConfig
from ..engines import Guarded
from ..state import recycle_requests
from ..state.search import Problem
from ..state.status import PoolStatus, Worker
from .deployment import Found, find_workers, names_of
from .environment import find_no_worker, find_other_deployments
from .gaps import find_problems, find_taken
from .model import Finding
from .renewal import SCHEMA_VERSION, PoolRenewal, Renewal, WorkerRenewal

if t.TYPE_CHECKING:
    from flask import Flask

# Seconds between two looks.
_PAUSE: t.Final = 0.2

# A connect that began before the request is shown by then: the figures of a pool are
# written ten times a second.
_SHOWN_AFTER_SECONDS: t.Final = 0.5


class Recycling:
    """One request to all live workers of an app on this host.

    :param engines: of this process; they say which workers are of the same deployment.
    :param bind: only this one, None for all.
    :param with_this_process: whether this process counts as a worker.
    :param may_be_nobody: whether it is done if there is no worker at all.
    """

    def __init__(
        self,
        app: Flask,
        config: AppConfig,
        engines: Sequence[Guarded],
        bind: str | None = None,
        *,
        with_this_process: bool = True,
        may_be_nobody: bool = False,
    ) -> None:
        self._app = app
        self._may_be_nobody = may_be_nobody
        self._state_dir = config.state_dir
        self._bind = bind
        self._own = names_of(engines)
        self._in_memory = names_of(
            each for each in engines if each.tracker.facts.in_memory
        )
        self._not_me = None if with_this_process else os.getpid()
        self._number = recycle_requests.new_number()
        self._begun = time.monotonic()
        # By path: the workers to ask as they were then, and who could not be read.
        found = self._find()
        search, others = found.search, found.others
        folders = [each for each in search.problems if each.kind == "folder"]
        self._workers = {each.path: each for each in found.ours if self._is_asked(each)}
        self._unreadable = {
            each.path: each for each in search.problems if each.kind != "folder"
        }
        self._refused: str | None = None
        absence: list[Finding] = []
        if not self._workers and not self._unreadable:
            self._refused = "; ".join(each.reason for each in folders) or None
            absence = find_no_worker(app, search, self._state_dir)
        self._left_out = self._why_left_out(folders, others)
        self._findings = (
            *([] if self._refused else find_problems(folders)),
            *find_taken(search.taken),
            *([] if self._refused else absence),
            *find_other_deployments(app.name, others, is_meant=bool(absence)),
        )

    def watch(self, seconds: float) -> Iterator[Renewal]:
        """Yield how far all are, again and again, until they are done.

        :param seconds: for so long at most; once in any case.
        """
        deadline = self._begun + seconds
        while True:
            now = self._look()
            yield now
            left = deadline - time.monotonic()
            if now.is_final or left <= 0:
                return
            time.sleep(min(_PAUSE, left))

    def _why_left_out(
        self, folders: Sequence[Problem], others: Sequence[Worker]
    ) -> str | None:
        if self._refused is not None:
            return None
        if folders:
            return "a folder of state files cannot be looked at"
        # Beside workers of this deployment they are another one: staging.
        if self._workers or self._unreadable:
            return None
        if others:
            return "its live workers use other databases than this command"
        return None if self._may_be_nobody else "no live worker was found"

    def _find(self) -> Found:
        return find_workers(
            self._state_dir,
            self._app.name,
            self._app.root_path,
            self._own,
            without_pid=self._not_me,
        )

    def _is_asked(self, worker: Worker) -> bool:
        return self._bind is None or bool(self._wanted(worker))

    def _wanted(self, worker: Worker) -> list[PoolStatus]:
        return [each for each in worker.pools if self._bind in (None, each.bind)]

    def _look(self) -> Renewal:
        now = self._find()
        found = {each.path: each for each in now.search.workers}
        problems = {each.path: each for each in now.search.problems}
        for path in list(self._unreadable):
            if path in found:  # it was only caught half way
                del self._unreadable[path]
                if found[path] in now.ours and self._is_asked(found[path]):
                    self._workers[path] = found[path]
        workers = [
            self._describe(before, found.get(path), problems.get(path))
            for path, before in self._workers.items()
        ]
        workers += [
            WorkerRenewal(each.pid, "", path not in problems, _reason(each), ())
            for path, each in self._unreadable.items()
        ]
        return Renewal(
            schema_version=SCHEMA_VERSION,
            app=self._app.name,
            host=socket.gethostname(),
            done=self._refused is None
            and self._left_out is None
            and all(each.is_done for each in workers),
            refused=self._refused,
            left_out=self._left_out,
            elapsed_seconds=round(time.monotonic() - self._begun, 3),
            workers=tuple(workers),
            findings=self._findings,
        )

    def _describe(
        self, before: Worker, now: Worker | None, problem: Problem | None
    ) -> WorkerRenewal:
        if now is None and problem is None:
            return WorkerRenewal(before.pid, before.host, True, None, ())
        trouble = None if problem is None else _reason(problem)
        pools = []
        is_unused = False
        if now is not None:
            # It opens its part of the file before its first connection.
            is_unused = not now.pools and self._is_old_enough(now.read_at)
            closed = {pool.bind: pool.closed.invalidated for pool in before.pools}
            pools = [
                self._pool(pool, closed.get(pool.bind) or 0, now.read_at)
                for pool in self._wanted(now)
            ]
        if not (pools and all(pool.answered for pool in pools)):
            try:
                # Again with each look: another command may have written its own.
                recycle_requests.ask(
                    before.path, self._bind or recycle_requests.ALL, self._number
                )
            except OSError as error:
                trouble = f"the request to it cannot be written: {error.strerror}"
        return WorkerRenewal(
            before.pid, before.host, False, trouble, tuple(pools), is_unused
        )

    def _is_old_enough(self, now: float) -> bool:
        """Tell whether a file that is read now shows what began before the request."""
        return now - self._number / 1e6 >= _SHOWN_AFTER_SECONDS

    def _pool(self, pool: PoolStatus, closed_before: int, now: float) -> PoolRenewal:
        has_none = not (pool.connects or pool.connections or pool.is_used)
        if has_none and self._is_old_enough(now):
            return PoolRenewal(pool.bind, pool.pool_class, True, 0, 0, ())
        answered = pool.usage.renewed >= self._number
        outdated = pool.usage.outdated if answered and pool.is_counted else None
        if answered and (pool.bind, pool.url) in self._in_memory:
            outdated = 0  # its data lives in the connection, which is left alone
        holders = pool.holders
        if not answered:  # what was taken before the request
            holders = tuple(
                each
                for each in holders
                if (now - each.held_seconds) * 1e6 < self._number
            )
        closed = pool.closed.invalidated
        return PoolRenewal(
            bind=pool.bind,
            pool_class=pool.pool_class,
            answered=answered,
            closed=None if closed is None else closed - closed_before,
            outdated=outdated,
            holders=holders[:outdated],
        )


def _reason(problem: Problem) -> str:
    if problem.kind == "layout":
        return f"it runs another version of Flask-PoolGuard ({problem.reason})"
    return f"its state file cannot be read: {problem.reason}"
