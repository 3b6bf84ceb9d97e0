"""Servers that give the workers no connection, as the workers meet it."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Sequence

from ...state.status import PoolStatus, Worker
from ...urls import server_key
from ..evidence import Evidence
from ..model import Finding
from ..phrases import capitalized, listed, named_binds, named_workers, requests
from ..recent import NOW_SECONDS, Recent, recent
from ..text import duration
from .failures import (
    Pools,
    began,
    by_worker,
    count_unavailable,
    counted,
    in_short,
    judge_failures,
    lately_text,
    risen_in,
)
from .pool_use import pools_of


def find_unavailable(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds whose workers get no connection from the server, or got none;
    binds that meet the same of one server are one.

    That is what the workers meet. This command may reach the server all the same, or
    not reach it where they do.
    """
    groups: dict[tuple[t.Any, ...], list[_Met]] = {}
    for each in evidence.binds():
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if not worker.stopped
        ]
        now = [pair for pair in pools if _is_in_vain(evidence, pair[1])]
        failed = [pair for pair in pools if pair[1].unavailable]
        if now or failed:
            met = frozenset(pool.obstacle for _, pool in now)
            key = (server_key(pools[0][1].url) or each.bind, met)
            groups.setdefault(key, []).append(_Met(each.bind, now, failed))
    for group in groups.values():
        yield _unavailable(
            evidence,
            [each.bind for each in group],
            [pair for each in group for pair in each.now],
            [pair for each in group for pair in each.failed],
        )


class _Met(t.NamedTuple):
    """The pools of a bind that get no connection, and those that have got none."""

    bind: str
    now: Pools
    failed: Pools


def _unavailable(
    evidence: Evidence, binds: Sequence[str], now: Pools, failed: Pools
) -> Finding:
    risen = risen_in(evidence, failed, count_unavailable)
    level, lately = judge_failures(failed, "unavailable")
    names, texts = named_binds(binds), []
    if now:
        gets = (
            "gets no connection from its"
            if len(binds) == 1
            else "get no connection from their"
        )
        seen = "; ".join(_in_vain(each) for each in _by_obstacle(now))
        texts.append(f"{capitalized(names)} {gets} server: {seen}")
    if failed:
        texts.append(
            f"{counted(failed, count_unavailable)} of {names} failed"
            f" since {began(failed)}, because the server gave no connection;"
            f" {lately_text(evidence, risen, lately)} (by worker:"
            f" {by_worker(failed, count_unavailable)})"
        )
    if risen or any(_is_felt(evidence, pool) for _, pool in now):
        level = "critical"
    return Finding(
        level,
        "unavailable",
        ". ".join(texts),
        _remedy(now),
        "Each request that needs a new connection waits for it, keeps a thread of"
        " its worker meanwhile, and fails when the time is up."
        if not now or now[0][1].obstacle != "login"
        else "Each request that needs a new connection fails at once, with HTTP"
        " 500: a refused login is not tried again.",
        _obstacle_in_short(binds, now, lately)
        or in_short(binds, lately, "failed", failed),
    )


_OBSTACLES: t.Final = {
    "away": "server does not answer",
    "full": "server is full",
    "login": "server refuses the login",
}


def _obstacle_in_short(binds: Sequence[str], now: Pools, lately: Recent) -> str | None:
    if not now:
        return None
    met = [pool for _, pool in now if pool.obstacle is not None]
    connecting = sum(pool.connecting or 0 for _, pool in now)
    first = max((pool.oldest_connect_seconds or 0.0 for _, pool in now), default=0.0)
    who, whose = f"bind {binds[0]} gets", "its"
    if len(binds) > 1:
        who, whose = f"binds {listed(binds)} get", "their"
    parts = []
    if met:
        since = max(pool.obstacle_seconds or 0.0 for pool in met)
        parts.append(
            f"{who} no connection for {duration(since)}:"
            f" {whose} {_OBSTACLES[str(met[0].obstacle)]} ({met[0].url})"
        )
    elif connecting:
        parts.append(f"{who} no connection ({now[0][1].url})")
    if connecting:
        threads = "1 request" if connecting == 1 else f"{connecting} requests"
        parts.append(f"{threads} in the middle of connecting for {duration(first)}")
    if lately.failed:
        asked = max(lately.asked, lately.failed)
        parts.append(f"{lately.failed} of {asked} checkouts failed {lately.when()}")
    waiting = sum(pool.waiting or 0 for _, pool in now)
    if waiting:
        parts.append(requests(waiting))
    return "; ".join(parts)


def _remedy(now: Pools) -> str:
    if any(pool.obstacle == "login" for _, pool in now):
        return (
            "Compare user, password, host and database of the bind's URL with what the"
            " server allows; after a change of the password, restart the workers with"
            " the new one."
        )
    return (
        "See what else is found of the server; if it is well, look at what lies"
        " between: names, a firewall, a proxy. The app's log has each error."
    )


def _is_felt(evidence: Evidence, pool: PoolStatus) -> bool:
    """Tell whether any request fails or waits because of it now: a pool at its
    user's limit may serve all.
    """
    if pool.obstacle in ("away", "login"):
        return True
    lately = recent([pool], "unavailable", NOW_SECONDS)
    return bool(lately.failed) or _connects_for_long(evidence, pool)


def _connects_for_long(evidence: Evidence, pool: PoolStatus) -> bool:
    limit = evidence.thresholds.wait_seconds.warning
    seconds = pool.oldest_connect_seconds or 0.0
    return bool(pool.connecting) and limit is not None and seconds > limit


def _is_in_vain(evidence: Evidence, pool: PoolStatus) -> bool:
    return pool.obstacle is not None or _connects_for_long(evidence, pool)


def _by_obstacle(pools: Pools) -> list[Pools]:
    groups: dict[str | None, list[tuple[Worker, PoolStatus]]] = {}
    for worker, pool in pools:
        groups.setdefault(pool.obstacle, []).append((worker, pool))
    return list(groups.values())


def _in_vain(group: Pools) -> str:
    """Say what pools with the same obstacle meet."""
    pools = [pool for _, pool in group]
    parts, obstacle = [], pools[0].obstacle
    if obstacle is not None:
        since = duration(max(pool.obstacle_seconds or 0.0 for pool in pools))
        parts.append(
            f"it has refused the login for {since}"
            if obstacle == "login"
            else f"it has been {obstacle} for {since}"
        )
    connecting = sum(pool.connecting or 0 for pool in pools)
    if connecting:
        threads = "thread waits" if connecting == 1 else "threads wait"
        first = max(pool.oldest_connect_seconds or 0.0 for pool in pools)
        parts.append(f"{connecting} {threads}, the first for {duration(first)}")
    who = named_workers(worker.pid for worker, _ in group)
    return f"{who}: {', '.join(parts)}"
