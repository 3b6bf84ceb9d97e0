"""Which live processes are the workers of this deployment."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..engines import Guarded
from ..state.process import is_same_path
from ..state.reader import read_workers
from ..state.search import LeftOut, Search
from ..state.status import Holder, IdleConnection, PoolStatus, Worker
from ..urls import database_key, is_of_one_place

# A pool's bind and URL, which tell staging from production.
PoolName = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """The live workers of an app's name.

    :ivar search: all that was found; its ``left_out`` names the workers that are not
        ours, and why.
    :ivar ours: those of this deployment, wherever they were started from.
    :ivar others: those of the same place that use other databases.
    """

    search: Search
    ours: Sequence[Worker]
    others: Sequence[Worker]


def find_workers(
    configured: str | None,
    app: str,
    root_path: str,
    own: Collection[PoolName],
    *,
    without_pid: int | None = None,
) -> Found:
    """Find the workers of an app.

    :param configured: ``POOLGUARD_STATE_DIR``.
    :param own: the names of this process's pools.
    :param without_pid: a process that is no worker.
    """
    search = read_workers(configured, app)
    workers = [
        each for each in without_doubles(search.workers) if each.pid != without_pid
    ]
    ours = [each for each in workers if belongs(each, own, root_path)]
    rest = [each for each in workers if each not in ours]
    others = [each for each in rest if is_same_path(each.root_path, root_path)]
    # Another version's file does not tell its databases: from another path, it may be
    # of another deployment, of which nothing is missing here.
    foreign = [
        each
        for each in search.problems
        if each.root_path is not None and not is_same_path(each.root_path, root_path)
    ]
    left_out = [
        *search.left_out,
        *(LeftOut.of(each, "databases" if each.pools else "unknown") for each in rest),
        *(
            LeftOut(each.pid, app, each.root_path or "", "version", ())
            for each in foreign
        ),
    ]
    left_out = [each for each in left_out if each.pid != without_pid]
    problems = [each for each in search.problems if each not in foreign]
    search = replace(search, problems=tuple(problems), left_out=tuple(left_out))
    return Found(search, ours, others)


def names_of(engines: Iterable[Guarded]) -> frozenset[PoolName]:
    """Return bind and URL of engines, as the workers' pools have them."""
    facts = [each.tracker.facts for each in engines]
    return frozenset((each.bind, each.url) for each in facts)


def belongs(worker: Worker, own: Collection[PoolName], root_path: str) -> bool:
    """Tell whether a worker of the app's name is of this process's deployment.

    Staging and production may be the same code under the same user; what differs
    is the databases. The same deployment may be started from several paths: releases
    behind a symbolic link, a server with another working directory. From another path,
    the databases must be known and the same; one in memory, or in a file without a
    full path, may be another.

    :param own: the names of this process's pools.
    """
    names = [(pool.bind, pool.url) for pool in worker.pools]
    return are_of(names, worker.root_path, own, root_path)


def are_of(
    names: Collection[PoolName],
    their_root_path: str,
    own: Collection[PoolName],
    root_path: str,
) -> bool:
    """Tell the same of a worker, alive or ended, by the names of its pools."""
    if is_same_path(their_root_path, root_path):
        return not names or any(name in own for name in names)
    return any(name in own and is_of_one_place(name[1]) for name in names)


def strange_binds(
    engines: Iterable[Guarded], workers: Sequence[Worker]
) -> dict[str, tuple[str, str]]:
    """Return the binds that lead this process to other databases than all workers of
    its deployment: there and here.

    Other options of the same database do not count: a release may change them while
    workers of the one before still run.
    """
    found = {}
    for each in engines:
        here = each.tracker.facts.url
        there = [
            pool.url
            for worker in workers
            for pool in worker.pools
            if pool.bind == each.bind
        ]
        if there and database_key(here) not in map(database_key, there):
            found[each.bind] = (there[0], here)
    return found


def are_of_one_deployment(one: Worker, other: Worker) -> bool:
    """Tell whether two workers are of one app: from one path, or on one database."""
    if one.process.app != other.process.app:
        return False
    names = [(pool.bind, pool.url) for pool in other.pools]
    return is_same_path(one.root_path, other.root_path) or any(
        (pool.bind, pool.url) in names and is_of_one_place(pool.url)
        for pool in one.pools
    )


def without_doubles(workers: Sequence[Worker]) -> list[Worker]:
    """Leave out what a process has made twice and did not use.

    A module that calls an app factory for its own use, such as Celery's, makes a second
    app of the same name in each worker. The one that is used counts; if none is, the
    one that was made last.
    """
    groups: dict[tuple[object, ...], list[Worker]] = {}
    for each in sorted(workers, key=lambda each: each.process.started_at):
        groups.setdefault(_identity(each), []).append(each)
    chosen = [
        path
        for group in groups.values()
        for path in [each.path for each in group if _is_used(each)] or [group[-1].path]
    ]
    return [each for each in workers if each.path in chosen]


def _identity(worker: Worker) -> tuple[object, ...]:
    which = worker.process
    return (
        which.host,
        which.pid_namespace,
        which.pid,
        which.start_ticks,
        which.app,
        os.path.realpath(which.root_path),
    )


def _is_used(worker: Worker) -> bool:
    return worker.has_served or any(
        pool.connects or pool.is_used for pool in worker.pools
    )


def connections_of(
    engines: Iterable[Guarded], workers: Iterable[Worker]
) -> Iterator[tuple[Worker, PoolStatus, Holder | IdleConnection]]:
    """Yield the open connections of some of the binds, in all workers."""
    own = names_of(engines)
    for worker in workers:
        for pool in worker.pools:
            if (pool.bind, pool.url) in own:
                for connection in pool.connections:
                    yield worker, pool, connection


def parents_among(workers: Sequence[Worker]) -> list[Worker]:
    """Return those that are no workers: they only started the others.

    gunicorn's master with ``--preload`` is one, if the app asks the database while it
    is made. What has answered a request is none, nor what a server has started for
    that, nor what uses a connection now.
    """
    return [
        each
        for each in workers
        if not (each.has_served or each.is_started)
        and not any(pool.is_used for pool in each.pools)
        and any(other.process.is_child_of(each.process) for other in workers)
    ]
