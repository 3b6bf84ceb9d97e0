"""Connections that are held too long, or not given back."""

from __future__ import annotations

import typing as t
from collections import Counter
from collections.abc import Iterator, Sequence

from ..evidence import Evidence
from ..model import Finding, Level
from ..monitoring_plugin import State
from ..phrases import (
    Bind,
    busiest,
    capitalized,
    connections,
    key_of,
    line_of,
    named_workers,
)
from ..recent import leaked
from ..text import duration
from .orphaned_sessions import idle_in_transaction
from .pool_use import pools_of

# Seconds; for as long workers remember. What was before is no more than a hint.
_HOUR: t.Final = 3600.0
# As many are named one by one.
_MAX_NAMED: t.Final = 5


def find_held(evidence: Evidence) -> Iterator[Finding]:
    """Yield the lines that have held connections for longer than their worker's
    ``POOLGUARD_HELD_WARNING``.

    What the server shows to idle in a transaction is a finding of its own, and what is
    still being opened has no holder yet.
    """
    told = idle_in_transaction(evidence)
    limits = evidence.thresholds.held_seconds
    for each in evidence.binds():
        lines: dict[str, list[tuple[float, int, float]]] = {}
        for worker, pool in pools_of(evidence.workers, each.bind):
            own = pool.held_warning_seconds if limits.warning is None else None
            known = [
                each
                for each in (limits.warning, limits.critical, own)
                if each is not None
            ]
            if not known:
                continue
            longest = min(known)
            for holder in pool.holders:
                session = (worker.host, worker.pid, pool.bind, holder.server_id)
                is_told = holder.kept or session in told
                if holder.held_seconds < longest or is_told:
                    continue
                if holder.site is not None or holder.endpoint is not None:
                    found = lines.setdefault(line_of(holder), [])
                    found.append((holder.held_seconds, worker.pid, longest))
        for line, held in lines.items():
            held.sort(reverse=True)
            is_critical = limits.judge(held[0][0]) is State.CRITICAL
            yield _held(each, line, held, "critical" if is_critical else "warning")


def _held(
    bind: Bind, line: str, held: Sequence[tuple[float, int, float]], level: Level
) -> Finding:
    where = ", ".join(
        f"for {duration(seconds)} in worker {pid}"
        for seconds, pid, _ in held[:_MAX_NAMED]
    )
    longest = held[0][2]
    more = len(held) - _MAX_NAMED
    return Finding(
        level,
        "held",
        f"{connections(len(held))} of bind {bind.bind!r} held by {line}: {where}"
        + (f" and {more} more" if more > 0 else ""),
        "Give it back before slow work (an HTTP call, a report, a sleep); the app's"
        " log has the stack of its holder. If it has to take so long, raise"
        f" {key_of(bind, 'held_warning')} (now {longest:g} s).",
        "The pool is short of it meanwhile, and if its transaction is open, others"
        " wait for its locks.",
        f"{connections(len(held))} of bind {bind.bind} held for"
        f" {duration(held[0][0])} in worker {held[0][1]} by {line}",
    )


def find_stopped(evidence: Evidence) -> Iterator[Finding]:
    """Yield the workers that a signal or a debugger has stopped, as one."""
    stopped = [each for each in evidence.workers if each.stopped]
    if not stopped:
        return
    pools = [pool for worker in stopped for pool in worker.pools]
    out = sum(pool.checked_out or 0 for pool in pools)
    idle = sum(pool.idle or 0 for pool in pools)
    are, them = ("is", "it") if len(stopped) == 1 else ("are", "them")
    who = named_workers(each.pid for each in stopped)
    pids = " ".join(str(each.pid) for each in stopped)
    where = busiest(each for pool in pools for each in pool.holders)
    yield Finding(
        "critical" if out else "warning",
        "stopped",
        f"{capitalized(who)} {are} stopped, by a signal (SIGSTOP, Ctrl-Z) or a"
        f" debugger, with {connections(out)} out and {connections(idle)} idle",
        f"Let {them} go on: kill -CONT {pids}; or end {them}: kill -KILL {pids}.",
        "What is stopped answers nothing, and keeps its connections, their"
        " transactions and locks. Its figures stand still.",
        f"{who} {are} stopped by a signal or a debugger, with {connections(out)} out"
        + (f"; before that, {where}" if where else ""),
    )


def find_leaks(evidence: Evidence) -> list[Finding]:
    """Return one finding per endpoint and line that did not give back connections."""
    leaks: Counter[tuple[str, str]] = Counter()
    unnamed = 0
    lately = leaked(evidence.all_pools(), _HOUR)
    level: Level = "warning" if lately else "info"
    since = f", {lately} within the last hour" if lately else ""
    for pool in evidence.all_pools():
        unnamed += pool.leaks
        for leak in pool.leaking_lines:
            leaks[leak.endpoint, leak.site] += leak.count
            unnamed -= leak.count
    findings = [
        Finding(
            level,
            "leak",
            f"{endpoint} did not give back {connections(count)} taken at {site}",
            "Use the connection in a with block, or close it in a finally clause, at"
            f" {site}.",
            "The guard does that at the end of the request; until then no other request"
            " can have what was taken, and without the guard the pool would run dry.",
            f"{endpoint} did not give back {connections(count)} taken at {site}{since}",
        )
        for (endpoint, site), count in leaks.most_common()
    ]
    if unnamed > 0:
        findings.append(
            Finding(
                level,
                "leak",
                f"{connections(unnamed)} more not given back, taken at other lines",
                "See the warnings of flask_poolguard in the app's log for the lines.",
                "The guard gives them back at the end of their requests; until then"
                " no other request has them.",
            )
        )
    return findings
