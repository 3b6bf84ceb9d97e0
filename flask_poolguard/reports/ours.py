"""How many of a server's sessions are in the workers' pools."""

from __future__ import annotations

from collections.abc import Sequence

from ..databases import ServerView


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
