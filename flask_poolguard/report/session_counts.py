"""How many of a server's sessions are in the workers' pools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..databases import ServerView
from ..engines import Guarded
from ..state.status import PoolStatus, Worker
from .deployment import names_of
from .servers import Answer, group_by_server


def open_server_ids(pools: Iterable[PoolStatus]) -> frozenset[int] | None:
    """Return the servers' numbers of all open connections, None if some are unknown.

    One that is being opened right now does not count.
    """
    ids = set()
    for pool in pools:
        if not pool.is_counted or pool.unlisted_checkouts:
            return None
        numbers = (each.server_id for each in pool.connections)
        known = {each for each in numbers if each is not None}
        is_any_open = pool.idle_connections or any(
            not each.is_being_opened for each in pool.holders
        )
        if not known and is_any_open:
            return None
        ids |= known
    return frozenset(ids)


def count_ours(ids: frozenset[int] | None, views: Sequence[ServerView]) -> int | None:
    """Count the workers' sessions at a server.

    Unknown where the server knows none of the numbers, unless it is certain to have
    those that drivers are told: a proxy between (PgBouncer) gives out its own.

    :param ids: which the workers have open; None is unknown.
    :param views: what the server told its binds: one may see more than the other.
    """
    listed = [each.session_ids for each in views if each.session_ids is not None]
    if ids is None or not listed:
        return None
    count = len(ids.intersection(frozenset().union(*listed)))
    is_certain = any(each.has_drivers_numbers for each in views)
    return count if count or not ids or is_certain else None


def count_at_server(
    guarded: Guarded,
    engines: Sequence[Guarded],
    answers: Mapping[str, Answer],
    workers: Sequence[Worker],
) -> int | None:
    """Count the workers' sessions at a bind's server, those of all binds that lead to
    it.
    """
    binds = next(each for each in group_by_server(engines) if guarded in each)
    own = names_of(binds)
    ids = open_server_ids(
        pool for each in workers for pool in each.pools if (pool.bind, pool.url) in own
    )
    views = (answers[each.bind].view for each in binds)
    return count_ours(ids, [view for view in views if view is not None])
