"""Servers that do not answer."""

from __future__ import annotations

from ...databases import ConnectFailure
from ...engines import Guarded
from ...urls import public_url
from ..evidence import Evidence
from ..model import Finding
from .budget import describe_plan
from .figures import pools_of
from .wording import connections, key_of, workers


def find_silent_servers(evidence: Evidence) -> list[Finding]:
    """Return the servers that could not be asked."""
    findings = []
    for each in evidence.engines:
        answer = evidence.answers[each.bind]
        where = f"bind {each.bind!r}, {public_url(each.engine.url)},"
        if answer.failure is ConnectFailure.FULL:
            findings.append(
                Finding(
                    "critical",
                    "full",
                    f"The server of {where} refuses connections: {answer.error}."
                    f" {_share(evidence, each)}",
                    "End the sessions that nobody needs, lower"
                    f" {key_of(each, 'pool_size')} and {key_of(each, 'max_overflow')},"
                    " start fewer workers, or raise the limit that the message names.",
                    "Requests that need a connection which their worker does not have"
                    " yet wait for one of its pool's, or fail.",
                )
            )
        elif answer.reachable is False:
            findings.append(
                Finding(
                    "critical",
                    "server-unreachable",
                    f"The server of {where} cannot be reached: {answer.error}",
                    "Check that it runs, that this host may reach it, and the address,"
                    " user and password in the app's configuration.",
                    "Requests that need it fail, with HTTP 503 once the guard has"
                    " stopped trying.",
                )
            )
        elif answer.error is not None:
            findings.append(
                Finding(
                    "warning",
                    "server-view",
                    f"The server of {where} did not answer all questions:"
                    f" {answer.error}",
                    "Look for this error in the server's log; most often its user may"
                    " not ask.",
                    "Its figures are unknown, and nothing is found that follows from"
                    " them.",
                )
            )
    return findings


def _share(evidence: Evidence, guarded: Guarded) -> str:
    """Return how many connections this app has there, and how many it may open.

    The server's own figures are not to be had, so this is by the state files.
    """
    found = [pool for _, pool in pools_of(evidence.workers, guarded.bind)]
    if not found and evidence.plan.is_none:
        return "No worker of this app on this host is known to have any there."
    counts = [
        None
        if pool.checked_out is None or pool.idle is None
        else pool.checked_out + pool.idle
        for pool in found
    ]
    known = sum(each or 0 for each in counts)
    least = "" if None not in counts and evidence.has_all_workers else " or more"
    return (
        f"This app has {connections(known)}{least} open there by {workers(len(found))}"
        f" on this host; {describe_plan(evidence, guarded.bind)}"
    )
