"""How long connections may idle, and what looks after that."""

from __future__ import annotations

from ...pool import GuardedPool
from ...pool.recycle import SHARE_OF_LIMIT
from ..evidence import Evidence
from ..model import Finding
from .wording import key_of


def find_late_recycling(evidence: Evidence) -> list[Finding]:
    """Return the user's own recycle times that the server's idle limit defeats.

    A worker knows the limit of its own sessions; where none has a connection yet,
    what the server says counts.
    """
    late: dict[tuple[str, str, float, float], None] = {}
    seen = set()
    for pool in evidence.pool_states():
        if pool.server_limit is not None:
            seen.add(pool.bind)
            if pool.age_based and pool.recycle_seconds is not None:
                origin = (pool.recycle_source or "pool_recycle").rpartition(" = ")[0]
                late[pool.bind, origin, pool.recycle_seconds, pool.server_limit] = None
    for each in evidence.engines:
        view, setting = evidence.answers[each.bind].view, each.settings.pool_recycle
        limit = None if view is None else view.idle_limit.seconds
        if each.bind not in seen and limit is not None and setting.value != "auto":
            late[each.bind, setting.origin, setting.value, limit] = None
    return [
        Finding(
            "warning",
            "recycle",
            f"{origin} = {seconds:g} s of bind {bind!r} is not below the server's idle"
            f" limit of {limit:g} s, so it cannot protect idle connections",
            f"Remove {origin} (the guard then derives {limit * SHARE_OF_LIMIT:g} s), or"
            f" set it below {limit:g}.",
        )
        for bind, origin, seconds, limit in late
        if seconds >= limit
    ]


def find_hidden_limits(evidence: Evidence) -> list[Finding]:
    """Return the idle limits that nobody told, but that connections died of."""
    learned: dict[str, float] = {}
    for pool in evidence.pool_states():
        if pool.learned_limit is not None:
            known = learned.get(pool.bind, pool.learned_limit)
            learned[pool.bind] = min(known, pool.learned_limit)
    return [
        Finding(
            "warning",
            "idle-limit",
            f"Connections of bind {each.bind!r} die after about"
            f" {learned[each.bind]:.0f} s of idling, sooner than the server's limit:"
            " a firewall, NAT gateway, balancer or proxy on the way ends them",
            f"Set {key_of(each, 'idle_limit')} = {learned[each.bind]:.0f}; the workers"
            " that have learned this act on it until they restart.",
        )
        for each in evidence.engines
        if each.bind in learned
    ]


def find_needless_pings(evidence: Evidence) -> list[Finding]:
    """Return the pools that ask the server before every checkout, as the user set."""
    return [
        Finding(
            "info",
            "pre-ping",
            f"pool_pre_ping of bind {each.bind!r} costs a round trip with every"
            " checkout; the guard looks at the connection's socket instead, which"
            " finds what the server has closed without asking it",
            "Remove pool_pre_ping from the engine's options.",
        )
        for each in evidence.engines
        if isinstance(each.engine.pool, GuardedPool) and each.engine.pool._pre_ping
    ]
