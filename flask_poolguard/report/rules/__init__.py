"""The rules: what is wrong with pools and servers, and which line or key to change.

A rule takes the evidence and yields findings. To add one, write it into the module of
its subject, list it in ``RULES``, and describe its code in ``docs/findings.md``.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable

from ..evidence import Evidence
from ..merging import merged
from ..model import Finding
from . import (
    aborted_sessions,
    app_setup,
    blocked_greenlets,
    failed_at_once,
    failed_connects,
    faulty_versions,
    held_connections,
    idle_sessions,
    network,
    orphaned_sessions,
    pool_sizes,
    recycle_limits,
    room_left,
    silent_servers,
    swinging_sizes,
    waiting_requests,
)

Rule = Callable[[Evidence], Iterable[Finding]]

# What a worker says of itself in its log. Left out is what is logged when it happens
# (leaks, idle limits, leftover settings) or raised as an error (timeouts).
OF_ONE_WORKER: t.Final[tuple[Rule, ...]] = (
    blocked_greenlets.find_blocked_greenlets,
    pool_sizes.find_nesting,
    pool_sizes.find_misfits,
    swinging_sizes.find_swinging_sizes,
    app_setup.find_null_pools,
    app_setup.find_async_pools,
    app_setup.find_shared_connections,
    app_setup.find_inherited,
)
# What the workers' files alone tell; ``flask pool check`` judges by these.
OF_WORKERS: t.Final[tuple[Rule, ...]] = (
    waiting_requests.find_saturated,
    failed_connects.find_unavailable,
    held_connections.find_stopped,
    failed_at_once.find_refused_writes,
    failed_at_once.find_deadlocks,
    waiting_requests.find_timeouts,
    held_connections.find_held,
    held_connections.find_leaks,
    recycle_limits.find_late_recycling,
)
RULES: t.Final[tuple[Rule, ...]] = (
    silent_servers.find_silent_servers,
    room_left.find_full,
    *OF_WORKERS,
    orphaned_sessions.find_orphans,
    orphaned_sessions.find_idle_transactions,
    orphaned_sessions.find_idle_transactions_by_label,
    room_left.find_overbooking,
    aborted_sessions.find_refused_connects,
    aborted_sessions.find_aborted_clients,
    recycle_limits.find_hidden_limits,
    recycle_limits.find_interactive_limits,
    recycle_limits.find_needless_pings,
    idle_sessions.find_gone_sessions,
    idle_sessions.find_sleepers,
    idle_sessions.find_transaction_limits,
    app_setup.find_leftovers,
    *OF_ONE_WORKER,
    network.find_plain_text,
    network.find_proxies,
    faulty_versions.find_faulty_drivers,
    faulty_versions.find_faulty_servers,
)


def findings_of(evidence: Evidence, rules: Iterable[Rule] = RULES) -> list[Finding]:
    """Return what rules find, all of them unless told which."""
    return merged(finding for rule in rules for finding in rule(evidence))
