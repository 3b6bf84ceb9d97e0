"""Settings as text, and the verdict on them."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Sequence

from ..report.effective_settings import (
    RESTART,
    Effective,
    EffectiveBind,
    EffectiveConfig,
    unit_of,
)
from ..report.phrases import binds
from ..report.phrases import workers as number_of_workers
from ..report.text import NONE, Page, visible
from ..report.verdict import Verdict
from .findings_view import levelled, other_sizes, verdict_lines

# So many of the places that set something are named.
_MOST_NAMED: t.Final = 3


def verdict_on(config: EffectiveConfig) -> Verdict:
    """Return in one line whether all is as it was configured, and by what."""
    if config.differences:
        text = config.differences[0].removesuffix(f". {RESTART}")
        return Verdict("warning", f"{text[0].lower()}{text[1:]} (other-sizes)")
    if config.without_effect:
        number = len(config.without_effect)
        more = f", {number - 1} more without effect" if number > 1 else ""
        text = config.without_effect[0].partition(". ")[0]
        return Verdict("warning", f"{text} (without-effect{more})")
    if not config.binds:
        return Verdict("unknown", "no bind is known to Flask-PoolGuard in this app")
    return Verdict(
        "ok",
        f"{binds(len(config.binds))} as configured: {_sources(config.set_by)};"
        f" {_who_agrees(len(config.workers))}",
    )


def _sources(set_by: Sequence[str]) -> str:
    if not set_by:
        return "all settings are defaults"
    named = ", ".join(set_by[:_MOST_NAMED])
    more = len(set_by) - _MOST_NAMED
    others = f" and {more} more" if more > 0 else ""
    return f"settings from {named}{others}, the others are defaults"


def _who_agrees(workers: int) -> str:
    if not workers:
        return "no live worker to compare with"
    return (
        f"{number_of_workers(workers)} {'runs' if workers == 1 else 'run'} with these"
        " sizes"
    )


def render(config: EffectiveConfig, page: Page) -> str:
    """Return what is not as configured, and all settings."""
    sections = [
        [
            *verdict_lines(verdict_on(config), page),
            *page.wrap(f"{config.app}: settings in force"),
        ],
        list(_findings(config, page)),
        ["All binds", *_table(config.settings, page)],
        *(list(_bind(each, page)) for each in config.binds),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _bind(bind: EffectiveBind, page: Page) -> Iterator[str]:
    yield from page.wrap(f"{bind.bind}: {bind.url}, {bind.pool_class}", rest="  ")
    for line, setting in _rows(bind.settings, page):
        yield line
        if setting.name == "pool_recycle":
            yield from _recycle(bind, page)
        elif setting.name == "max_overflow":
            yield from _sizes(bind, page)


def _sizes(bind: EffectiveBind, page: Page) -> Iterator[str]:
    """Yield what automatic sizes are at the live workers."""
    for each in bind.sizes:
        text = (
            f"pool_size {each.pool_size}, max_overflow {each.max_overflow} in"
            f" {number_of_workers(len(each.workers))}"
        )
        yield from page.wrap(text, "    now ", "        ")


def _recycle(bind: EffectiveBind, page: Page) -> Iterator[str]:
    """Yield what the live workers made of the setting."""
    for each in bind.recycle:
        number = len(each.workers)
        value = "none" if each.seconds is None else f"{each.seconds:g} s"
        source = f" ({each.source})" if each.source else ""
        text = f"{value} in {number} {'worker' if number == 1 else 'workers'}{source}"
        yield from page.wrap(text, "    now ", "        ")


def _table(settings: Sequence[Effective], page: Page) -> list[str]:
    return [line for line, _ in _rows(settings, page)]


def _rows(settings: Sequence[Effective], page: Page) -> Iterator[tuple[str, Effective]]:
    """Yield lines, each with its setting; the last line of several is its own."""
    names = max(len(each.name) for each in settings)
    values = max(len(_value(each)) for each in settings if len(_value(each)) <= 16)
    for each in settings:
        first = f"  {each.name:<{names}}  {visible(_value(each)):<{values}}  "
        rest = " " * (names + values + 6)
        lines = page.wrap(each.origin, first, rest)
        yield "\n".join(lines), each


def _value(setting: Effective) -> str:
    if not setting.in_force:
        return NONE
    value = setting.value
    if value is None:
        return "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text + unit_of(setting.name, value)


def _findings(config: EffectiveConfig, page: Page) -> Iterator[str]:
    yield from other_sizes(config.differences, page)
    for each in config.without_effect:
        yield from levelled("warning", f"without-effect: {each}", page)
