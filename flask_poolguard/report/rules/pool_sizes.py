"""Pools that are too small or too big for their demand.

Each worker's figures are judged alone, because each has a pool of its own; the size to
set is that of ``flask pool advise``, from the same function. Of a bind at most one
finding says that its pool is too small or too big.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator, Sequence

from ...engines import Guarded
from ...state.status import PoolStatus
from ...tracking.sizing import SHARE
from ..estimate import ENOUGH_CHECKOUTS
from ..evidence import Evidence
from ..model import Finding
from ..phrases import capitalized, change_sizes, connections, size_key
from .pool_use import Use, estimate_of, in_worker, uses_of

# Overflow that comes and goes: so often, and with such a share of the checkouts, that
# it is not one burst.
_CHURN: t.Final = 20
_SHARE_OF_CHURN: t.Final = 0.02
# A pool in which fewer than one checkout in a hundred wait is not called too small.
_SHARE: t.Final = 0.01
# A short wait is what a pool is for; one that a user notices is not.
_LONG_WAIT_SECONDS: t.Final = 1.0
# A pool of which two thirds were never used is not one with a reserve.
_PART_OF_SIZE: t.Final = 3

Judge = Callable[[Guarded, Sequence[Use]], Finding | None]


def find_nesting(evidence: Evidence) -> Iterator[Finding]:
    """Find the pools in which threads may come to wait for each other for ever."""
    yield from _judged(evidence, (_nested,))


def find_misfits(evidence: Evidence) -> Iterator[Finding]:
    """Find the pools that are too small, or larger than they can ever be used."""
    yield from _judged(evidence, (_too_small, _above_threads, _too_big))


def _judged(evidence: Evidence, judges: Sequence[Judge]) -> Iterator[Finding]:
    """Yield what the first judge with a finding says of each bind.

    An async engine's tasks share a thread, and are not counted.
    """
    for each in evidence.engines:
        uses = uses_of(evidence, each)
        if uses and not each.engine.dialect.is_async:
            findings = (judge(each, uses) for judge in judges)
            yield from [found for found in findings if found is not None][:1]


def _may_deadlock(use: Use) -> bool:
    return (
        use.usage.nesting > 1
        and use.limit is not None
        and use.deadlock_free_from > use.limit
    )


def _nested(guarded: Guarded, uses: Sequence[Use]) -> Finding | None:
    such = [use for use in uses if _may_deadlock(use)]
    if not such:
        return None
    worst = max(such, key=lambda use: use.deadlock_free_from)
    nesting, threads = worst.usage.nesting, worst.usage.most_threads
    needed, size = worst.deadlock_free_from, worst.pool.size
    sizes = (
        change_sizes(guarded, "raise", "")
        if guarded.tracker.facts.is_auto
        else f"set {size_key(guarded, 'pool_size')} ="
        f" {estimate_of(uses).pool_size(size)} (now {size})"
    )
    return Finding(
        "warning",
        "nesting",
        f"A request or task wanted {connections(nesting)} of bind {guarded.bind!r} at"
        f" once: {threads} threads that do so need {threads} × ({nesting} - 1) + 1 ="
        f" {needed}, and the pool may have {worst.limit} ({in_worker(worst, such)})",
        f"Let a request use one connection: give the first back before it takes the"
        f" next, or use the same for both. Else {sizes}.",
        "When all are held by requests that each wait for one more, none can go on:"
        + (
            " one of them is refused with PoolDeadlock."
            if worst.pool.pool_class == "GuardedPool"
            else " all of them wait until their time is up."
        ),
    )


def _too_small(guarded: Guarded, uses: Sequence[Use]) -> Finding | None:
    such = [use for use in uses if _waits(use) or _churns(use)]
    if not such:
        return None
    worst = max(such, key=lambda use: (_waits(use), use.share_needs(_SHARE)))
    usage, size = worst.usage, worst.pool.size
    found = estimate_of(uses)
    needed = found.pool_size(size)
    sure = (
        f"which is enough for {100 * (1 - SHARE):g} % of the checkouts"
        if found.is_sure
        else f"or more: {found.checkouts:,} checkouts tell no more"
    )
    fix = f"Set {size_key(guarded, 'pool_size')} = {needed} (now {size}), {sure}"
    if worst.limit is not None:
        more = needed - worst.limit
        fix += (
            f"; see first that the server has room for {more} more per worker"
            if more > 0
            else "; flask pool advise says how much overflow the server has room for"
        )
    if worst.pool.has_auto_size:
        fix = capitalized(change_sizes(guarded, "raise", ""))
    if _waits(worst):
        return Finding(
            "warning" if usage.longest_wait_seconds >= _LONG_WAIT_SECONDS else "info",
            "pool-too-small",
            f"{usage.waits} of {worst.asked} checkouts of bind {guarded.bind!r} had to"
            f" wait, {usage.waited_seconds:.1f} s in all and"
            f" {usage.longest_wait_seconds:.2f} s at most, for one of {worst.limit}"
            f" connections ({in_worker(worst, such)})",
            fix + ".",
            "Requests wait for each other rather than for the database.",
        )
    return Finding(
        "info",
        "pool-too-small",
        f"{connections(worst.pool.closed.overflow or 0)} above the size of {size} were"
        f" opened and closed again in {worst.asked} checkouts of bind"
        f" {guarded.bind!r} ({in_worker(worst, such)})",
        fix + ".",
        "Each of them made a request wait for a connect.",
    )


def _waits(use: Use) -> bool:
    # That the demand was above the limit rules out who waits while the server is full.
    return (
        use.asked >= ENOUGH_CHECKOUTS
        and use.limit is not None
        and use.usage.waits > use.asked * _SHARE
        and use.share_needs(_SHARE) > use.limit
        and not _waits_for_budget(use.pool)
    )


def _waits_for_budget(pool: PoolStatus) -> bool:
    """Tell whether threads waited for a place of the budget, and not for the pool: it
    never had as many out as its sizes allow.
    """
    out = pool.peak_checked_out or 0
    return bool(pool.budget_file) and out < (pool.limit or 0)


def _churns(use: Use) -> bool:
    closed = use.pool.closed.overflow or 0
    return (
        use.asked >= ENOUGH_CHECKOUTS
        and bool(use.pool.size)
        and not use.pool.has_auto_size
        and closed >= max(_CHURN, use.asked * _SHARE_OF_CHURN)
        and use.share_needs(_SHARE) > (use.pool.size or 0)
    )


def _above_threads(guarded: Guarded, uses: Sequence[Use]) -> Finding | None:
    mature = [use for use in uses if use.is_mature]
    found = estimate_of(uses)
    could_use = max(found.need.most, *(use.could_use for use in uses))
    threads = max(use.usage.most_threads for use in uses)
    nesting = max(1, *(use.usage.nesting for use in uses))
    # More than the threads could use was wanted: then they do not tell how much it is.
    if not (mature and threads) or could_use > threads * nesting:
        return None
    # What is automatic is not set, and is never opened without a thread that asks.
    if guarded.tracker.facts.is_auto:
        return None
    if any(use.limit is None or use.limit <= could_use for use in uses):
        return None
    use = max(mature, key=lambda each: each.asked)
    size = use.pool.size or 0
    fitting = found.pool_size(size)
    return Finding(
        "info",
        "idle-threads",
        f"The pool of bind {guarded.bind!r} may have {connections(use.limit or 0)},"
        f" but {threads} {'thread' if threads == 1 else 'threads'} with"
        f" {connections(nesting)} at a time cannot use more than {could_use}"
        f" ({_after(use)})",
        f"Set {size_key(guarded, 'pool_size')} = {fitting} (now {size}) and"
        f" {size_key(guarded, 'max_overflow')} = {could_use - fitting} (now"
        f" {_overflow(use)}).",
        "The rest is never opened, but counts in every sum of what the server must"
        " have room for.",
    )


def _too_big(guarded: Guarded, uses: Sequence[Use]) -> Finding | None:
    mature = [use for use in uses if use.is_mature]
    if not mature or not all(
        use.pool.size
        and not use.pool.has_auto_size
        and use.peak * _PART_OF_SIZE <= use.pool.size
        for use in uses
    ):
        return None
    use = max(mature, key=lambda each: each.peak)
    size = estimate_of(uses).pool_size(use.pool.size)
    if size >= (use.pool.size or 0):
        return None
    return Finding(
        "info",
        "pool-too-big",
        f"Of the pool of bind {guarded.bind!r}, with a size of {use.pool.size}, no more"
        f" than {use.peak} were ever in use at once ({_after(use)})",
        f"Set {size_key(guarded, 'pool_size')} = {size} (now {use.pool.size});"
        " the overflow is for what comes beyond.",
        "After one burst the pool keeps as many connections open as its size allows,"
        " and others lack them.",
    )


def _overflow(use: Use) -> int:
    return max(use.pool.max_overflow or 0, 0)


def _after(use: Use) -> str:
    hours = use.age_seconds / 3600
    return f"worker {use.pid}, {use.asked} checkouts in {hours:.1f} h"
