"""What is wrong with an app's pools and servers, and which line or key to change.

A rule takes the evidence and yields findings. To add one, write it into the module of
its subject, list it in ``RULES``, and describe its code in ``docs/findings.md``.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable

from ..evidence import Evidence
from ..model import Finding
from . import limits, servers, sessions, use

Rule = Callable[[Evidence], Iterable[Finding]]

RULES: t.Final[tuple[Rule, ...]] = (
    servers.find_silent_servers,
    use.find_timeouts,
    use.find_leaks,
    sessions.find_orphans,
    sessions.find_idle_transactions,
    servers.find_overbooking,
    limits.find_late_recycling,
    limits.find_hidden_limits,
    limits.find_needless_pings,
)


def judge(evidence: Evidence) -> list[Finding]:
    """Return what all rules find."""
    return [finding for rule in RULES for finding in rule(evidence)]
