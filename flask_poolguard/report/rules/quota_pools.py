"""Which pools take of a quota, and how many connections each may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy.engine import URL, make_url

from ...databases.quotas import Quota
from ...state.status import Worker
from ...urls import server_key
from ..evidence import AnsweringServer, Evidence

# Tells by bind and URL whether a pool's connections count.
Counts = Callable[[str, str], bool]


def counting(server: AnsweringServer, quota: Quota) -> Counts:
    """Return what tells whether a pool takes of a quota, also one of a bind that this
    process does not have.
    """

    def counts(bind: str, url: str) -> bool:
        if server.key is None:
            return bind in quota.binds
        if server_key(url) != server.key:
            return False
        if quota.scope == "server":
            return True
        owner = _user_in(url) if quota.scope == "user" else _database_in(url)
        return bind in quota.binds if owner is None else owner == quota.owner

    return counts


def limits_of_pools(
    worker: Worker, evidence: Evidence
) -> Iterator[tuple[str, str, int | None]]:
    """Yield bind, URL and limit of a worker's pools: None for no limit, 0 for one that
    is not known.

    A worker of which no pool is known yet will have those of this process.
    """
    if not worker.pools:
        yield from configured_pools(evidence)
    for pool in worker.pools:
        limit = None if pool.is_unlimited else pool.limit or 0
        yield pool.bind, pool.url, limit


def configured_pools(evidence: Evidence) -> Iterator[tuple[str, str, int | None]]:
    """Yield bind, URL and limit of the pools as this process would set them up."""
    for each in evidence.engines:
        facts = each.tracker.facts
        if facts.size is not None and facts.max_overflow is not None:
            is_unlimited = facts.size == 0 or facts.max_overflow < 0
            limit = None if is_unlimited else facts.size + facts.max_overflow
            yield each.bind, facts.url, limit


def _user_in(url: str) -> str | None:
    """Return the user of a URL, which libpq also takes from among the options."""
    parsed = make_url(url)
    return parsed.username or _option(parsed, "user")


def _database_in(url: str) -> str | None:
    parsed = make_url(url)
    return parsed.database or _option(parsed, "dbname") or _user_in(url)


def _option(url: URL, name: str) -> str | None:
    value = url.query.get(name)
    return value if isinstance(value, str) else None
