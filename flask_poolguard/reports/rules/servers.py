"""Servers that do not answer, or that have no room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...engines import Guarded
from ...urls import ServerKey, public_url, server_key
from ..evidence import Evidence
from ..model import Finding, PoolStatus, Worker
from .wording import key_of


def find_silent_servers(evidence: Evidence) -> list[Finding]:
    """Return the servers that could not be asked."""
    findings = []
    for each in evidence.engines:
        answer = evidence.answers[each.bind]
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


def find_overbooking(evidence: Evidence) -> list[Finding]:
    """Return the servers that allow fewer connections than the workers may open."""
    allowed: dict[ServerKey, tuple[int, Guarded]] = {}
    for each in evidence.engines:
        key, view = server_key(each.engine.url), evidence.answers[each.bind].view
        if key is not None and view is not None and view.max_connections is not None:
            allowed.setdefault(key, (view.max_connections, each))
    findings = []
    for key, (maximum, guarded) in allowed.items():
        pools = [
            pool
            for worker in evidence.workers
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
        findings.append(
            _overbooked(key, may_open, pools, maximum, guarded, evidence.workers)
        )
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
