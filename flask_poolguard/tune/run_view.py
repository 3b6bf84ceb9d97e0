"""A run's outcome as text, and the verdict on it."""

from __future__ import annotations

import typing as t

import click

from ..report.text import NONE, Page, columns, duration
from ..report.verdict import Verdict
from .caveats import caveats_of
from .choice import TOLERANCE, Choice
from .outcome import Outcome, Size
from .planning import FEWEST_SIZES, RunPlan
from .text import count, latency, number, share

_HEADINGS: t.Final = ("SIZE", "PER SECOND", "P50", "P95", "BUSY", "CPU")


def verdict_on(outcome: Outcome) -> Verdict:
    """Return in one line which size is enough, or why that is not known."""
    choice = outcome.choice
    if choice is None:
        measured = sum(each.per_second > 0 for each in outcome.sizes)
        return Verdict(
            "unknown",
            f"no size can be chosen: {count(measured, 'size')} of"
            f" {len(outcome.plan.sizes)} did any work, and it takes {FEWEST_SIZES}",
        )
    text = headline(outcome, choice).removesuffix(".")
    doubts = [note.code for note in caveats_of(outcome) if note.is_serious]
    if doubts:
        return Verdict("warning", f"{text} ({', '.join(doubts)})")
    return Verdict("ok", text)


def render(outcome: Outcome, page: Page) -> str:
    """Return what follows the verdict: the line to write, what limits the result, what
    was run, and a table.
    """
    choice = outcome.choice
    sections = [
        [] if choice is None else page.wrap(setting(outcome.plan, choice), "  ", "  "),
        _caveats(outcome, page),
        _headline(outcome.plan, page),
        _table(outcome, page),
        [] if choice is None else page.wrap(in_words(outcome, choice)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def announce(plan: RunPlan, page: Page) -> str:
    """Return what is going to happen, and how long it takes."""
    text = (
        f"{plan.app}: {len(plan.sizes)} pool sizes from {plan.sizes[0]} to"
        f" {plan.sizes[-1]}, {count(plan.rounds, 'round')} of {plan.seconds:g} s each,"
        f" with {_threads(plan)} per process; about"
        f" {duration(plan.total_seconds)}. Ctrl-C ends it."
    )
    return "\n".join(page.wrap(text))


def warning(plan: RunPlan) -> str:
    """Return what would happen to a database that is not there for tests."""
    works = "; ".join(str(work) for work in plan.works)
    most = max(plan.sizes) * plan.processes
    return (
        f"The app {plan.app!r} is not in debug mode, so {plan.url} may be a database"
        f" that others work with. {count(plan.processes, 'process')} of"
        f" {count(plan.threads, 'thread')} would run as fast as they can, for"
        f" {duration(plan.total_seconds)} or longer, over up to"
        f" {count(most, 'connection')}: {works}. All others that use the database"
        " would notice. To run it all the same, add --yes-load-this-database; else run"
        " it on a copy, with flask --debug."
    )


def _headline(plan: RunPlan, page: Page) -> list[str]:
    lines = page.wrap(
        f"{plan.app}: {count(plan.processes, 'process')} of {_threads(plan)},"
        f" {count(plan.rounds, 'round')} of {plan.seconds:g} s per size"
    )
    lines += page.wrap(
        f"{plan.bind}: {plan.url}, {plan.server or 'an unknown server'}",
        "  ",
        "    ",
    )
    total = sum(work.weight for work in plan.works)
    for work in plan.works:
        part = "" if len(plan.works) == 1 else f"{work.weight / total:4.0%} "
        lines += page.wrap(f"{part}{work}", "  ", "    ")
    return lines


def _threads(plan: RunPlan) -> str:
    """Return how many threads send requests, and who says so."""
    text = count(plan.threads, "thread")
    return f"{text} (as a live worker has)" if plan.threads_from == "workers" else text


def _table(outcome: Outcome, page: Page) -> list[str]:
    rates = [number(each.per_second) for each in outcome.sizes]
    width = max(map(len, rates), default=0)
    rows = [
        [
            str(each.size),
            f"{rate:>{width}} ({_spread(each)})",
            latency(each.p50_seconds),
            latency(each.p95_seconds),
            f"{each.busy:.1f}",
            share(each.machine_share),
        ]
        for rate, each in zip(rates, outcome.sizes, strict=True)
    ]
    return list(columns(_HEADINGS, rows, page)) if rows else []


def _spread(size: Size) -> str:
    low, high = number(min(size.rounds)), number(max(size.rounds))
    return low if low == high else f"{low}{NONE}{high}"


def headline(outcome: Outcome, choice: Choice) -> str:
    """Return the result in one sentence."""
    plan = outcome.plan
    most = choice.size * plan.processes
    rate = (
        f"{number(choice.throughput)} {plan.unit}/s with {count(most, 'connection')}"
        f" in {count(plan.processes, 'process')}"
    )
    if outcome.is_threads_limit:
        return (
            f"pool_size {choice.size} is enough{_range(choice)}: {rate}, and"
            f" {_threads(plan)} use no more than {plan.threads}."
        )
    if choice.still_rising:
        # The range, too, ends at the largest size that was measured.
        return (
            f"It takes pool_size {choice.size} or more: {rate}, and the throughput was"
            f" still rising at {outcome.largest}, the largest size measured. Where it"
            " ends is not known."
        )
    return (
        f"pool_size {choice.size} is enough{_range(choice)}: {rate}, within"
        f" {TOLERANCE:.0%} of the most."
    )


def setting(plan: RunPlan, choice: Choice) -> str:
    """Return the line of configuration that sets it."""
    if plan.bind == "default":
        return f"POOLGUARD_POOL_SIZE = {choice.size}"
    return f'POOLGUARD_BINDS = {{"{plan.bind}": {{"pool_size": {choice.size}}}}}'


def in_words(outcome: Outcome, choice: Choice) -> str:
    """Return what the law's parameters say."""
    law, plan = choice.law, outcome.plan
    begin = "The law" if choice.by_law else "The law, which fits only roughly here"
    text = (
        f"{begin}: one connection alone does {number(law.rate)} {plan.unit}/s"
        f" (λ); {law.contention:.1%} of the work waits for its turn (σ, contention);"
        f" each pair of connections costs {law.coherency:.2%} (κ, coherency)"
    )
    best = law.best
    if not choice.by_law:
        return f"{text}."
    if best is None or best > outcome.largest * plan.processes:
        return f"{text}, which sets no peak within what was measured."
    return f"{text}, so that more than {number(best)} connections do less."


def _range(choice: Choice) -> str:
    if choice.low is None or choice.high is None:
        return ""
    if choice.low == choice.high:
        return f" (95% range: {choice.low})"
    return f" (95% range: {choice.low} to {choice.high})"


def _caveats(outcome: Outcome, page: Page) -> list[str]:
    lines: list[str] = []
    for note in caveats_of(outcome):
        level = "WARNING" if note.is_serious else "NOTE"
        first, *rest = page.wrap(f"{level} {note.message}", "  ", "    ")
        styled = click.style(
            level, fg="yellow" if note.is_serious else "cyan", bold=True
        )
        lines += [first.replace(level, styled, 1), *rest]
    return ["To know", *lines] if lines else []
