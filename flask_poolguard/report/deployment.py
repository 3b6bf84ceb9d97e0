"""Which live processes are the workers of this deployment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from ..engines import Guarded
from ..state.status import Holder, IdleConnection, PoolStatus, Worker

# A pool's bind and URL, which tell staging from production.
PoolName = tuple[str, str]


def names_of(engines: Iterable[Guarded]) -> frozenset[PoolName]:
    """Return bind and URL of engines, as the workers' pools have them."""
    facts = [each.tracker.facts for each in engines]
    return frozenset((each.bind, each.url) for each in facts)


def belongs(worker: Worker, own: Collection[PoolName]) -> bool:
    """Tell whether a worker is of the same deployment as this process.

    Staging and production may be the same code under the same user; what differs
    is the databases.

    :param own: the names of this process's pools.
    """
    names = [(pool.bind, pool.url) for pool in worker.pools]
    return not names or any(name in own for name in names)


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
