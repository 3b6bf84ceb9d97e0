"""Servers that do not answer."""

from __future__ import annotations

from ...databases import ConnectFailure
from ...urls import public_url
from ..evidence import Evidence
from ..model import Finding


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
                    f"The server of {where} refuses connections: {answer.error}",
                    "End the sessions that nobody needs, lower the sizes of the pools"
                    " (`budget` and --workers say how far), or raise the limit that"
                    " the message names.",
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
