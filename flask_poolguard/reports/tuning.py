"""What could be set better, although nothing is wrong yet."""

from __future__ import annotations

from collections.abc import Sequence

from ..engines import Guarded
from ..pool import GuardedPool
from ..tracking.reader import WorkerState
from .findings import key_of
from .model import Finding


def find_needless_pings(engines: Sequence[Guarded]) -> list[Finding]:
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
        for each in engines
        if isinstance(each.engine.pool, GuardedPool) and each.engine.pool._pre_ping
    ]


def find_hidden_limits(
    states: Sequence[WorkerState], engines: Sequence[Guarded]
) -> list[Finding]:
    """Return the idle limits that nobody told, but that connections died of."""
    learned: dict[str, float] = {}
    for state in states:
        for pool in state.pools:
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
        for each in engines
        if each.bind in learned
    ]
