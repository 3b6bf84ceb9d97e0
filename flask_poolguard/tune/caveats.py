"""What limits the meaning of a run's outcome."""

from __future__ import annotations

import statistics
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass

from .outcome import Outcome, Size
from .text import number

# Above these shares something is taken for fully used: with other processes about, and
# a switch now and then, it does not get nearer to 1.
_FULL_MACHINE: t.Final = 0.9
_FULL_CORE: t.Final = 0.85
# Below this share of its size a pool has connections that no thread wants.
_WANTED: t.Final = 0.7
# Rounds whose standard deviation is a larger share of their mean say little.
_UNSTEADY: t.Final = 0.15
# Fewer than these in all rounds of a size make a poor 95th percentile.
_FEW: t.Final = 100


@dataclass(frozen=True, slots=True)
class Caveat:
    """Something to know before the result is used.

    :ivar is_serious: whether it makes the result a lower bound, or doubtful.
    """

    code: str
    message: str
    is_serious: bool = True


def caveats_of(outcome: Outcome) -> list[Caveat]:
    """Return all that is to be said, the gravest first."""
    found = [
        *_interrupted(outcome),
        *_machine(outcome),
        *_rising(outcome),
        *_too_short(outcome),
        *_unsteady(outcome),
        *_statuses(outcome),
        *_unwanted(outcome),
        *_law(outcome),
    ]
    return sorted(found, key=lambda note: not note.is_serious)


def _interrupted(outcome: Outcome) -> Iterator[Caveat]:
    if not outcome.complete:
        rounds = min((len(each.rounds) for each in outcome.sizes), default=0)
        yield Caveat(
            "interrupted",
            f"The run was ended early: of {len(outcome.plan.sizes)} sizes"
            f" {len(outcome.sizes)} were measured, and not all of them in more than"
            f" {rounds} of {outcome.plan.rounds} rounds.",
        )


def _machine(outcome: Outcome) -> Iterator[Caveat]:
    """Tell whether a processor, and not the pool, set the limit."""
    plan = outcome.plan

    def own(size: Size) -> float:
        return size.process_cores * plan.processes / plan.cores

    def share(size: Size) -> float:
        return own(size) if size.machine_share is None else size.machine_share

    full = [size for size in outcome.sizes if share(size) >= _FULL_MACHINE]
    if full:
        most = max(full, key=share)
        rises = outcome.choice is not None and outcome.choice.still_rising
        effect = (
            "Without that limit the throughput may rise further: the size"
            if rises
            else "The curve may be flat for that reason; then the size"
        )
        yield Caveat(
            "machine",
            f"This machine had no processor left: {_sizes(full, 'with')}, up to"
            f" {share(most):.0%} of its {plan.cores} cores were in use,"
            f" {own(most):.0%} by the processes of this load. {effect} is a lower"
            " bound. Run this from a machine with more cores, and on which neither the"
            " database nor anything else runs.",
        )
        return
    full = [s for s in outcome.sizes if s.process_cores >= _FULL_CORE]
    if full:
        each = "The process" if plan.processes == 1 else "Each process"
        yield Caveat(
            "python",
            f"{each} used a whole core {_sizes(full, 'with')}: Python runs on one at"
            " a time, and there the code, not the pool, sets the limit. More"
            " processes would do more; larger pools would not.",
            is_serious=False,
        )


def _rising(outcome: Outcome) -> Iterator[Caveat]:
    choice, plan = outcome.choice, outcome.plan
    if outcome.is_threads_limit:
        yield Caveat(
            "threads",
            f"The throughput rose up to {outcome.largest} connections. A larger pool is"
            f" of no use to the {plan.threads} threads of a process; more threads may"
            " do more.",
            is_serious=False,
        )
    elif choice is not None and choice.still_rising:
        yield Caveat(
            "rising",
            f"The throughput was still rising at {outcome.largest}, the largest size"
            f" that was measured ({plan.limit}). The size is a lower bound.",
        )


def _too_short(outcome: Outcome) -> Iterator[Caveat]:
    plan = outcome.plan
    slow = [
        each
        for each in outcome.sizes
        if each.p95_seconds is None
        or each.p95_seconds > plan.warm_seconds(each.size) + plan.seconds / 2
    ]
    if slow:
        yield Caveat(
            "short",
            f"{_sizes(slow, 'With')} {plan.unit} took about as long as a step"
            f" ({plan.seconds:g} s), so what was measured there is still the start."
            " Take longer steps with --seconds, or fewer --threads.",
        )
        return
    few = [each for each in outcome.sizes if each.count < _FEW]
    if few:
        yield Caveat(
            "few",
            f"{_sizes(few, 'With')} fewer than {_FEW} {plan.unit} were measured. More"
            " --seconds or --rounds give a result that can be relied on.",
        )


def _unsteady(outcome: Outcome) -> Iterator[Caveat]:
    """Tell whether rounds of one size differ too much."""
    worst = max(
        (
            (statistics.stdev(each.rounds) / each.per_second, each)
            for each in outcome.sizes
            if len(each.rounds) > 1 and each.per_second
        ),
        key=lambda pair: pair[0],
        default=None,
    )
    if worst is not None and worst[0] > _UNSTEADY:
        rounds = worst[1].rounds
        yield Caveat(
            "unsteady",
            f"With size {worst[1].size} the rounds measured from"
            f" {number(min(rounds))} to {number(max(rounds))} {outcome.plan.unit}/s:"
            " something else uses this machine or the database. More --rounds, or a"
            " quieter hour, give a narrower range.",
        )


def _statuses(outcome: Outcome) -> Iterator[Caveat]:
    for (position, status), count in sorted(outcome.statuses.items()):
        work = outcome.plan.works[position]
        if 400 <= status < 500:
            yield Caveat(
                "client-error",
                f"{work} answered {status} ({count:,} times): what was measured is"
                " that error.",
            )
        elif 300 <= status < 400:
            yield Caveat(
                "redirect",
                f"{work} answered {status} ({count:,} times): what was measured is"
                " that redirect, perhaps to a login.",
            )


def _unwanted(outcome: Outcome) -> Iterator[Caveat]:
    """Tell whether larger pools had connections that no thread used."""
    if not outcome.sizes:
        return
    last = outcome.sizes[-1]
    if last.busy < _WANTED * last.size:
        yield Caveat(
            "unused",
            f"Of {last.size} connections {last.busy:.1f} were in use on average, by"
            f" {outcome.plan.threads} threads: they spend the rest of their time"
            " without one, so a larger pool is of use to more threads only.",
            is_serious=False,
        )


def _law(outcome: Outcome) -> Iterator[Caveat]:
    choice = outcome.choice
    if choice is not None and not choice.by_law:
        yield Caveat(
            "law",
            f"The curve misses a measured point by {choice.law_error:.0%}, which is no"
            " chance: the throughput stops rising all at once, as where a fixed number"
            " of queries run at a time, or bends otherwise than the law. The size is"
            " chosen by the points.",
            is_serious=False,
        )


def _sizes(sizes: list[Size], word: str = "") -> str:
    """Return ``size 4``, or ``sizes 4 to 24``, with a word before it."""
    numbers = [each.size for each in sizes]
    text = (
        f"size {numbers[0]}"
        if len(numbers) == 1
        else f"sizes {numbers[0]} to {numbers[-1]}"
    )
    return f"{word} {text}".strip()
