"""Connections that are held too long, or not given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...engines import Guarded
from ..evidence import Evidence
from ..model import Finding, PoolStatus
from .wording import connections, key_of


def find_leaks(evidence: Evidence) -> list[Finding]:
    """Return one finding per endpoint and line that did not give back connections."""
    leaks: Counter[tuple[str, str]] = Counter()
    unnamed = 0
    for pool in evidence.pool_states():
        unnamed += pool.counts["leaks"]
        for leak in pool.leaks:
            leaks[leak.endpoint or "(unknown)", leak.site or "unknown"] += leak.count
            unnamed -= leak.count
    findings = [
        Finding(
            "warning",
            "leak",
            f"{endpoint} did not give back {connections(count)} taken at {site}",
            "Use the connection in a with block, or close it in a finally clause, at"
            f" {site}.",
            "The guard gives it back at the end of the request; until then nobody else"
            " has it, and without the guard the pool would run dry.",
        )
        for (endpoint, site), count in leaks.most_common()
    ]
    if unnamed > 0:
        findings.append(
            Finding(
                "warning",
                "leak",
                f"{connections(unnamed)} more not given back, taken at other lines",
                "See the warnings of flask_poolguard in the app's log for the lines.",
                "The guard gives them back at the end of their requests; until then"
                " nobody else has them.",
            )
        )
    return findings


def find_timeouts(evidence: Evidence) -> list[Finding]:
    """Return the binds of which somebody waited for a connection in vain."""
    findings = []
    for each in evidence.engines:
        pools = [
            (worker.pid, pool)
            for worker in evidence.workers
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
                    "Each of them was a request that failed, after it had waited for"
                    f" {each.settings.pool_timeout.value:g} s or was refused.",
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
