"""Recommended sizes as text, and the verdict on the present ones."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Sequence

from ..report.advice_model import Advice, BindAdvice
from ..report.text import UNKNOWN, Page, duration
from ..report.verdict import Verdict, VerdictLevel
from .advise_budget import keeps_too_many, within_budget
from .advise_lines import lines_to_copy
from .findings_view import other_sizes, verdict_lines

# So many binds are named in the verdict.
_MOST_BINDS: t.Final = 3


def verdict_on(advice: Advice) -> Verdict:
    """Return in one line what to set, per bind, worst first. The command ends with 1 if
    it is critical or unknown.
    """
    binds = sorted(advice.binds, key=_rank)
    texts = [_in_short(each) for each in binds[:_MOST_BINDS]]
    if len(binds) > _MOST_BINDS:
        texts.append(f"{len(binds) - _MOST_BINDS} more below")
    if not advice.live_workers:
        texts = [f"no live worker on host {advice.host}, so no advice"]
    elif not binds:
        texts = ["no bind is known to Flask-PoolGuard in this app"]
    advised = [each for each in binds if each.refusal is None]
    if any(not each.is_sure for each in advised):
        texts.append("ask again after a busy hour")
    return Verdict(_level(advice, advised), "; ".join(texts))


def _level(advice: Advice, advised: Sequence[BindAdvice]) -> VerdictLevel:
    if not advised and not any(each.is_auto for each in advice.binds):
        return "unknown"
    if any(each.is_short for each in advised):
        return "critical"
    if advice.differences or any(
        each.is_too_small or each.keeps_too_many for each in advised
    ):
        return "warning"
    return "ok"


def _rank(each: BindAdvice) -> int:
    """Return the order of binds: those that need most come first."""
    order = (
        each.is_short,
        each.is_too_small or each.keeps_too_many,
        each.changes,
        each.refusal is not None,
    )
    return next((place for place, is_so in enumerate(order) if is_so), len(order))


def _in_short(each: BindAdvice) -> str:
    """Return what to do about one bind."""
    if each.is_auto:
        return f"{each.bind} follows its demand: {each.refusal}"
    if each.refusal is not None:
        return f"no advice on {each.bind}: {each.refusal}"
    text = " and ".join(
        f"{name} {new} (now {_number(now)})" for name, now, new in each.changes
    )
    if each.is_short:
        return (
            f"{each.room_of or 'the server'} has too little room for {each.bind}, which"
            f" needs {_needed(each)} per worker and gets {each.pool_size}"
        )
    text = (
        f"set {text} of {each.bind}"
        if text
        else f"{each.bind} fits: pool_size {_number(each.pool_size)},"
        f" max_overflow {_number(each.present_overflow)}"
    )
    if each.keeps_too_many:
        text += (
            f"; its workers keep {each.budget_kept} connections, above the budget of"
            f" {each.budget}"
        )
    return text if each.is_sure else f"{text}; {_basis(each)}"


def _needed(each: BindAdvice) -> str:
    low, high = each.low or 1, each.high
    if low == high:
        return f"{low}"
    return f"{low} or more" if high is None else f"{low} to {high}"


def _basis(each: BindAdvice) -> str:
    """Return what a range is based on."""
    number, seen = each.seen.checkouts, each.seen
    checkouts = "1 checkout" if number == 1 else f"{number:,} checkouts"
    took = duration(seen.hours * 3600 / max(seen.workers, 1))
    return f"it needs {_needed(each)}, from {checkouts} in {took}"


def render(advice: Advice, page: Page) -> str:
    """Return the whole advice: what to write, then the reasons."""
    sections = [
        [*verdict_lines(verdict_on(advice), page), *page.wrap(_headline(advice))],
        other_sizes(advice.differences, page),
        lines_to_copy(advice, page),
    ]
    sections += [
        [
            *page.wrap(f"{each.bind}: {each.url}", rest="  "),
            *_bind(each, advice, page),
        ]
        for each in advice.binds
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _headline(advice: Advice) -> str:
    number = advice.live_workers
    if not number:
        return f"{advice.app}: no size is changed"
    return (
        f"{advice.app}: sizes by what {_workers(number)} on host {advice.host} needed"
        " so far"
    )


def _bind(each: BindAdvice, advice: Advice, page: Page) -> Iterator[str]:
    seen = each.seen
    if each.is_auto:
        yield from page.wrap(
            f"{each.refusal}. Its sizes follow these figures by themselves.",
            "  ",
            "    ",
        )
        if seen.checkouts:
            for text in _reasons(each):
                yield from page.wrap(text, "    ", "      ")
        return
    if each.refusal is not None:
        yield from page.wrap(f"No advice: {each.refusal}.", "  ", "    ")
        # Of a pool of another class no traffic tells what it needs, nor does a test.
        if each.pool_class == "GuardedPool":
            yield from page.wrap(
                "Come back when there was some traffic, or have it made by flask pool"
                " tune.",
                "  ",
                "    ",
            )
        if seen.peak:
            yield from page.wrap(f"The most out at a time: {seen.peak}.", "  ")
        return
    for text in _sizes(each, advice):
        yield from page.wrap(text, "  ", "    ")
    for text in _reasons(each):
        yield from page.wrap(text, "    ", "      ")


def _sizes(each: BindAdvice, advice: Advice) -> Iterator[str]:
    seen = each.seen
    why = (
        f"{each.beyond:,} of {seen.checkouts:,} checkouts"
        f" ({_percent(each.beyond or 0, seen.checkouts)},"
        f" {_rate(each.beyond_per_hour)} an hour) wanted more at a time"
        if each.is_sure
        else f"{_basis(each)} of {_workers(seen.workers)}."
        f" {_more_traffic(each, advice)}"
    )
    yield f"pool_size {_change(each.present_size, each.pool_size)}: {why}"
    if each.max_overflow is None:
        yield (
            f"max_overflow {_number(each.present_overflow)}: no advice, it is not known"
            f" how many connections are left: {each.room_unknown}"
        )
    elif not each.may_lower and each.max_overflow == each.present_overflow:
        yield (
            f"max_overflow {each.max_overflow} stays: so few checkouts make nothing"
            f" smaller{_server(each, advice)}"
        )
    else:
        total = (each.pool_size or 0) + each.max_overflow
        yield (
            f"max_overflow {_change(each.present_overflow, each.max_overflow)}: with"
            f" it {total}; {_use(each)}{_server(each, advice)}"
        )


def _more_traffic(each: BindAdvice, advice: Advice) -> str:
    """Return how much more traffic makes the range one number."""
    seen, needed = each.seen, advice.checkouts_needed
    hours = (needed - seen.checkouts) * seen.hours / seen.workers / seen.checkouts
    return (
        f"One number takes {needed:,} checkouts, at this rate"
        f" {duration(hours * 3600)} more; ask again after a busy hour"
    )


def _reasons(each: BindAdvice) -> Iterator[str]:
    seen = each.seen
    yield (
        f"Seen in {_hours(seen.hours)} of {_workers(seen.workers)}: at most"
        f" {_number(seen.peak)} out at a time, {seen.connects:,} connects"
        + (f", {seen.timeouts:,} timeouts." if seen.timeouts else ".")
    )
    if each.busiest_size is not None and each.busiest_size > (each.pool_size or 0):
        yield f"Worker {each.busiest_worker} alone would want {each.busiest_size}."
    if seen.waits:
        yield (
            f"{seen.waits:,} checkouts waited, {duration(seen.longest_wait_seconds)} at"
            " most. Those who waited are counted as wanting, so this is an upper bound:"
            " with more connections each has to wait for less. Ask again after the"
            " change."
        )
    if each.is_short:
        name = each.room_of or "the server"
        yield (
            f"{name[0].upper()}{name[1:]} has too little room: raise"
            f" {each.room_remedy or 'its max_connections'}, or start fewer"
            f" {'threads' if each.budget is not None else 'workers or threads'}."
        )
    if each.keeps_too_many:
        yield keeps_too_many(each)
    if each.fewest is not None and each.fewest > 1:
        yield _nesting(each, each.fewest)


def _nesting(each: BindAdvice, fewest: int) -> str:
    """Return what it takes where one request has several, as doctor's finding does."""
    seen, size = each.seen, each.pool_size or 0
    text = (
        f"One request takes {seen.nesting} connections at once: {seen.threads} threads"
        f" that do so need {seen.threads} × ({seen.nesting} - 1) + 1 = {fewest}"
    )
    if fewest > size + (each.max_overflow or 0):
        return (
            f"{text}. With fewer, when all are held by requests that each wait for one"
            " more, none can go on: one of them is refused with PoolDeadlock. Let a"
            " request use one at a time."
        )
    if fewest < size:
        return (
            f"{text} so that one of them always gets on. More were wanted at a time:"
            f" hence {size}. To need fewer, let it take one at a time."
        )
    return (
        f"{text} so that one of them always gets on. To need fewer, let it take one at"
        " a time."
    )


def _use(each: BindAdvice) -> str:
    """Return how many connections the threads can use."""
    seen = each.seen
    threads = f"{seen.threads} thread{'' if seen.threads == 1 else 's'}"
    a_thread = "" if seen.threads == 1 else " each"
    return f"{threads} with {seen.nesting}{a_thread} can use {each.most}"


def _server(each: BindAdvice, advice: Advice) -> str:
    if each.room is None:
        return "" if each.has_limit else ", and the database has no limit"
    if each.budget is not None:
        return f", {within_budget(each)}"
    among = "" if advice.workers == 1 else f" for each of {advice.workers} workers"
    kept = f", besides {each.kept} of pools that keep their size" if each.kept else ""
    return f", and {each.room_of or 'the server'} has room for {each.room}{among}{kept}"


def _change(before: int | None, after: int | None) -> str:
    if before == after:
        return f"{_number(after)} stays"
    return f"{_number(before)} → {_number(after)}"


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2g} %"


def _rate(per_hour: float | None) -> str:
    if not per_hour:
        return UNKNOWN if per_hour is None else "0"
    if 0 < per_hour < 0.1:
        return "less than 0.1"
    return f"{per_hour:,.0f}" if per_hour >= 10 else f"{per_hour:.1f}"


def _hours(hours: float) -> str:
    return duration(hours * 3600)


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"
