"""How many of a server's sessions are in the workers' pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..databases import ServerView
from ..engines import Guarded
from ..state.decoding import cut
from ..state.reader import WorkerState
from ..urls import server_key
from .servers import Answer
from .workers import open_server_ids


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
    states: Sequence[WorkerState],
) -> int | None:
    """Count the workers' sessions at a bind's server, those of all binds that lead to
    it.
    """
    key = server_key(guarded.engine.url)
    binds = [
        each
        for each in engines
        if each is guarded or (key and server_key(each.engine.url) == key)
    ]
    own = {(each.tracker.facts.bind, cut(each.tracker.facts.url)) for each in binds}
    ids = open_server_ids(
        pool for state in states for pool in state.pools if (pool.bind, pool.url) in own
    )
    views = (answers[each.bind].view for each in binds)
    return count_ours(ids, [view for view in views if view is not None])
