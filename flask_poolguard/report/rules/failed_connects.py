"""Servers that give the workers no connection, as the workers meet it."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

from ...state.status import PoolStatus, Worker
from ..evidence import Evidence
from ..model import Finding
from ..phrases import requests
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
    """Yield the binds whose workers get no connection from the server, or got none.

    That is what the workers meet. This command may reach the server all the same, or
    not reach it where they do.
    """
    for each in evidence.binds():
        pools = [
            (worker, pool)
            for worker, pool in pools_of(evidence.workers, each.bind)
            if not worker.stopped
        ]
        now = [pair for pair in pools if _is_in_vain(evidence, pair[1])]
        failed = [pair for pair in pools if pair[1].unavailable]
        if not now and not failed:
            continue
        risen = risen_in(evidence, each.bind, failed, count_unavailable)
        level, lately = judge_failures(evidence, each.bind, "unavailable")
        texts = []
        if now:
            seen = "; ".join(_in_vain(*pair) for pair in now)
            texts.append(
                f"Bind {each.bind!r} gets no connection from its server: {seen}"
            )
        if failed:
            texts.append(
                f"{counted(failed, count_unavailable)} of bind {each.bind!r} failed"
                f" since {began(failed)}, because the server gave no connection;"
                f" {lately_text(evidence, risen, lately)} (by worker:"
                f" {by_worker(failed, count_unavailable)})"
            )
        if risen or any(_is_felt(evidence, pool) for _, pool in now):
            level = "critical"
        yield Finding(
            level,
            "unavailable",
            ". ".join(texts),
            _remedy(now),
            "Each request that needs a new connection waits for it, keeps a thread of"
            " its worker meanwhile, and fails when the time is up."
            if not now or now[0][1].obstacle != "login"
            else "Each request that needs a new connection fails at once, with HTTP"
            " 500: a refused login is not tried again.",
            _obstacle_in_short(each.bind, now, lately)
            or in_short(each.bind, lately, "failed", failed),
        )


_OBSTACLES: t.Final = {
    "away": "its server does not answer",
    "full": "its server is full",
    "login": "its server refuses the login",
}


def _obstacle_in_short(bind: str, now: Pools, lately: Recent) -> str | None:
    if not now:
        return None
    met = [pool for _, pool in now if pool.obstacle is not None]
    connecting = sum(pool.connecting or 0 for _, pool in now)
    first = max((pool.oldest_connect_seconds or 0.0 for _, pool in now), default=0.0)
    parts = []
    if met:
        since = max(pool.obstacle_seconds or 0.0 for pool in met)
        parts.append(
            f"bind {bind} gets no connection for {duration(since)}:"
            f" {_OBSTACLES[str(met[0].obstacle)]} ({met[0].url})"
        )
    elif connecting:
        parts.append(f"bind {bind} gets no connection ({now[0][1].url})")
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


def _in_vain(worker: Worker, pool: PoolStatus) -> str:
    parts = []
    if pool.obstacle is not None:
        since = duration(pool.obstacle_seconds)
        parts.append(
            f"it has refused the login for {since}"
            if pool.obstacle == "login"
            else f"it has been {pool.obstacle} for {since}"
        )
    if pool.connecting:
        threads = "thread waits" if pool.connecting == 1 else "threads wait"
        parts.append(
            f"{pool.connecting} {threads}, the first for"
            f" {duration(pool.oldest_connect_seconds)}"
        )
    return f"worker {worker.pid}: {', '.join(parts)}"
