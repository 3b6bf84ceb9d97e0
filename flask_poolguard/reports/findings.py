"""What is wrong with pools and servers, and which line or key to change."""

from __future__ import annotations

import typing as t
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..engines import Guarded
from ..pool.recycle import SHARE_OF_LIMIT
from ..tracking.decoding import PoolState
from ..tracking.reader import WorkerState
from ..urls import ServerKey, public_url, server_key
from .model import Finding, PoolStatus, Worker
from .servers import Answer


def find_leaks(states: Sequence[WorkerState]) -> list[Finding]:
    """Return one finding per endpoint and line that did not give back connections."""
    leaks: Counter[tuple[str, str]] = Counter()
    unnamed = 0
    for pool in _pools(states):
        unnamed += pool.counts["leaks"]
        for leak in pool.leaks:
            leaks[leak.endpoint or "(unknown)", leak.site or "unknown"] += leak.count
            unnamed -= leak.count
    findings = [
        Finding(
            "warning",
            "leak",
            f"{endpoint} did not give back {_connections(count)} taken at {site}",
            "Use the connection in a with block, or close it in a finally clause, at"
            f" {site}.",
        )
        for (endpoint, site), count in leaks.most_common()
    ]
    if unnamed > 0:
        findings.append(
            Finding(
                "warning",
                "leak",
                f"{_connections(unnamed)} more not given back, taken at other lines",
                "See the warnings of flask_poolguard in the app's log for the lines.",
            )
        )
    return findings


def find_late_recycling(
    states: Sequence[WorkerState],
    engines: Sequence[Guarded],
    answers: Mapping[str, Answer],
) -> list[Finding]:
    """Return the user's own recycle times that the server's idle limit defeats.

    A worker knows the limit of its own sessions; where none has a connection yet,
    what the server says counts.
    """
    late: dict[tuple[str, str, float, float], None] = {}
    seen = set()
    for pool in _pools(states):
        if pool.server_limit is not None:
            seen.add(pool.bind)
            if pool.age_based and pool.recycle_seconds is not None:
                origin = (pool.recycle_source or "pool_recycle").rpartition(" = ")[0]
                late[pool.bind, origin, pool.recycle_seconds, pool.server_limit] = None
    for each in engines:
        view, setting = answers[each.bind].view, each.settings.pool_recycle
        limit = None if view is None else view.idle_limit.seconds
        if each.bind not in seen and limit is not None and setting.value != "auto":
            late[each.bind, setting.origin, setting.value, limit] = None
    return [
        Finding(
            "warning",
            "recycle",
            f"{origin} = {seconds:g} s of bind {bind!r} is not below the server's idle"
            f" limit of {limit:g} s, so it cannot protect idle connections",
            f"Remove {origin} (the guard then derives {limit * SHARE_OF_LIMIT:g} s), or"
            f" set it below {limit:g}.",
        )
        for bind, origin, seconds, limit in late
        if seconds >= limit
    ]


def find_timeouts(
    workers: Sequence[Worker], engines: Sequence[Guarded]
) -> list[Finding]:
    """Return the binds of which somebody waited for a connection in vain."""
    findings = []
    for each in engines:
        pools = [
            (worker.pid, pool)
            for worker in workers
            for pool in worker.pools
            if pool.bind == each.bind and pool.timeouts
        ]
        if pools:
            count = sum(pool.timeouts or 0 for _, pool in pools)
            by_worker = ", ".join(f"{pid}: {pool.timeouts}" for pid, pool in pools)
            findings.append(
                Finding(
                    "warning",
                    "timeouts",
                    f"{count} {'checkout' if count == 1 else 'checkouts'} of bind"
                    f" {each.bind!r} got no connection in time (by worker:"
                    f" {by_worker})",
                    _how_to_shorten(each, [pool for _, pool in pools]),
                )
            )
    return findings


def _how_to_shorten(guarded: Guarded, pools: Sequence[PoolStatus]) -> str:
    fix = "Give connections back sooner"
    holders = [holder for pool in pools for holder in pool.holders if holder.endpoint]
    if holders:
        longest = max(holders, key=lambda holder: holder.held_seconds)
        fix += (
            f" (the longest is out for {longest.held_seconds:.1f} s now:"
            f" {longest.endpoint} at {longest.site or 'an unknown line'})"
        )
    if pools[0].limit is None:
        return fix + "."
    return (
        f"{fix}, or raise {key_of(guarded, 'pool_size')} (now {pools[0].size}) or"
        f" {key_of(guarded, 'max_overflow')} (now {pools[0].max_overflow})."
    )


def find_overbooking(
    workers: Sequence[Worker],
    engines: Sequence[Guarded],
    answers: Mapping[str, Answer],
) -> list[Finding]:
    """Return the servers that allow fewer connections than the workers may open."""
    allowed: dict[ServerKey, tuple[int, Guarded]] = {}
    for each in engines:
        key, view = server_key(each.engine.url), answers[each.bind].view
        if key is not None and view is not None and view.max_connections is not None:
            allowed.setdefault(key, (view.max_connections, each))
    findings = []
    for key, (maximum, guarded) in allowed.items():
        pools = [
            pool
            for worker in workers
            for pool in worker.pools
            if server_key(pool.url) == key
        ]
        if any(pool.is_unlimited for pool in pools):
            may_open = "any number of"
        else:
            total = sum(pool.limit or 0 for pool in pools)
            if total <= maximum:
                continue
            may_open = str(total)
        findings.append(_overbooked(key, may_open, pools, maximum, guarded, workers))
    return findings


def _overbooked(
    key: ServerKey,
    may_open: str,
    pools: Sequence[PoolStatus],
    maximum: int,
    guarded: Guarded,
    workers: Sequence[Worker],
) -> Finding:
    kinds = Counter((pool.bind, pool.limit, pool.is_unlimited) for pool in pools)
    terms = " + ".join(
        f"{count} × {'unlimited' if unlimited else limit} ({bind})"
        for (bind, limit, unlimited), count in kinds.items()
        if limit or unlimited
    )
    _, host, port = key
    number = len(workers)
    return Finding(
        "warning",
        "budget",
        f"{number} {'worker' if number == 1 else 'workers'} may open {may_open}"
        f" connections to {host}{f':{port}' if port else ''}: {terms}; the server"
        f" allows {maximum}",
        f"Lower {key_of(guarded, 'pool_size')} or {key_of(guarded, 'max_overflow')} so"
        f" that a worker's pools have {max(maximum // number, 1)} at most, start fewer"
        " workers, or raise the server's max_connections.",
    )


def find_silent_servers(
    engines: Sequence[Guarded], answers: Mapping[str, Answer]
) -> list[Finding]:
    """Return the servers that could not be asked."""
    findings = []
    for each in engines:
        answer = answers[each.bind]
        where = f"bind {each.bind!r}, {public_url(each.engine.url)},"
        if answer.reachable is False:
            findings.append(
                Finding(
                    "critical",
                    "server-unreachable",
                    f"The server of {where} cannot be reached: {answer.error}",
                    "Check that it runs, that this host may reach it, and the address,"
                    " user and password in the app's configuration.",
                )
            )
        elif answer.error is not None:
            findings.append(
                Finding(
                    "warning",
                    "server-view",
                    f"The server of {where} did not answer all questions:"
                    f" {answer.error}",
                    "Its figures are unknown until its user may ask for them.",
                )
            )
    return findings


def key_of(guarded: Guarded, name: str) -> str:
    """Return the key to change for a setting: where it was set, or could be."""
    setting = getattr(guarded.settings, name)
    if not setting.is_default:
        return t.cast(str, setting.origin)
    if guarded.bind == "default":
        return f"POOLGUARD_{name.upper()}"
    return f"POOLGUARD_BINDS[{guarded.bind!r}][{name!r}]"


def _pools(states: Iterable[WorkerState]) -> Iterable[PoolState]:
    return (pool for state in states for pool in state.pools)


def _connections(count: int) -> str:
    return f"{count} connection" if count == 1 else f"{count} connections"
