"""Idle server sessions, and transactions that are left open."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Sequence

from ...databases import IdleLimit, ServerSession, ServerView
from ...engines import Guarded
from ..ended_sessions import limit_over
from ..evidence import AnsweringServer, Evidence
from ..model import Finding
from ..phrases import key_of, line_of
from ..text import duration
from .pool_use import pools_of

# Longer than a pool in use leaves a connection alone, and than most jobs pause; far
# below the eight hours after which MySQL ends a session by default.
_LONG_SECONDS: t.Final = 600.0
# Fewer sleepers, or a smaller share of what the server allows, do no harm.
_MANY: t.Final = 10
_SHARE: t.Final = 0.25
_GRAVE_SHARE: t.Final = 0.5
# As many users are named at most.
_MAX_USERS: t.Final = 5
# As many holders are named.
_MAX_LINES: t.Final = 5
# What counts as long in a transaction where POOLGUARD_HELD_WARNING is None.
_HELD_SECONDS: t.Final = 60.0


def find_sleepers(evidence: Evidence) -> Iterator[Finding]:
    """Yield the servers of which idle sessions take up a good part."""
    for server in evidence.answering_servers():
        view = server.view
        asleep = [
            each
            for each in view.sessions or ()
            if each.state == "idle" and (each.state_seconds or 0.0) >= _LONG_SECONDS
        ]
        maximum = view.max_connections
        if maximum is None or len(asleep) < max(_MANY, maximum * _SHARE):
            continue
        ours = _ids_at(evidence, server)
        yield Finding(
            "warning" if len(asleep) >= maximum * _GRAVE_SHARE else "info",
            "sleeping",
            f"{len(asleep)} of the {maximum} connections that {server.name} allows have"
            f" slept for {duration(_LONG_SECONDS)} or longer: {_who(asleep, ours)}",
            _how_to_close(server.binds[0], asleep, ours),
            "They keep others out and take memory at the server, and do nothing.",
        )


def find_transaction_limits(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds whose open transactions the server never ends, or too soon."""
    for each in evidence.engines:
        view = evidence.view(each)
        limit = None if view is None else view.idle_in_transaction_limit
        if view is None or limit is None:
            continue
        if limit.seconds is None:
            yield from _unlimited(evidence, each, view)
        else:
            yield from _too_short(evidence, each, view, limit.seconds, limit.source)


def _unlimited(
    evidence: Evidence, guarded: Guarded, view: ServerView
) -> Iterator[Finding]:
    pools = [each for each in evidence.all_pools() if each.bind == guarded.bind]
    warnings = [
        each.held_warning_seconds for each in pools if each.held_warning_seconds
    ]
    long = min(warnings, default=_HELD_SECONDS)
    ids = evidence.our_ids(pools) or frozenset()
    held = [
        each.state_seconds or 0.0
        for each in view.sessions or ()
        if each.id in ids and each.state == "idle in transaction"
    ]
    if held and max(held) >= long:
        role = '"' + (view.user or "").replace('"', '""') + '"'
        yield Finding(
            "info",
            "idle-in-transaction-timeout",
            f"A session of bind {guarded.bind!r} has been idle in its transaction for"
            f" {duration(max(held))}, and the server has no limit for that",
            f"ALTER ROLE {role} SET idle_in_transaction_session_timeout ="
            f" '{5 * long:.0f}s'; it applies to new sessions.",
            "A request that hangs keeps its locks, and keeps VACUUM from clearing up,"
            " for as long as its worker lives.",
        )


def _too_short(
    evidence: Evidence, guarded: Guarded, view: ServerView, seconds: float, source: str
) -> Iterator[Finding]:
    spared = _ids_without_pause(guarded, view)
    held = [
        holder
        for worker in evidence.workers
        for pool in worker.pools
        for holder in pool.holders
        if pool.bind == guarded.bind
        and holder.held_seconds >= seconds
        and holder.server_id not in spared
        and not holder.gone  # which `find_gone_sessions` tells
    ]
    if held:
        longest = max(held, key=lambda holder: holder.held_seconds)
        yield Finding(
            "warning",
            "idle-in-transaction-timeout",
            f"{longest.endpoint or 'Code'} at {longest.site or 'an unknown line'}"
            f" has held a connection of bind {guarded.bind!r} for"
            f" {duration(longest.held_seconds)}, longer than the server leaves a"
            f" transaction alone ({source})",
            "Commit before what takes long, or raise that limit above the longest"
            " pause between two statements.",
            "When it pauses for that long within a transaction, the server ends the"
            " session: its changes are undone, and the request fails.",
        )


def _ids_without_pause(guarded: Guarded, view: ServerView) -> set[int]:
    """Return the sessions in which no transaction waits for its owner's next statement.

    MySQL and MariaDB list those that do as idle, like those without a transaction.
    """
    states = {"active"}
    if guarded.engine.dialect.name == "postgresql":
        states.add("idle")
    return {each.id for each in view.sessions or () if each.state in states}


def find_gone_sessions(evidence: Evidence) -> Iterator[Finding]:
    """Yield the binds of which code holds a session that the server has ended."""
    for each in evidence.engines:
        held = sorted(
            (holder.held_seconds, line_of(holder), worker.pid)
            for worker, pool in pools_of(evidence.workers, each.bind)
            for holder in pool.holders
            if holder.gone
        )
        view = evidence.view(each)
        if held and view is not None:
            yield _gone(each, list(reversed(held)), limit_over(view, held[-1][0]))


def _gone(
    guarded: Guarded, held: Sequence[tuple[float, str, int]], limit: IdleLimit | None
) -> Finding:
    lines = ", ".join(
        f"{line}, for {duration(seconds)} (worker {pid})"
        for seconds, line, pid in held[:_MAX_LINES]
    )
    more = f", and {len(held) - _MAX_LINES} more" if len(held) > _MAX_LINES else ""
    sessions = "a session" if len(held) == 1 else f"{len(held)} sessions"
    why = f"; its limit for idle ones is shorter ({limit.source})" if limit else ""
    fix = "Give the connection back before slow work, and take one again after it"
    last = "or raise that limit" if limit else "and see in its log who ended it"
    text = "error 2006, 2013 or 4031"
    if guarded.engine.dialect.name == "postgresql":
        text = '"server closed the connection unexpectedly"'
    return Finding(
        "warning",
        "session-gone",
        f"The server has ended {sessions} of bind {guarded.bind!r} that"
        f" {'is' if len(held) == 1 else 'are'} still held: {lines}{more}{why}",
        f"{fix}, {last}.",
        f"The next statement on it fails, with {text} for instance, and what its"
        " transaction did is undone.",
    )


def _ids_at(evidence: Evidence, server: AnsweringServer) -> frozenset[int]:
    binds = {each.bind for each in server.binds}
    pools = [each for each in evidence.all_pools() if each.bind in binds]
    return evidence.our_ids(pools) or frozenset()


def _who(asleep: Sequence[ServerSession], ours: frozenset[int]) -> str:
    by_user: dict[str, list[ServerSession]] = {}
    for each in asleep:
        by_user.setdefault(each.user or "unknown", []).append(each)
    groups = sorted(by_user.items(), key=lambda each: (-len(each[1]), each[0]))
    texts = []
    for user, sessions in groups[:_MAX_USERS]:
        own = sum(each.id in ours for each in sessions)
        longest = max(each.state_seconds or 0.0 for each in sessions)
        mine = f", {own} in this app's pools here" if own else ""
        texts.append(f"{user} {len(sessions)} (longest {duration(longest)}{mine})")
    return ", ".join(texts)


def _how_to_close(
    guarded: Guarded, asleep: Sequence[ServerSession], ours: frozenset[int]
) -> str:
    own = sum(each.id in ours for each in asleep)
    fixes = []
    if own:
        key = key_of(guarded, "max_idle")
        fixes.append(f"set {key} = {_LONG_SECONDS:.0f} to close this app's own")
    if own < len(asleep):
        name = "idle_session_timeout"
        if guarded.engine.dialect.name != "postgresql":
            name = "wait_timeout"
        fixes.append(
            "have those who own the others close what they do not need, or lower the"
            f" server's {name}"
        )
    text = "; ".join(fixes)
    return text[0].upper() + text[1:] + "."
