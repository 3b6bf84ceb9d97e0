"""What is wrong with an app's pools and servers, and which line or key to change.

A rule takes the evidence and yields findings. To add one, write it into the module of
its subject, list it in ``RULES``, and describe its code in ``docs/findings.md``.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable

from ..evidence import Evidence
from ..model import Finding
from . import (
    budget,
    endings,
    greenlets,
    idling,
    limits,
    servers,
    sessions,
    setup,
    sizes,
    transport,
    use,
    versions,
    waits,
)

Rule = Callable[[Evidence], Iterable[Finding]]

# What a worker says of itself in its log. Left out is what is logged when it happens
# (leaks, idle limits, leftover settings) or raised as an error (timeouts).
OF_ONE_WORKER: t.Final[tuple[Rule, ...]] = (
    greenlets.find_blocked_greenlets,
    sizes.find_nesting,
    sizes.find_misfits,
    setup.find_null_pools,
    setup.find_async_pools,
    setup.find_shared_connections,
    setup.find_inherited,
)
RULES: t.Final[tuple[Rule, ...]] = (
    servers.find_silent_servers,
    budget.find_full,
    waits.find_saturated,
    waits.find_unavailable,
    use.find_stopped,
    waits.find_timeouts,
    use.find_held,
    use.find_leaks,
    sessions.find_orphans,
    sessions.find_idle_transactions,
    sessions.find_idle_transactions_by_label,
    budget.find_overbooking,
    endings.find_refused_connects,
    endings.find_aborted_clients,
    limits.find_late_recycling,
    limits.find_hidden_limits,
    limits.find_interactive_limits,
    limits.find_needless_pings,
    idling.find_gone_sessions,
    idling.find_sleepers,
    idling.find_transaction_limits,
    setup.find_leftovers,
    *OF_ONE_WORKER,
    transport.find_plain_text,
    transport.find_proxies,
    versions.find_faulty_drivers,
    versions.find_faulty_servers,
)


def judge(evidence: Evidence, rules: Iterable[Rule] = RULES) -> list[Finding]:
    """Return what rules find, all of them unless told which."""
    return [finding for rule in rules for finding in rule(evidence)]
