"""``pool_recycle`` against the idle limits, and needless pings."""

from __future__ import annotations

from collections.abc import Iterator

from ...config import Setting
from ...pool import SHARE_OF_LIMIT, GuardedPool
from ..evidence import Evidence
from ..model import Finding
from ..phrases import key_of


def find_late_recycling(evidence: Evidence) -> Iterator[Finding]:
    """Yield the user's own recycle times that an idle limit defeats.

    A worker knows the limit of its own sessions; where none has a connection yet,
    what the server says counts.
    """
    late: dict[tuple[str, str, float, str, float], None] = {}
    seen = set()
    settings = {each.bind: each.settings for each in evidence.engines}
    for pool in evidence.all_pools():
        known = settings[pool.bind].idle_limit if pool.bind in settings else None
        bound = _smallest(pool.server_limit_seconds, known, pool.learned_limit_seconds)
        if bound is not None:
            seen.add(pool.bind)
            if pool.recycles_by_age and pool.recycle_seconds is not None:
                origin = (pool.recycle_source or "pool_recycle").rpartition(" = ")[0]
                late[pool.bind, origin, pool.recycle_seconds, *bound] = None
    for each in evidence.engines:
        view, setting = evidence.view(each), each.settings.pool_recycle
        limit = None if view is None else view.idle_limit.seconds
        bound = _smallest(limit, each.settings.idle_limit, None)
        if each.bind not in seen and bound is not None and setting.value != "auto":
            late[each.bind, setting.origin, setting.value, *bound] = None
    for bind, origin, seconds, source, limit in late:
        if seconds >= limit:
            yield Finding(
                "warning",
                "recycle",
                f"{origin} = {seconds:g} s of bind {bind!r} is not below {source} of"
                f" {limit:g} s, so it cannot protect idle connections",
                f"Remove {origin} (the guard then derives"
                f" {round(limit * SHARE_OF_LIMIT, 1):g} s), or set it below {limit:g}.",
                "A pool that goes by this setting alone hands out connections that are"
                " closed; a guarded one replaces idle ones by the limit all the same.",
            )


def _smallest(
    server: float | None, known: Setting[float | None] | None, learned: float | None
) -> tuple[str, float] | None:
    """Return the smallest idle limit and what it is, None if there is none."""
    limits = [(server, "the server's idle limit"), (learned, "the learned idle limit")]
    if known is not None:
        limits.append((known.value, known.origin))
    found = [(seconds, source) for seconds, source in limits if seconds is not None]
    if not found:
        return None
    seconds, source = min(found, key=lambda each: each[0])
    return source, seconds


def find_interactive_limits(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds whose idle limit is the one for people at a terminal."""
    for each in evidence.engines:
        view = evidence.view(each)
        if view is None or not view.is_interactive:
            continue
        limit, usual = view.idle_limit.seconds, view.usual_idle_seconds
        if limit is not None and usual is not None and limit != usual:
            yield Finding(
                "info",
                "interactive-timeout",
                f"Sessions of bind {each.bind!r} may idle for {limit:g} s, by the"
                f" server's interactive_timeout; its wait_timeout of {usual:g} s is not"
                " theirs",
                "Take CLIENT.INTERACTIVE out of client_flag in the engine's"
                " connect_args, or give the server's interactive_timeout and"
                " wait_timeout the same value.",
                "A change of wait_timeout has no effect on this app's sessions, and"
                f" its value suggests another limit than {limit:g} s.",
            )


def find_hidden_limits(evidence: Evidence) -> list[Finding]:
    """Return the idle limits that no server told, but that connections died of."""
    learned: dict[str, float] = {}
    for pool in evidence.all_pools():
        limit = pool.learned_limit_seconds
        if limit is not None:
            learned[pool.bind] = min(learned.get(pool.bind, limit), limit)
    return [
        Finding(
            "warning",
            "idle-limit",
            f"Connections of bind {each.bind!r} die after about"
            f" {learned[each.bind]:.0f} s of idling, sooner than the server's limit:"
            " a firewall, NAT gateway, balancer or proxy on the way ends them",
            f"Set {key_of(each, 'idle_limit')} = {learned[each.bind]:.0f}; the workers"
            " that have learned this act on it until they restart.",
            "After each restart some requests first meet dead connections, which costs"
            " a ping or a new connection each, until the limit is learned anew.",
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
            "Every checkout takes a round trip longer than it need.",
        )
        for each in evidence.engines
        if isinstance(each.engine.pool, GuardedPool) and each.engine.pool._pre_ping
    ]
