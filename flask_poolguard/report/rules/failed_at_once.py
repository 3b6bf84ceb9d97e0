"""Requests that failed at once: in a deadlock, and writes on a read-only server."""

from __future__ import annotations

from collections.abc import Iterator

from ...state.status import PoolStatus
from ..evidence import Evidence
from ..model import Finding
from ..phrases import change_sizes, key_of
from ..recent import Recent
from .failures import (
    began,
    by_worker,
    counted,
    judge_failures,
    lately_text,
    pools_with,
    risen_in,
)


def find_deadlocks(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds whose requests wait for one another."""
    for each in evidence.binds():
        pools = pools_with(evidence, each.bind, _count_deadlocks)
        if not pools:
            continue
        risen = risen_in(evidence, pools, _count_deadlocks)
        level, lately = judge_failures(pools, "deadlocks")
        line = next(
            (pool.deadlock_line for _, pool in pools if pool.deadlock_line), None
        )
        size = f"{key_of(each, 'pool_size')} (now {pools[0][1].size})"
        yield Finding(
            "critical" if risen else level,
            "deadlock",
            f"{counted(pools, _count_deadlocks)} of bind {each.bind!r} ended in a"
            f" deadlock since {began(pools)}{_at(line)}: the request held a connection"
            " and wanted another, as did all others that held one;"
            f" {lately_text(evidence, risen, lately)} (by worker:"
            f" {by_worker(pools, _count_deadlocks)})",
            "Give the first connection back before the second is taken, or use the"
            f" same for both{_at(line)}; else"
            f" {change_sizes(each, 'raise', size)}.",
            "The youngest of these requests failed with PoolDeadlock, so that the"
            " others could go on.",
            None
            if not lately.failed
            else f"{_requests(lately)} failed in a deadlock {lately.when()}: all"
            f" connections of bind {each.bind} were held by requests that wanted"
            f" another{_at(line)}",
        )


def _count_deadlocks(pool: PoolStatus) -> int:
    return pool.deadlocks


def _at(line: str | None) -> str:
    return "" if line is None else f", at {line}"


def _requests(lately: Recent) -> str:
    return "1 request" if lately.failed == 1 else f"{lately.failed} requests"


def find_refused_writes(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds whose server may not write any more."""
    for each in evidence.binds():
        pools = pools_with(evidence, each.bind, _count_refused)
        if not pools:
            continue
        risen = risen_in(evidence, pools, _count_refused)
        level, lately = judge_failures(pools, "refused_writes")
        number = _writes(sum(pool.refused_writes for _, pool in pools))
        yield Finding(
            "critical" if risen else level,
            "read-only",
            f"The server of bind {each.bind!r} is read-only: it refused {number} since"
            f" {began(pools)}; {lately_text(evidence, risen, lately)} (by worker:"
            f" {by_worker(pools, _count_refused)})",
            "See at the server whether it was made read-only, or is a replica or"
            " standby now (MySQL, MariaDB: SELECT @@read_only; PostgreSQL: SELECT"
            " pg_is_in_recovery(), SHOW default_transaction_read_only); if another one"
            " writes now, let the app's address lead there.",
            "Each of these statements failed. The pool replaces its connections when it"
            " meets that, so it follows an address that leads to another server.",
            None
            if not lately.failed
            else f"server of bind {each.bind} is read-only: it refused"
            f" {_writes(lately.failed)} {lately.when()}",
        )


def _count_refused(pool: PoolStatus) -> int:
    return pool.refused_writes


def _writes(count: int) -> str:
    return "1 write" if count == 1 else f"{count} writes"
