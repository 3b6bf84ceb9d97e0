"""What is wrong with an app's pools and servers, and which line or key to change.

A rule takes the evidence and yields findings. To add one, write it into the module of
its subject, list it in ``RULES``, and describe its code in ``docs/findings.md``.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable

from ..evidence import Evidence
from ..model import Finding
from . import budget, endings, idling, limits, servers, transport, use, versions

Rule = Callable[[Evidence], Iterable[Finding]]

RULES: t.Final[tuple[Rule, ...]] = (
    servers.find_silent_servers,
    budget.find_full,
    use.find_timeouts,
    use.find_leaks,
    budget.find_overbooking,
    endings.find_refused_connects,
    endings.find_aborted_clients,
    limits.find_late_recycling,
    limits.find_hidden_limits,
    limits.find_interactive_limits,
    limits.find_needless_pings,
    idling.find_sleepers,
    idling.find_transaction_limits,
    transport.find_plain_text,
    transport.find_proxies,
    versions.find_faulty_drivers,
    versions.find_faulty_servers,
)


def judge(evidence: Evidence) -> list[Finding]:
    """Return what all rules find."""
    return [finding for rule in RULES for finding in rule(evidence)]
