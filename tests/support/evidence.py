"""What rules look at, as real workers wrote it, and as it would be a little later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flask_poolguard.engines import Guarded
from flask_poolguard.report import servers
from flask_poolguard.report.evidence import Evidence
from flask_poolguard.report.model import Finding
from flask_poolguard.report.rules import findings_of
from flask_poolguard.report.servers import Answer
from flask_poolguard.state.reader import read_own
from tests.support.database_server import APP_PASSWORD
from tests.support.reporting import Shop


def evidence_of(shop: Shop) -> Evidence:
    """Read what this process's own file says of a shop, after a round."""
    state = shop.app.extensions["poolguard"]
    for tracker in state.app_tracker.trackers:
        tracker.tend()
    own = read_own(state.app_tracker.path)
    assert own is not None
    engines: list[Guarded] = state.engines
    return Evidence(
        config=shop.app.config,
        engines=engines,
        workers=(own,),
        answers={each.bind: Answer(None) for each in engines},
    )


def answered(shop: Shop, *, threads: int | None = None) -> Evidence:
    """Read the same, with what the servers say.

    :param threads: with which the worker's server lets it answer requests.
    """
    evidence = evidence_of(shop)
    questions = servers.begin(evidence.engines)
    (own,) = evidence.workers
    process = dataclasses.replace(own.process, threads=threads)
    return dataclasses.replace(
        evidence,
        workers=(dataclasses.replace(own, process=process),),
        answers=servers.finish(questions, evidence.engines),
    )


def changed(
    evidence: Evidence,
    *,
    age_seconds: float = 0.0,
    closed: Mapping[str, int] | None = None,
    usage: Mapping[str, Any] | None = None,
    **pool: Any,
) -> Evidence:
    """Return evidence with other figures in all pools of its one worker.

    :param age_seconds: by so much the worker is older.
    :param closed: some of the closed connections, by reason.
    :param usage: some of the usage.
    :param pool: further attributes of `PoolStatus`.
    """
    (worker,) = evidence.workers
    process = dataclasses.replace(
        worker.process, started_at=worker.process.started_at - age_seconds
    )
    pools = tuple(
        dataclasses.replace(
            each,
            closed=dataclasses.replace(each.closed, **(closed or {})),
            usage=dataclasses.replace(each.usage, **(usage or {})),
            **pool,
        )
        for each in worker.pools
    )
    own = dataclasses.replace(worker, process=process, pools=pools)
    return dataclasses.replace(evidence, workers=(own,))


def with_another(evidence: Evidence, other: Evidence, pid: int) -> Evidence:
    """Return evidence of one more worker, with this number."""
    (worker,) = other.workers
    more = dataclasses.replace(worker, pid=pid)
    return dataclasses.replace(evidence, workers=(*evidence.workers, more))


def found_by_rules(evidence: Evidence, code: str) -> list[Finding]:
    """Return the findings with this code; none may tell a secret."""
    findings = findings_of(evidence)
    assert APP_PASSWORD not in repr(findings)
    return [finding for finding in findings if finding.code == code]


def codes_of(evidence: Evidence) -> set[str]:
    """Return the codes of all that rules find."""
    return {finding.code for finding in findings_of(evidence)}
